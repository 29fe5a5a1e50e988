"""`tailcut split`: a file as numbered packets for thin links."""

import argparse

from tailcut.cli.parser import Commands, add_command
from tailcut.printing import Report


def add_parser(commands: Commands) -> None:
    parser = add_command(
        commands,
        "split",
        summary="split a file into numbered packets for thin links",
        description="Split a .tailcut file into packets of limited size, each with a number and a checksum. `tailcut "
        "join` joins them in any order and says which are missing.",
        example="  tailcut split zoo:unet-759-float16 --packet 200 -o packets",
        run=run,
    )
    parser.add_argument("file", metavar="FILE", help="a .tailcut file or zoo:NAME")
    parser.add_argument(
        "--packet", type=int, required=True, metavar="BYTES", help="the largest packet, header included"
    )
    parser.add_argument("-o", "--out", required=True, metavar="DIR", help="the folder for the packets")


def run(arguments: argparse.Namespace) -> Report:
    from tailcut.tasks.packets import split_file

    return split_file(arguments.file, arguments.out, packet_bytes=arguments.packet)
