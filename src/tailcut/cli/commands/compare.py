"""`tailcut compare`: two networks side by side."""

from tailcut.cli.parser import Commands, add_command


def add_parser(commands: Commands) -> None:
    parser = add_command(
        commands,
        "compare",
        summary="show two networks side by side",
        description="Show two networks side by side: models, edits, sizes; tensor by tensor the shapes, kept corners "
        "and bytes; the largest difference of their dense weights, where names and shapes agree, and of their outputs "
        "for one random input.",
        example="  tailcut compare zoo:lenet5-776 zoo:lenet5-7668\n"
        "  tailcut compare runs/a runs/b/model.tailcut --json",
        run="tailcut.reports.comparison:compare",
    )
    parser.add_argument("first", metavar="FILE", help="a .tailcut file, zoo:NAME or a run folder")
    parser.add_argument("second", metavar="FILE", help="the other network")
