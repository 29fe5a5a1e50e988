"""Errors that Tailcut raises: one class per cause, all of them subclasses of `TailcutError`."""

import difflib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Self

_NO_MEMORY = ("can't allocate memory", "not enough memory", "out of memory")


class TailcutError(Exception):
    """Base of all errors that Tailcut raises on purpose."""


class ArgumentError(TailcutError, ValueError):
    """An argument does not fit: the message says what was expected and what came."""


class UncachedLoopsWarning(UserWarning):
    """Compiled loops cannot be kept on disk: each process compiles them anew."""


class StructureError(TailcutError):
    """A model does not match its recorded structure, or an edit cannot be applied to it."""


class MissingExtraError(TailcutError, ImportError):
    """A feature needs a package that is not installed; the message names the extra to install."""

    def __init__(self, feature: str, package: str, extra: str) -> None:
        super().__init__(f"{feature} needs the package {package!r}: {how_to_install(extra)}")
        self._arguments = feature, package, extra

    def __reduce__(self) -> tuple[type[Self], tuple[str, str, str]]:
        """Return what makes the error again in another process."""
        return type(self), self._arguments


MAX_SHOWN = 1000


def shown(text: str, *, at_most: int = MAX_SHOWN) -> str:
    """Text that may come from a file, fit to be printed: it commands no terminal, and is no longer than can be read.

    Args:
        text: any text. Control characters and marks of direction are escaped, lines stay.
        at_most: characters; of a longer text the middle is left out.
    """
    plain = "".join(
        letter if letter.isprintable() or letter == "\n" else letter.encode("unicode_escape", "replace").decode()
        for letter in text
    )
    return plain if len(plain) <= at_most else f"{plain[: at_most // 2]} ... {plain[-(at_most // 2) :]}"


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message, or the name of its class if the message is empty."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether memory was refused; torch says so in the message only, on the CPU."""
    return isinstance(error, MemoryError) or any(words in str(error) for words in _NO_MEMORY)


def did_you_mean(name: str, known: Iterable[str], *, prefix: str = "") -> str:
    """Return a question about the known name that is nearest to a misspelt one; "" where none is near.

    Args:
        name: what was given.
        known: the names that there are.
        prefix: what all of them begin with, which makes none of them nearer.
    """
    near = difflib.get_close_matches(name.removeprefix(prefix), (one.removeprefix(prefix) for one in known), n=1)
    return f"did you mean {prefix + near[0]!r}?" if near else ""


def how_to_install(extra: str) -> str:
    """Return the command that installs an extra, and the environment to run it in."""
    return f"pip install '.[{extra}]' in the clone of Tailcut's repository"


@contextmanager
def importing_torchvision(feature: str, package: str, extra: str) -> Iterator[None]:
    """Convert any error of an import that needs torchvision to that of a missing extra.

    Raises:
        MissingExtraError: the package is not installed, or torchvision cannot be imported beside this torch.
    """
    try:
        yield
    except ImportError as error:
        raise MissingExtraError(feature, package, extra) from error
    except (RuntimeError, OSError) as error:  # what torchvision raises when its compiled part does not fit torch
        broken = f"{feature} (torchvision is here, but not for this build of torch: {error})"
        raise MissingExtraError(broken, "torchvision", extra) from error


class EnergyWarning(UserWarning):
    """A cut took much of the energy of weights that look trained: expect the network to be less accurate."""


class FormatError(TailcutError, ValueError):
    """Base of all errors about the content of a file."""


class NotTailcutFileError(FormatError):
    """The file does not begin with the magic bytes of a .tailcut file."""


class UnsupportedVersionError(FormatError):
    """The file was written by a newer version of the format."""


class TruncatedFileError(FormatError):
    """The file ends before its content does."""


class ChecksumError(FormatError):
    """The bytes of the file do not match its checksum."""


class CorruptFileError(FormatError):
    """The checksum holds, but the content breaks a rule of the format."""


class LimitError(FormatError):
    """The file asks for more than the caps allow."""


class ModelMismatchError(FormatError):
    """The tensors of the model do not match those the file was written from."""


class DataNotFoundError(TailcutError, FileNotFoundError):
    """A data set lies under none of the data roots; the message says what to put where."""


class DataError(TailcutError, ValueError):
    """A data file is damaged or not of the expected form."""


class RecipeError(TailcutError, ValueError):
    """A recipe is not valid; the message names the key."""


class TrainingError(TailcutError):
    """A training cannot go on (for example: somebody pressed Ctrl-C)."""


class DivergedError(TrainingError):
    """Numbers of a training grew beyond what can be computed or packed: the same recipe ends here each time."""
