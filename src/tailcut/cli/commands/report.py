"""`tailcut report`: one or more networks on an HTML page."""

import argparse
import shlex
import sys
from typing import TYPE_CHECKING

from tailcut.cli.parser import Commands, add_command, add_data_roots
from tailcut.printing import Report

if TYPE_CHECKING:
    from torch import nn

    from tailcut.reports.html.samples import Shown
    from tailcut.reports.networks import ReportedNetwork

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
    from tailcut.errors import ArgumentError
    from tailcut.reports.html.output_paths import check_out
    from tailcut.reports.html.page import write_report
    from tailcut.reports.networks import reported_networks

    if arguments.num_samples < 0:
        raise ArgumentError(f"--num-samples must be at least 0, got {arguments.num_samples}")
    check_out(arguments.out, arguments.networks)
    networks = reported_networks(arguments.networks)
    samples = {network.name: _samples(network, arguments) for network in networks}
    command = shlex.join(["tailcut", *sys.argv[1:]])
    return write_report(networks, samples, arguments.out, command=command)


def _samples(network: "ReportedNetwork", arguments: argparse.Namespace) -> "Shown":
    """Return the network's samples on its data set or of random codes, or the reason why there are none."""
    from tailcut.evaluation.generation import GENERATORS, Sampler, latent_codes
    from tailcut.reports.html.samples import Generated

    if network.model is None:
        return network.missing["model"]
    if arguments.num_samples == 0:
        return "none were asked for"
    if isinstance(network.model, GENERATORS):
        sampler = Sampler(network.model)
        return Generated(sampler(latent_codes(sampler, arguments.num_samples, seed=0)), sampler.code_size)
    recipe = network.recipe_section("data")
    name, split = arguments.data or recipe.get("name"), arguments.split
    if name is None:
        return "its data set is unknown: name one with --data"
    if split is None and arguments.data is None:
        split = recipe.get("test_split")
    return _predicted(network.model, name, split, arguments)


def _predicted(model: "nn.Module", name: str, split: str | None, arguments: argparse.Namespace) -> "Shown":
    """Return the network's predictions on this data set, or the reason why there are none."""
    from tailcut.data import open_dataset
    from tailcut.errors import ArgumentError, DataError, DataNotFoundError, MissingExtraError
    from tailcut.evaluation.samples import predict_samples
    from tailcut.reports.html.samples import Sample, Samples

    try:
        dataset = open_dataset(name, split, roots=arguments.roots, download=arguments.download)
    except (DataNotFoundError, MissingExtraError) as error:
        return " ".join(f"the data set was not found: {error}".split())
    except DataError as error:
        return f"the data set is damaged: {error}"
    except ArgumentError as error:
        if arguments.data or arguments.split:  # what was asked for, not what the network's recipe says
            raise
        return str(error)
    try:
        found = [Sample(*values) for values in predict_samples(model, dataset, arguments.num_samples)]
    except ArgumentError as error:
        return str(error)
    except DataError as error:
        return f"the data set is damaged: {error}"
    return Samples(dataset.name, dataset.split, dataset.class_names, found)
