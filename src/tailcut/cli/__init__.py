"""The command line: one command per file; each parses, calls and prints.

Results go to standard output (one JSON object with --json), everything else to standard error. Exit codes: 0,
1 for a job that failed, 2 for bad usage.
"""

import argparse
import importlib
import json
import os
import signal
import stat
import sys
import threading
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, redirect_stdout, suppress
from pathlib import Path

from tailcut.cli.advice import NO_OPTIONS, for_command_line, option_names
from tailcut.cli.commands import (
    attack,
    check,
    compare,
    compress,
    convert,
    cut,
    dct,
    evaluate,
    explain,
    export,
    inspect,
    join,
    models,
    pack,
    predict,
    prune,
    qr,
    report,
    reproduce,
    resample,
    score,
    select,
    split,
    sweep,
    train,
    unpack,
)
from tailcut.cli.completion import SHELLS, PrintCompletion
from tailcut.cli.output import drop_stdout, is_first_process, messages_on_stderr, open_streams, say_error
from tailcut.cli.parser import Parser, UsageError, parse, reading_of
from tailcut.errors import (
    ArgumentError,
    MissingExtraError,
    RecipeError,
    TailcutError,
    first_line,
    is_out_of_memory,
)
from tailcut.files import check_length, expand_user
from tailcut.limits import command_line_limit
from tailcut.reports.html.output_paths import check_no_file_of_a_run
from tailcut.runs import tailcut_version

COMMANDS = (
    train,
    pack,
    compress,
    inspect,
    evaluate,
    predict,
    convert,
    cut,
    unpack,
    resample,
    export,
    split,
    join,
    qr,
    dct,
    select,
    score,
    prune,
    attack,
    explain,
    reproduce,
    sweep,
    report,
    compare,
    models,
    check,
)

