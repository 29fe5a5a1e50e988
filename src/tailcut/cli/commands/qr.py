"""`tailcut qr`: a file as QR codes."""

from tailcut.cli.parser import Commands, add_command


def add_parser(commands: Commands) -> None:
    parser = add_command(
        commands,
        "qr",
        summary="draw a file as one to four QR codes",
        description="Draw a .tailcut file as one to four QR codes in one image. A single code holds the file; several "
        "hold a packet each, for `tailcut join`. Needs the extra qr.",
        example="  tailcut qr zoo:lenet5-776 -o lenet5.png",
        run="tailcut.tasks.packets:write_qr_codes",
    )
    parser.add_argument("path", metavar="FILE", help="a .tailcut file or zoo:NAME")
    parser.add_argument("-o", "--out", required=True, metavar="IMAGE", help="the .png to write")
    parser.add_argument(
        "--error-correction",
        default="medium",
        choices=("low", "medium"),
        help="low restores 7 %% of a code, medium (default) 15 %%",
    )
