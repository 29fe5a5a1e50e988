"""Common parts of the commands' parsers: errors that can be caught, and options of several commands."""

import argparse
import re
import sys
import textwrap
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from importlib import import_module
from itertools import takewhile
from typing import TYPE_CHECKING, Any, NoReturn, TypeAlias, TypeVar

from tailcut.errors import ArgumentError, did_you_mean
from tailcut.structure import MAX_INPUT_PIXELS

if TYPE_CHECKING:
    from tailcut.data import OnError
    from tailcut.runtime.devices import Devices

Commands: TypeAlias = "argparse._SubParsersAction[Parser]"
Result = TypeVar("Result")

DTYPES = ("float32", "float16", "bfloat16")
QUANTIZED = "quantized"
# What each command has, and what `reading_of` reads: no arguments of the functions that do the work.
COMMON = {"command", "parser", "run", "print_completion", "json", "imports", "max_parameters", "allow_non_finite"}
READING = {"on_error", "lenient", "max_image_pixels", "workers"}
UNITS = {"": 1, "B": 1, "KB": 1000, "MB": 1000**2, "KIB": 1024, "MIB": 1024**2}


class UsageError(Exception):
    """The arguments of a command do not fit its parser.

    Attributes:
        prog: the command, `tailcut pack`.
        usage: its usage line.
    """

    def __init__(self, prog: str, usage: str, message: str) -> None:
        super().__init__(message)
        self.prog = prog
        self.usage = usage


class Parser(argparse.ArgumentParser):
    """An `ArgumentParser` that raises `UsageError` instead of ending the process."""

    def error(self, message: str) -> NoReturn:
        """Raise `UsageError`."""
        raise UsageError(self.prog, self.format_usage(), message)

    def _print_message(self, message: str, file: Any = None) -> None:
        # argparse passes over what cannot be written: `tailcut --help > full` would seem to succeed.
        print(message, end="", file=file or sys.stderr)


def parse(parser: Parser, words: Sequence[str]) -> argparse.Namespace:
    """Return the arguments of a command.

    Raises:
        UsageError: they do not fit it; of an unknown option it names the command, and the option that is nearest.
    """
    try:
        arguments, unknown = parser.parse_known_args(words)
    except UsageError as error:
        # What argparse misses first, such as a required option, may be the very one that is misspelt.
        command = _command_of(parser, error.prog)
        for word in takewhile(lambda word: word != "--", words):
            if hint := _nearest_option(command, word):
                command.error(f"unrecognized arguments: {word}; {hint}")
        raise
    command = getattr(arguments, "parser", parser)
    if unknown and not _add_to_last(arguments, command, unknown):
        hint = _nearest_option(command, next((word for word in unknown if word.startswith("--")), ""))
        command.error(f"unrecognized arguments: {' '.join(unknown)}{'; ' if hint else ''}{hint}")
    return arguments


def _add_to_last(arguments: argparse.Namespace, command: argparse.ArgumentParser, words: Sequence[str]) -> bool:
    """Add words that stand behind options to the command's list of files; argparse takes those before them alone.

    Returns whether the command has such a list, and none of the words is an option.
    """
    lists = [action for action in command._actions if not action.option_strings and action.nargs in ("*", "+")]
    if len(lists) != 1 or any(word.startswith("-") and word != "-" for word in words):
        return False
    (action,) = lists
    values = [command._get_value(action, word) for word in words]
    setattr(arguments, action.dest, [*(getattr(arguments, action.dest) or []), *values])
    return True


