"""`tailcut compress`: a trained network in a small file, without training."""

import argparse
import logging

from tailcut.cli.parser import (
    Commands,
    Parser,
    add_command,
    add_data_roots,
    add_device,
    add_levels,
    add_network,
    add_reading,
    add_workers,
    call,
    num_bytes,
    seed,
)
from tailcut.errors import ArgumentError
from tailcut.printing import Report

logger = logging.getLogger(__name__)

FEWEST_POINTS = 0.05  # fewer are likely meant as a part of one, as in Python


def add_parser(commands: Commands) -> None:
    parser = add_command(
        commands,
        "compress",
        summary="write a trained network to a small file, without training",
        description="Quantise the numbers of a trained network, truncated or not, and code them in a few bits each. "
        "Training images show how much each number matters; weights, biases and batch norm's statistics are fitted "
        "to the rounding of the layers before them. Give the size of the file, or how far the metric may fall.",
        example="  tailcut compress zoo:lenet5-776 -o lenet5.tailcut --data mnist --max-bytes 640\n"
        "  tailcut compress resnet20-cifar10.th --model resnet20 --set-argument normalize=true --data cifar10 "
        "--max-drop 0.5 -o resnet20.tailcut",
        run=run,
    )
    add_network(parser)
    parser.add_argument("-o", "--out", required=True, metavar="FILE", help="the .tailcut file to write")
    parser.add_argument("--data", required=True, metavar="NAME", help="the data set that the network was trained on")
    add_data_roots(parser)
    add_workers(parser)
    add_reading(parser)
    _add_goal(parser)
    add_levels(parser)
    parser.add_argument(
        "--num-gradients",
        type=int,
        metavar="N",
        help="gradients of 8 images that measure how much each number matters (default: by the network, 100 to 4,000)",
    )
    parser.add_argument(
        "--num-held-out", type=int, default=1000, metavar="N", help="images held out for --max-drop (default: 1000)"
    )
    parser.add_argument(
        "--test-split", default="", metavar="NAME", help="the split to evaluate at the end (default: the test split)"
    )
    parser.add_argument(
        "--no-test", dest="test_split", action="store_const", const=None, help="evaluate nothing at the end"
    )
    parser.add_argument("--seed", type=seed, default=0, metavar="N", help="seed that chooses the images (default: 0)")
    add_device(parser)


def _add_goal(parser: Parser) -> None:
    """Add --max-bytes, --max-drop and --step, of which one is needed."""
    amount = parser.add_mutually_exclusive_group(required=True)
    amount.add_argument("--max-bytes", type=num_bytes, metavar="SIZE", help="at most so many bytes: 640, 64KB, 1.5MiB")
    amount.add_argument(
        "--max-drop",
        type=percentage_points,
        metavar="POINTS",
        help="at most so many percentage points worse, on training images held out: 0.5, or 0.5%%",
    )
    amount.add_argument(
        "--step",
        type=float,
        metavar="S",
        help="size of the steps: 1 makes each number's error worth about a twelfth of a unit of the loss",
    )


def run(arguments: argparse.Namespace) -> Report:
    from tailcut.tasks.compress import compress_file

    points = arguments.max_drop
    if points is not None and not 0 <= points <= 100:
        raise ArgumentError(f"--max-drop must be 0 to 100 percentage points, got {points:g}")
    if points is not None and 0 < points < FEWEST_POINTS:
        logger.warning("--max-drop is in percentage points: %g is %g %%, not %g %%", points, points, 100 * points)
    return call(compress_file, arguments, max_drop=None if points is None else points / 100)


def percentage_points(text: str) -> float:
    """Parse a number of percentage points, with the sign or without it."""
    try:
        return float(text.strip().removesuffix("%"))
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected percentage points such as 0.5, got {text!r}") from None
