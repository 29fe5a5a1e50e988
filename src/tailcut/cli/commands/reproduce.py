"""`tailcut reproduce`: a paper's table, trained on this machine."""

import argparse
import shlex
import sys
from pathlib import Path

from tailcut.cli.parser import Commands, add_command, add_data_roots, call
from tailcut.printing import Report


def add_parser(commands: Commands) -> None:
    parser = add_command(
        commands,
        "reproduce",
        summary="train the rows of a paper's table and show them beside the paper's",
        description="Train the rows of a paper's table that have no result yet, resume those that are not finished, "
        "and show the paper's figures beside ours. Rows without a run of yours show the result that comes with "
        "Tailcut, and are not trained; with --no-records they are. Rows whose data are missing, or whose training "
        "diverges, say 'not run'.",
        example="  tailcut reproduce table1 --show\n  tailcut reproduce cfdp --only resnet56 --runs runs",
        run=run,
    )
    parser.add_argument("table", metavar="TABLE", help="table1 to table5, lfd or cfdp")
    parser.add_argument("--show", action="store_true", help="train nothing, only show the table")
    parser.add_argument(
        "--runs", type=Path, default=Path("runs"), metavar="DIR", help="the folder of run folders (default: runs)"
    )
    parser.add_argument(
        "--no-records", action="store_true", help="ignore the results that come with Tailcut: train those rows too"
    )
    parser.add_argument("--only", action="append", metavar="NAME", help="this row only; may be repeated")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write the table as Markdown as well")
    add_data_roots(parser)


def run(arguments: argparse.Namespace) -> Report:
    from tailcut.tasks.reproduce import reproduce

    return call(reproduce, arguments, command=shlex.join(["tailcut", *sys.argv[1:]]))
