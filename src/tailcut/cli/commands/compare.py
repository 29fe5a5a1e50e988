"""`tailcut compare`: two networks side by side."""

import argparse

from tailcut.cli.parser import Commands, add_command
from tailcut.printing import Report


def add_parser(commands: Commands) -> None:
    """Add the command."""
    parser = add_command(
        commands,
        "compare",
        summary="show two networks side by side",
        description="Show two networks side by side: models, edits, sizes, and tensor by tensor shapes, kept corners "
        "and bytes; how far their dense weights are apart, where tensors have one name and shape, and their outputs "
        "for one random input.",
        example="  tailcut compare zoo:lenet5-776 zoo:lenet5-7668\n"
        "  tailcut compare runs/a runs/b/model.tailcut --json",
        run=run,
    )
    parser.add_argument("first", metavar="FILE", help="a .tailcut file, zoo:NAME or a run folder")
    parser.add_argument("second", metavar="FILE", help="likewise")


def run(arguments: argparse.Namespace) -> Report:
    """Compare."""
    from tailcut.reports.comparison import compare

    return compare(arguments.first, arguments.second)
