"""`tailcut split`: a file as numbered packets for thin links."""

from tailcut.cli.parser import Commands, add_command, num_bytes


def add_parser(commands: Commands) -> None:
    parser = add_command(
        commands,
        "split",
        summary="split a file into numbered packets for thin links",
        description="Split a .tailcut file into packets of limited size, each with a number and a checksum. `tailcut "
        "join` joins them in any order and says which are missing.",
        example="  tailcut split zoo:unet-759-float16 --packet-bytes 200 -o packets",
        run="tailcut.tasks.packets:split_file",
    )
    parser.add_argument("path", metavar="FILE", help="a .tailcut file or zoo:NAME")
    parser.add_argument(
        "--packet-bytes",
        type=num_bytes,
        required=True,
        metavar="SIZE",
        help="the largest packet, header included: 200, 1KB",
    )
    parser.add_argument("-o", "--out", dest="folder", required=True, metavar="DIR", help="the folder for the packets")
