"""`tailcut dct`: an image as frequency channels, and what a selection of them keeps."""

import argparse
import re
from typing import TYPE_CHECKING

from tailcut.cli.parser import Commands, add_command, add_reading
from tailcut.inputs.stem.edit import CHROMA
from tailcut.printing import Report

if TYPE_CHECKING:
    from tailcut.inputs import Selection


def add_parser(commands: Commands) -> None:
    parser = add_command(
        commands,
        "dct",
        summary="show an image as frequency channels",
        description="Show what a network with frequency-domain inputs sees of an image: its channels (channels.png), "
        "the energy of each frequency with the kept ones framed (energy.png), and the image rebuilt from the kept "
        "channels (reconstruction.png). Prints sizes, kept energy and the error of the rebuilt image. Needs the "
        "extra plots.",
        example="  tailcut dct photo.jpg -o photo-dct\n"
        "  tailcut dct photo.jpg -o photo-dct --channels selection.json --chroma full",
        run=run,
    )
    parser.add_argument("image", metavar="IMAGE", help="a PNG or JPEG file")
    add_reading(parser, skips=False)
    parser.add_argument("-o", "--out", required=True, metavar="DIR", help="folder for the images")
    parser.add_argument(
        "--channels",
        default="24",
        metavar="WHICH",
        help="6, 12, 24 (default), 32, 48, 64 or 192 as in the paper; channel numbers of 0 to 191 with commas "
        "(0,1,8,64; one alone: 0,); or a selection's JSON file",
    )
    parser.add_argument(
        "--chroma",
        choices=CHROMA,
        default="two_scale",
        help="two_scale (default): chroma smoothed as by the published pipeline; full: plain 4:4:4",
    )


def run(arguments: argparse.Namespace) -> Report:
    from tailcut.data import read_image
    from tailcut.inputs import BlockDCT, draw_image

    transform = BlockDCT(selection_of(arguments.channels), chroma=arguments.chroma)
    image = read_image(arguments.image, channels=3)[0]
    return draw_image(image, transform, arguments.out, name=arguments.image)


def selection_of(text: str) -> "Selection":
    """Return the selection that a command line argument names.

    Raises:
        ArgumentError: there is no such selection.
        DataError: the file cannot be read or holds no selection.
    """
    from tailcut.inputs import Selection

    if re.fullmatch(r"\d{1,3}(,\d{1,3})*,?", text, re.ASCII) is None:
        return Selection.load(text)
    return Selection.of([int(number) for number in text.split(",") if number] if "," in text else int(text))