def _command_of(parser: Parser, prog: str) -> Parser:
    """Return the parser of the command that is called so in its usage; the whole one if there is none."""
    groups = [action.choices.values() for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    return next((command for group in groups for command in group if command.prog == prog), parser)


def _nearest_option(command: Parser, word: str) -> str:
    """Return a question about the option that is meant by one that the command does not have; "" where none is near."""
    known = [option for action in command._actions for option in action.option_strings if option.startswith("--")]
    option = word.partition("=")[0]
    return did_you_mean(option, known, prefix="--") if option.startswith("--") and option not in known else ""


def add_command(
    commands: Commands,
    name: str,
    *,
    summary: str,
    description: str,
    example: str,
    run: Callable[[argparse.Namespace], Any] | str,
) -> Parser:
    """Add the parser of one command, with its example and the options that each command has.

    Args:
        commands: where commands are added.
        name: the command.
        summary: one line for the list of commands.
        description: what it does.
        example: shown at the end of its help.
        run: called with the parsed arguments; returns a report or None. Or the function that does the work, as
            "MODULE:NAME": it is imported only when the command runs, and called as by `call`.
    """
    parser = commands.add_parser(
        name,
        help=summary,
        description=textwrap.fill(description, 80),
        epilog=f"example:\n{example}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument(
        "--json",
        action="store_true",
        help="print one JSON object on standard output, all else on standard error",
    )
    parser.add_argument(
        "--import",
        dest="imports",
        metavar="MODULE",
        action="append",
        default=[],
        help="import this module or .py file first, for the networks that it registers; may be repeated",
    )
    parser.add_argument(
        "--max-parameters",
        type=int,
        metavar="N",
        help="refuse .tailcut files whose network has more numbers (default: 2^30): bounds memory and time",
    )
    parser.add_argument(
        "--allow-non-finite",
        action="store_true",
        help="read and write networks with NaN or infinities, in other tensors than coefficients",
    )
    parser.set_defaults(parser=parser, run=partial(_run, run) if isinstance(run, str) else run)
    return parser


def call(function: Callable[..., Result], options: argparse.Namespace, /, **changed: Any) -> Result:
    """Call a function with a command's own options, each as the argument of its name; `changed` wins over them."""
    own = {name: value for name, value in vars(options).items() if name not in COMMON | READING}
    if "arguments" in own:
        own["arguments"] = settings(own["arguments"])
    return function(**own | changed)


def _run(place: str, options: argparse.Namespace) -> Any:
    module, name = place.split(":")
    return call(getattr(import_module(module), name), options)


def add_data_roots(parser: Parser) -> None:
    """Add --data-root and --download."""
    parser.add_argument(
        "--data-root",
        dest="roots",
        action="append",
        metavar="DIR",
        help="a folder that holds data sets (mnist/, carvana/, ...), searched before those of TAILCUT_DATA and "
        "the user cache; may be repeated",
    )
    parser.add_argument(
        "--download",
        action="store_true",
        help="fetch MNIST or CIFAR-10 into the user cache, hash-checked, if no data root has them",
    )


def add_reading(parser: Parser, *, skips: bool = True) -> None:
    """Add --on-error (if `skips`), --lenient and --max-image-pixels; `reading_of` reads them."""
    if skips:
        parser.add_argument(
            "--on-error",
            choices=("raise", "skip"),
            default="raise",
            help="images that cannot be read: stop with an error (raise, default), or leave them out and count them",
        )
    parser.add_argument(
        "--lenient",
        action="store_true",
        help="decode damaged JPEG files as far as libjpeg can, instead of refusing them",
    )
    parser.add_argument(
        "--max-image-pixels",
        type=int,
        metavar="N",
        help="refuse images with more pixels (default: 2^24, or 16 for each byte of the file if that is more)",
    )


def add_workers(parser: Parser) -> None:
    """Add --workers; `reading_of` reads it."""
    parser.add_argument(
        "--workers",
        type=int,
        default=0,
        metavar="N",
        help="processes that read the images of a data set ahead; the result is the same (default: 0)",
    )


@contextmanager
def reading_of(arguments: argparse.Namespace) -> Iterator[None]:
    """Read images within the block with the options of `add_reading`, `add_workers`; report skipped ones at its end."""
    if not hasattr(arguments, "lenient") and not hasattr(arguments, "workers"):
        yield
        return
    from tailcut.data import reading

    on_error: OnError = getattr(arguments, "on_error", "raise")
    with reading(
        on_error=on_error,
        strict=not getattr(arguments, "lenient", False),
        max_pixels=getattr(arguments, "max_image_pixels", None),
        place="command line",
        workers=getattr(arguments, "workers", 0),
    ) as settings:
        yield
    settings.report()


def add_device(parser: Parser) -> None:
    """Add --device."""
    parser.add_argument("--device", default="auto", metavar="NAME", help="auto (default), cpu, cuda, cuda:1, ...")


def add_device_arguments(parser: Parser) -> None:
    """Add --accelerator, --devices, --num-nodes and --strategy."""
    parser.add_argument("--accelerator", default="auto", help="auto (default), cpu, cuda, ... (Lightning Fabric)")
    parser.add_argument("--devices", type=int, default=1, metavar="N", help="devices per machine")
    parser.add_argument("--num-nodes", type=int, default=1, metavar="N", help="machines")
    parser.add_argument("--strategy", default="auto", metavar="S", help="auto (default), ddp, ... (Lightning Fabric)")


def devices_of(arguments: argparse.Namespace) -> "Devices":
    """Return the devices that these options name."""
    from tailcut.runtime.devices import Devices

    return Devices(arguments.accelerator, arguments.devices, arguments.num_nodes, arguments.strategy)


def add_model_arguments(parser: Parser, what: str, *, required: bool = False) -> None:
    """Add --set-argument (`arguments`, see `settings`); `what` says which argument of which model."""
    parser.add_argument(
        "--set-argument",
        action="append",
        metavar="KEY=VALUE",
        dest="arguments",
        required=required,
        help=f"{what}; may be repeated",
    )


def add_dense(parser: Parser) -> None:
    """Add --dense."""
    parser.add_argument("--dense", action="store_true", help="run with dense weights instead of fused, to compare")


def add_max_input_pixels(parser: Parser) -> None:
    """Add --max-input-pixels."""
    parser.add_argument(
        "--max-input-pixels",
        type=int,
        default=MAX_INPUT_PIXELS,
        metavar="N",
        help=f"the most pixels that a file may enlarge images to, for files you trust (default: {MAX_INPUT_PIXELS:,})",
    )


def add_dtypes(parser: Parser, *, more: tuple[str, ...] = ()) -> None:
    """Add --dtype and --other-dtype."""
    choices = (*DTYPES, *more)
    parser.add_argument("--dtype", choices=choices, help="number type of the coefficients")
    parser.add_argument("--other-dtype", choices=choices, help="number type of everything else (biases, batch norm)")


def add_network(parser: Parser) -> None:
    """Add FILE|CHECKPOINT (`source`), --model and --set-argument (`arguments`), for `format.open_network`."""
    parser.add_argument(
        "source", metavar="FILE|CHECKPOINT", help="a .tailcut file, zoo:NAME, or a checkpoint of torch (with --model)"
    )
    parser.add_argument("--model", metavar="NAME", help="the registered model that a checkpoint belongs to")
    add_model_arguments(parser, "an argument of the model of a checkpoint")


_DATA_HELP = (
    "the data set to run on; not needed for l1, l2, fpgm and random, to which it shows the linear layers that run over "
    "tokens"
)


def add_images(parser: Parser) -> None:
    """Add --data, --split, data roots, --workers, --num-batches, --batch-size and --seed: the images to score on."""
    parser.add_argument("--data", metavar="NAME", help=_DATA_HELP)
    parser.add_argument("--split", default="train", metavar="NAME", help="its split (default: train)")
    add_data_roots(parser)
    add_reading(parser)
    add_workers(parser)
    parser.add_argument("--num-batches", type=int, default=5, metavar="N", help="batches to run on (default: 5)")
    parser.add_argument("--batch-size", type=int, default=128, metavar="N", help="images in each (default: 128)")
    parser.add_argument("--seed", type=seed, default=0, metavar="N", help="seed that chooses the images (default: 0)")


def add_level(parser: argparse.ArgumentParser) -> None:
    """Add --level, of the commands that read a network to run it or to write it."""
    parser.add_argument(
        "--level", type=int, metavar="N", help="of a progressive file: the network of this level, 1 is the smallest"
    )


def add_levels(parser: argparse.ArgumentParser) -> None:
    """Add `--levels`, for files of which a part is a network."""
    parser.add_argument(
        "--levels",
        type=numbers,
        default=(),
        metavar="PARTS",
        help="make a progressive file, whose smaller networks have these parts of the coefficients: 0.25,0.5",
    )


def seed(text: str) -> int:
    """Read a whole number of 0 to 2^63 - 1, which torch's generators take."""
    if not text.isdecimal() or int(text) >= 1 << 63:
        raise argparse.ArgumentTypeError(f"expected a whole number of 0 to {(1 << 63) - 1}, got {text!r}")
    return int(text)


def numbers(text: str) -> tuple[float, ...]:
    """Numbers with commas."""
    try:
        return tuple(float(word) for word in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected numbers such as 0.25,0.5, got {text!r}") from None


def num_bytes(text: str) -> int:
    """`640`, `64KB` (1,000 bytes each), `1.5MiB` (1,024 x 1,024)."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KM]?I?B?)", text.strip().upper())
    if match is None or match[2] not in UNITS:
        raise argparse.ArgumentTypeError(f"expected a size such as 640, 64KB or 1.5MiB, got {text!r}")
    return int(float(match[1]) * UNITS[match[2]])


def settings(words: list[str] | None) -> dict[str, Any]:
    """`KEY=VALUE` words as a dict; values are TOML (5, true, [64, 128], "text"), else text.

    Raises:
        ArgumentError: a word has no `=` or no key.
    """
    import tomllib

    values: dict[str, Any] = {}
    for word in words or ():
        key, equals, text = word.partition("=")
        if not equals or not key.strip():
            raise ArgumentError(f"expected KEY=VALUE, got {word!r}; for example bias=false")
        try:
            values[key.strip()] = tomllib.loads(f"value = {text}")["value"]
        except (ValueError, RecursionError):  # Python's own limits too: digits of an integer, nesting
            values[key.strip()] = text
    return values
