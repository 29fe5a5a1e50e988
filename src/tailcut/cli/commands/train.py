"""`tailcut train`: from a recipe to a run folder with a packed network."""

import argparse

from tailcut.cli.output import check_processes
from tailcut.cli.parser import Commands, add_command, add_data_roots, add_device_arguments, devices_of
from tailcut.printing import Report


def add_parser(commands: Commands) -> None:
    parser = add_command(
        commands,
        "train",
        summary="train a recipe's network, pack it and evaluate the packed file",
        description="Train a recipe's network, pack it and evaluate the packed file on the test split. All results go "
        "into a run folder. --resume continues a run that was stopped at any moment, to the same result.",
        example="  tailcut train lenet5-776 --out runs/lenet5-776 --data-root ~/data\n"
        "  tailcut train my.toml --out runs/a --set optimizer.lr=0.01 --set training.epochs=5",
        run=run,
    )
    parser.add_argument("recipe", metavar="RECIPE", help="a TOML file, or the name of a recipe that comes with Tailcut")
    parser.add_argument("-o", "--out", required=True, metavar="RUN", help="the run folder")
    parser.add_argument("--resume", action="store_true", help="continue the run in that folder, or begin it")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        dest="overrides",
        help="change a key of the recipe (optimizer.lr=0.01) or remove it (distillation=); may be repeated",
    )
    add_data_roots(parser)
    add_device_arguments(parser)


def run(arguments: argparse.Namespace) -> Report | None:
    """Train; only the first process reports."""
    from tailcut.runtime.devices import is_global_zero
    from tailcut.training.recipe.toml_files import load_recipe, training_command
    from tailcut.training.train import train

    check_processes("train", arguments.devices, arguments.num_nodes)
    recipe = load_recipe(arguments.recipe, arguments.overrides)
    result = train(
        recipe,
        arguments.out,
        resume=arguments.resume,
        roots=arguments.roots,
        devices=devices_of(arguments),
        download=arguments.download,
        progress=True,
        command=training_command(
            arguments.recipe,
            arguments.out,
            overrides=arguments.overrides,
            imports=arguments.imports,
            devices=arguments.devices,
            num_nodes=arguments.num_nodes,
        ),
    )
    return result if is_global_zero() else None
