"""`tailcut report`: one or more networks on an HTML page."""

import argparse
import shlex
import sys

from tailcut.cli.parser import Commands, add_command, add_data_roots, call
from tailcut.printing import Report

NUM_SAMPLES = 12


def add_parser(commands: Commands) -> None:
    parser = add_command(
        commands,
        "report",
        summary="write a page about runs and networks: figures, curves, corners, bytes, samples, speed",
        description="Write one HTML page about run folders, .tailcut files or networks of the zoo: results beside the "
        "paper's, training curves, kept corners, spectra of the weights, bytes per layer, sample predictions, and the "
        "speed here. It needs no other file and no network connection. Needs the extra 'plots'.",
        example="  tailcut report runs/lenet5-776 runs/lenet5-ref -o report.html\n"
        "  tailcut report zoo:lenet5-776 --data mnist -o report.html",
        run=run,
    )
    parser.add_argument("networks", nargs="+", metavar="RUN", help="a run folder, a .tailcut file or zoo:NAME")
    parser.add_argument("-o", "--out", required=True, metavar="OUT", help="the HTML file to write")
    parser.add_argument("--data", metavar="NAME", help="the data set of the samples (default: that of each recipe)")
    parser.add_argument("--split", metavar="NAME", help="its split (default: the test split)")
    parser.add_argument(
        "--num-samples", type=int, default=NUM_SAMPLES, metavar="N", help=f"images per network (default: {NUM_SAMPLES})"
    )
    add_data_roots(parser)


def run(arguments: argparse.Namespace) -> Report:
    from tailcut.tasks.report import write_page

    return call(write_page, arguments, command=shlex.join(["tailcut", *sys.argv[1:]]))
