"""`tailcut check`: lists the broken images of a folder."""

import argparse

from tailcut.cli.parser import Commands, add_command, add_reading
from tailcut.printing import Report


def add_parser(commands: Commands) -> None:
    parser = add_command(
        commands,
        "check",
        summary="find the broken images of a folder",
        description="Read every PNG and JPEG file of a folder and its subfolders, and list those that cannot be read, "
        "each with the reason. The exit code is 1 if there are any, or if there is no image at all.",
        example="  tailcut check ~/data/flowers\n  tailcut check ~/data/flowers --json",
        run=run,
    )
    parser.add_argument(
        "folder", metavar="FOLDER|IMAGE", help="a folder of images, or of folders of images; or one image"
    )
    add_reading(parser, skips=False)


def run(arguments: argparse.Namespace) -> Report:
    from tailcut.data import check_folder

    return check_folder(arguments.folder, strict=not arguments.lenient, max_pixels=arguments.max_image_pixels)
