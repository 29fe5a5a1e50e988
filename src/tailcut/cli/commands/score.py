"""`tailcut score`: the importance of each channel of a network."""

import argparse

from tailcut.channels.scoring.formulas import COMPONENTS
from tailcut.channels.scoring.score import METHODS
from tailcut.cli.parser import Commands, Parser, add_command, add_device, add_images, add_network

VARIANT = "variant"


def add_parser(commands: Commands) -> None:
    parser = add_command(
        commands,
        "score",
        summary="score the channels of a network, for pruning",
        description="Score each output channel of each convolution: by the energy and the spread of its feature maps "
        "in the frequency domain (CFDP), or by one of the usual baselines. The scores are written as JSON; tailcut "
        "prune takes them.",
        example="  tailcut score resnet56-cifar10.th --model resnet56 --set-argument normalize=true --data cifar10 "
        "-o scores.json --plot scores.png\n"
        "  tailcut score slim.tailcut --method l1 -o scores.json",
        run="tailcut.tasks.score:score_file",
    )
    add_network(parser)
    parser.add_argument("-o", "--out", required=True, metavar="OUT", help="the JSON file to write")
    parser.add_argument(
        "--plot", metavar="IMAGE", help="draw the sorted scores of up to 12 layers as a PNG; needs the extra plots"
    )
    parser.add_argument("--method", choices=METHODS, default="spectral", help="the score (default: spectral)")
    add_images(parser)
    _add_formula(parser)
    add_device(parser)


def _add_formula(parser: Parser) -> None:
    """Add --variant, --block-size, --sigma, --spatial-weight and --components, of the method spectral."""
    parser.add_argument(
        "--variant",
        choices=("paper", "published"),
        default="paper",
        help="the formulas of the paper (default) or of its published code",
    )
    parser.add_argument(
        "--block-size",
        type=block_size,
        default=VARIANT,
        metavar="N",
        help="side of the DCT's blocks, or whole (default: 4; published: 2)",
    )
    parser.add_argument(
        "--sigma",
        dest="gaussian_sigma",
        type=sigma,
        default=VARIANT,
        metavar="S",
        help="of the Gaussian filter in pixels, or off (default: 1; published: 10)",
    )
    parser.add_argument(
        "--spatial-weight", type=float, default=0.03, metavar="W", help="weight of the spatial part (default: 0.03)"
    )
    parser.add_argument(
        "--components",
        type=components,
        default=COMPONENTS,
        metavar="A,B",
        help="parts of the score: some of spectral,dist,spatial (default: all)",
    )


def block_size(text: str) -> int | str:
    """`whole`, `variant` (as the variant has it), or an integer."""
    return text if text in ("whole", VARIANT) else int(text)


def sigma(text: str) -> float | str | None:
    """`off` (or `none`), `variant`, or a number."""
    if text == VARIANT:
        return text
    return None if text in ("none", "off") else float(text)


def components(text: str) -> tuple[str, ...]:
    """Names with commas."""
    chosen = tuple(name.strip() for name in text.split(","))
    if not set(chosen) <= set(COMPONENTS):
        raise argparse.ArgumentTypeError(f"expected some of {','.join(COMPONENTS)}, got {text!r}")
    return chosen
