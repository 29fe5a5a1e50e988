"""The words of a command that name a network: a .tailcut file, or a checkpoint and the model that it belongs to."""

from tailcut.cli.parser import Parser


def add_network(parser: Parser) -> None:
    """Add FILE|CHECKPOINT (`source`), --model and --set-argument (`model_arguments`), for `training.opening`."""
    parser.add_argument(
        "source", metavar="FILE|CHECKPOINT", help="a .tailcut file, zoo:NAME, or a checkpoint of torch (with --model)"
    )
    parser.add_argument("--model", metavar="NAME", help="the registered model that a checkpoint belongs to")
    parser.add_argument(
        "--set-argument",
        dest="model_arguments",
        action="append",
        metavar="KEY=VALUE",
        help="an argument of the model of a checkpoint; may be given more than once",
    )
