"""`tailcut prune`: removes the least important channels of a network."""

from tailcut.channels.scoring.score import METHODS
from tailcut.cli.parser import DTYPES, Commands, Parser, add_command, add_device, add_images, add_network


def add_parser(commands: Commands) -> None:
    parser = add_command(
        commands,
        "prune",
        summary="remove the channels of a network that matter least",
        description="Remove the channels with the lowest scores from a network, dependent ones together, and write the "
        "narrower network, to be fine-tuned. What could not be pruned is listed with the reason.",
        example="  tailcut prune resnet56-cifar10.th --model resnet56 --set-argument normalize=true --data cifar10 "
        "--rates paper -o slim.tailcut\n"
        "  tailcut prune slim.tailcut --scores scores.json --macs-ratio 0.5 -o slimmer.tailcut",
        run="tailcut.tasks.prune:prune_file",
    )
    add_network(parser)
    parser.add_argument("-o", "--out", required=True, metavar="OUT", help="the .tailcut file to write")
    _add_amount(parser)
    parser.add_argument(
        "--scores",
        metavar="SCORES",
        help="the JSON file of tailcut score, or a folder of .npy files that "
        "HRank, CHIP or CFDP published for this network; scored now if not given",
    )
    parser.add_argument(
        "--method", choices=METHODS, help="the score without --scores, see tailcut score (default: spectral)"
    )
    add_images(parser)
    _add_limits(parser)
    parser.add_argument(
        "--recalibrate", action="store_true", help="measure the statistics of batch norm again after the cut, on --data"
    )
    parser.add_argument(
        "--dtype",
        choices=DTYPES,
        help="number type of the file; by default that of FILE, if it has float16 or bfloat16 alone",
    )
    add_device(parser)


def _add_amount(parser: Parser) -> None:
    """Add --rates, --macs-ratio and --params-ratio, of which one is needed."""
    amount = parser.add_mutually_exclusive_group(required=True)
    amount.add_argument(
        "--rates",
        type=rates,
        metavar="R",
        help="part of the channels to remove: one number for all layers; a list with commas, by group of layers; paper "
        "for the paper's list; extended for about half of the MACs of resnet56",
    )
    amount.add_argument(
        "--macs-ratio",
        type=float,
        metavar="R",
        help="prune by one ranking of all channels until this part of the MACs is left",
    )
    amount.add_argument("--params-ratio", type=float, metavar="R", help="the same for the parameters")


def _add_limits(parser: Parser) -> None:
    """Add --ignore, --min-channels, --round-to and --max-rate."""
    parser.add_argument(
        "--ignore",
        action="append",
        default=[],
        metavar="PATTERN",
        help="layers that keep their channels, such as 'layer3.*'; may be repeated",
    )
    parser.add_argument(
        "--min-channels", type=int, default=1, metavar="N", help="the fewest channels that a layer keeps (default: 1)"
    )
    parser.add_argument(
        "--round-to", type=int, default=1, metavar="N", help="layers keep a multiple of N channels (default: 1)"
    )
    parser.add_argument(
        "--max-rate", type=float, default=1.0, metavar="R", help="the largest part of a layer's channels to remove"
    )


def rates(text: str) -> float | str | tuple[float, ...]:
    """Parse a number, comma-separated numbers ("0.3," is a list of one), or a name."""
    if "," in text:
        return tuple(map(float, text.strip().removesuffix(",").split(",")))
    try:
        return float(text)
    except ValueError:
        return text
