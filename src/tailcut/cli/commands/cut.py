"""`tailcut cut`: the beginning of a progressive file."""

from tailcut.cli.parser import Commands, add_command


def add_parser(commands: Commands) -> None:
    parser = add_command(
        commands,
        "cut",
        summary="cut a progressive file at the end of a level",
        description="Write the beginning of a file with levels (pack or compress --levels), byte for byte: a smaller "
        "network. `tailcut inspect` lists the levels of a file.",
        example="  tailcut cut unet.tailcut --level 1 -o small.tailcut",
        run="tailcut.tasks.cut:cut_file",
    )
    parser.add_argument("source", metavar="FILE", help="a .tailcut file with levels")
    parser.add_argument(
        "--level", type=int, required=True, metavar="N", help="the level to keep: 1 is the smallest network"
    )
    parser.add_argument("-o", "--out", required=True, metavar="FILE", help="the file to write")
