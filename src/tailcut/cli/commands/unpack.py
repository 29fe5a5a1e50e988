"""`tailcut unpack`: the dense weights of a file, for anyone."""

from tailcut.cli.parser import Commands, add_command, add_level


def add_parser(commands: Commands) -> None:
    parser = add_command(
        commands,
        "unpack",
        summary="write a file's dense weights as safetensors",
        description="Write the dense weights of a .tailcut file as safetensors, with the plain names of the network.",
        example="  tailcut unpack zoo:lenet5-776 -o lenet5.safetensors",
        run="tailcut.tasks.export:unpack",
    )
    parser.add_argument("file", metavar="FILE", help="a .tailcut file or zoo:NAME")
    parser.add_argument("-o", "--out", required=True, metavar="OUT", help="the .safetensors file to write")
    add_level(parser)