OK, FAILED, BAD_USAGE = 0, 1, 2
NO_MEMORY = "there is not enough memory: smaller batches (--batch-size, data.batch_size in a recipe) need less"
# Arguments of the commands that name files or folders to write, and to read; `folder` of `split` is written.
OUTPUTS = ("out", "plot", "heat_maps", "markdown")
INPUTS = (
    "folder",
    "file",
    "files",
    "path",
    "paths",
    "source",
    "first",
    "second",
    "image",
    "images",
    "networks",
    "recipe",
    "experiment",
    "scores",
    "statistics",
    "imports",
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        argv: the words after `tailcut`; those of this process when None.

    Returns:
        The exit code: 0, 1 for a job that failed, 2 for bad usage.
    """
    if argv is None:
        open_streams()
    words = list(sys.argv[1:] if argv is None else argv)
    as_json = "--json" in words
    try:
        arguments = parse(_parser(), words)
    except UsageError as error:
        with suppress(OSError, ValueError):
            print(error.usage, end="", file=sys.stderr)
        return _fail(error.prog, error, BAD_USAGE, as_json=as_json)
    except BrokenPipeError:
        drop_stdout()
        return FAILED
    except (MissingExtraError, OSError) as error:  # of --print-completion
        return _fail("tailcut", error, FAILED, as_json=as_json)
    except SystemExit as stop:  # argparse ends so after --help and --version
        return _flushed(int(stop.code or 0))
    prog, options = f"tailcut {arguments.command}", option_names(arguments.parser)
    try:
        _check_paths(arguments)
        limits = command_line_limit(arguments.max_parameters, allow_non_finite=arguments.allow_non_finite)
        # What a user's own network prints would else stand before the JSON object.
        elsewhere = redirect_stdout(sys.stderr) if arguments.json else nullcontext()
        with ended_by_sigterm(), messages_on_stderr(options), limits, elsewhere:
            import_all(arguments.imports)
            with reading_of(arguments):
                report = arguments.run(arguments)
        if report is not None:
            # With `-o /dev/stdout` the file itself takes standard output.
            stream = sys.stderr if any(map(_is_stdout, _paths(arguments, OUTPUTS))) else sys.stdout
            print(report.to_json() if arguments.json else report, file=stream, flush=True)
            return FAILED if report.failed else OK
    except BrokenPipeError:  # the reader of our output closed the pipe
        drop_stdout()
        return FAILED
    except KeyboardInterrupt as error:
        return _fail(prog, KeyboardInterrupt(str(error) or "interrupted"), FAILED, as_json=as_json)
    except (ArgumentError, RecipeError) as error:
        return _fail(prog, error, BAD_USAGE, options, as_json=as_json)
    except (TailcutError, OSError) as error:
        return _fail(prog, error, FAILED, options, as_json=as_json)
    except Exception as error:  # of a user's own network, or ours: the traceback says where
        if is_out_of_memory(error):
            return _fail(prog, MemoryError(f"{NO_MEMORY} ({first_line(error)})"), FAILED, options, as_json=as_json)
        _say_json(error, str(error), as_json=as_json)
        raise
    return OK


@contextmanager
def ended_by_sigterm() -> Iterator[None]:
    """Within the block, SIGTERM ends the work as Ctrl-C does, so that nothing unfinished stays behind.

    Where somebody else handles or ignores it already, and in other threads than the main one, nothing is changed.
    """
    is_main = threading.current_thread() is threading.main_thread()
    if not is_main or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        yield
        return
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _parser() -> Parser:
    parser = Parser(
        prog="tailcut",
        description="Neural networks in the frequency domain: train, pack, load and run truncated networks.",
        epilog="Each command has its own help: tailcut COMMAND --help",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"tailcut {tailcut_version()}")
    parser.add_argument(
        "--print-completion",
        action=PrintCompletion,
        choices=SHELLS,
        metavar="SHELL",
        help="print what makes a shell complete commands, options and file names: bash, zsh, fish or tcsh",
    )
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for command in COMMANDS:
        command.add_parser(commands)
    return parser


def _check_paths(arguments: argparse.Namespace) -> None:
    """Raise `ArgumentError` for a file or folder without a name, a data root that is not there, and unfit outputs.

    Such are those that are read, or written, by the same command, and the files of a run.
    """
    given, outputs = _paths(arguments, INPUTS), _paths(arguments, OUTPUTS)
    if "" in (*outputs, *given):  # else the current folder
        raise ArgumentError("expected the name of a file or folder, got none: is a variable of the shell not set?")
    for root in getattr(arguments, "roots", None) or ():
        if not expand_user(root).is_dir():
            raise ArgumentError(f"--data-root {root}: there is no such folder")
    for place, out in enumerate(outputs):
        if out == "-":
            raise ArgumentError("- would be a file of that name: standard output is /dev/stdout, and the file is ./-")
        check_length(Path(out))
        check_no_file_of_a_run(out)
        if Path(out).is_file() and any(Path(path).exists() and Path(path).samefile(out) for path in given):
            raise ArgumentError(f"{out} is read, and would be written over: give the output another name")
        # Not `Path.resolve`, which raises an error of its own for a link to itself.
        if os.path.realpath(out) in [os.path.realpath(other) for other in outputs[:place]]:
            raise ArgumentError(f"{out} would be written twice: give each output a name of its own")


def _is_stdout(path: str | Path) -> bool:
    """Return whether a name is that of the pipe or terminal that standard output is, as /dev/stdout."""
    try:
        found = Path(path).stat()
        return not stat.S_ISREG(found.st_mode) and os.path.samestat(found, os.fstat(sys.stdout.fileno()))
    except (OSError, ValueError):  # no such file; or standard output is none
        return False


def _flushed(code: int) -> int:
    """Return the code of an ended command, or that of a failure where its text could not be written."""
    try:
        sys.stdout.flush()
    except OSError:
        drop_stdout()
        return FAILED
    return code


def _paths(arguments: argparse.Namespace, names: Sequence[str]) -> list[str | Path]:
    """Return the paths among the values of these arguments."""
    values = [getattr(arguments, name, None) for name in names]
    parts = [part for value in values for part in (value if isinstance(value, list) else [value])]
    return [part for part in parts if isinstance(part, (str, Path))]


def _fail(prog: str, error: BaseException, code: int, options: Mapping[str, str] = NO_OPTIONS, *, as_json: bool) -> int:
    """Say on standard error, with --json on standard output too, what went wrong. Returns the exit code."""
    message = for_command_line(str(error), options) or type(error).__name__
    say_error(prog, message, error)
    _say_json(error, message, as_json=as_json)
    return code


def _say_json(error: BaseException, message: str, *, as_json: bool) -> None:
    if as_json and is_first_process():
        try:
            print(json.dumps({"error": {"type": type(error).__name__, "message": message}}), flush=True)
        except OSError:  # standard error has it
            drop_stdout()


SUFFIX = ".py"


def import_all(names: Sequence[str]) -> None:
    """Import modules by name, or files by path.

    The folder of a file, for a name the current one, comes first where modules are looked for, as for a script.

    Raises:
        ArgumentError: there is no such file or module, its code fails, or another module has a file's name.
    """
    for name in names:
        _import(name)


def _import(name: str) -> None:
    path = Path(os.path.realpath(name)) if name.endswith(SUFFIX) else None
    if path is not None and not path.is_file():
        raise ArgumentError(f"--import: there is no file {name}")
    folder, module = (str(Path.cwd()), name) if path is None else (str(path.parent), path.stem)
    if folder not in sys.path:
        sys.path.insert(0, folder)
    if path is None and not all(part.isidentifier() for part in name.split(".")):
        raise ArgumentError(f"--import {name}: expected a file {SUFFIX}, or the name of a module")
    try:
        found = importlib.import_module(module)
    except (Exception, SystemExit) as error:  # whatever the user's code raises
        message = f"--import {name}: {type(error).__name__}: {first_line(error)}{_place(error, folder)}"
        raise ArgumentError(message) from error
    if path is not None and os.path.realpath(found.__file__ or "") != str(path):
        raise ArgumentError(f"--import {name}: another module is called {module!r} ({found.__file__}); rename the file")


def _place(error: BaseException, folder: str) -> str:
    """Say which line of the user's code failed, in the form of Python's syntax errors; "" where that is not known."""
    lines = [line for line in traceback.extract_tb(error.__traceback__) if line.filename.startswith(folder + os.sep)]
    return f" ({Path(lines[-1].filename).name}, line {lines[-1].lineno})" if lines else ""
