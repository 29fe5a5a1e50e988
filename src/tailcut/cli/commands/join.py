"""`tailcut join`: the packets of a file together again."""

from tailcut.cli.parser import Commands, add_command


def add_parser(commands: Commands) -> None:
    parser = add_command(
        commands,
        "join",
        summary="join the packets of a file, in any order",
        description="Join the packets of `tailcut split`, in any order; duplicates are ignored. Damaged packets, "
        "packets of another file and missing numbers are reported.",
        example="  tailcut join packets -o unet.tailcut",
        run="tailcut.tasks.packets:join_files",
    )
    parser.add_argument("paths", metavar="FILE|DIR", nargs="+", help="packets, or folders of packets")
    parser.add_argument("-o", "--out", required=True, metavar="FILE", help="the .tailcut file to write")
