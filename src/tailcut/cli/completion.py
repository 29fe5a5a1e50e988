"""Shell completion of commands, options and file names, by scripts that shtab writes from the parser."""

import argparse
from collections.abc import Iterator, Sequence
from typing import Any

from tailcut.errors import MissingExtraError

SHELLS = ("bash", "zsh", "fish", "tcsh")

# Metavars of paths in usage lines; a metavar may join several by "|".
_FILES = {"FILE", "OUT", "RUN", "RECIPE", "EXPERIMENT", "IMAGE", "SCORES", "CHECKPOINT", "MODULE", "PY"}
_FOLDERS = {"DIR", "FOLDER"}


class PrintCompletion(argparse.Action):
    """An option that prints the completion script of a shell and ends, as --version does."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: str | Sequence[Any] | None,
        option_string: str | None = None,
    ) -> None:
        """Print.

        Raises:
            MissingExtraError: shtab is not installed.
        """
        print(completion_script(parser, str(values)), flush=True)
        parser.exit(0)


def completion_script(parser: argparse.ArgumentParser, shell: str) -> str:
    """Return the script that completes the words of `parser` in a shell; it needs neither Python nor Tailcut to run.

    Args:
        parser: with all its commands. Its arguments get marks of what they complete to (changed).
        shell: one of `SHELLS`.

    Raises:
        MissingExtraError: shtab is not installed.
    """
    try:
        import shtab
    except ImportError as error:
        raise MissingExtraError("shell completion", "shtab", "completion") from error
    for action in _actions(parser):
        places = set(str(action.metavar).split("|"))
        if places & _FILES:
            action.complete = shtab.FILE  # type: ignore[attr-defined]
        elif places & _FOLDERS:
            action.complete = shtab.DIRECTORY  # type: ignore[attr-defined]
    return str(shtab.complete(parser, shell=shell))


def _actions(parser: argparse.ArgumentParser) -> Iterator[argparse.Action]:
    for action in parser._actions:
        yield action
        if isinstance(action, argparse._SubParsersAction):
            for command in action.choices.values():
                yield from _actions(command)
