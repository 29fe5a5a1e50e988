"""`tailcut models`: registered architectures and the networks that ship in the package."""

import argparse

from tailcut.cli.parser import Commands, add_command
from tailcut.printing import Report


def add_parser(commands: Commands) -> None:
    add_command(
        commands,
        "models",
        summary="list architectures and the trained networks of the zoo",
        description="List the registered architectures with their arguments, and the trained networks that "
        "ship in the package (use them as zoo:NAME wherever a file is read).",
        example="  tailcut models",
        run=run,
    )


def run(arguments: argparse.Namespace) -> Report:
    from tailcut.tasks.list_models import list_models

    return list_models()
