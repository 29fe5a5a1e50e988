"""`tailcut models`: registered architectures and the networks that ship in the package."""

from tailcut.cli.parser import Commands, add_command


def add_parser(commands: Commands) -> None:
    add_command(
        commands,
        "models",
        summary="list architectures and the trained networks of the zoo",
        description="List the registered architectures with their arguments, and the trained networks that "
        "ship in the package (use them as zoo:NAME wherever a file is read).",
        example="  tailcut models",
        run="tailcut.tasks.list_models:list_models",
    )
