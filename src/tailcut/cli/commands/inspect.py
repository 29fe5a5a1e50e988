"""`tailcut inspect`: the contents of a file."""

from tailcut.cli.parser import Commands, add_command


def add_parser(commands: Commands) -> None:
    parser = add_command(
        commands,
        "inspect",
        summary="show what is in a file",
        description="Show each tensor of a .tailcut file with its shape, axes, kept coefficients and bytes, and the "
        "totals. The network is not built.",
        example="  tailcut inspect zoo:lenet5-776\n  tailcut inspect runs/a/model.tailcut --json",
        run="tailcut.format:inspect",
    )
    parser.add_argument("path", metavar="FILE", help="a .tailcut file or zoo:NAME")
