"""Settings for reading images: treatment of damaged files, strictness of the checks, largest size."""

import dataclasses
import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

import torch

from tailcut.data.workers import check_workers, in_order
from tailcut.errors import ArgumentError, DataError, first_line
from tailcut.jpeg.limits import check_max_pixels

logger = logging.getLogger(__name__)

OnError = Literal["raise", "skip"]

# Advice on lenient reading and on the pixel limit, for Python, the command line and recipes.
ADVICE = {
    "Python": ("give strict=False", "give max_pixels=N"),
    "command line": ("give --lenient", "give --max-image-pixels N"),
    "report": ("", ""),
    "recipe": ("set data.strict = false in the recipe", "set data.max_pixels in the recipe"),
}
NUM_NAMED = 3


@dataclass(frozen=True)
class Reading:
    """Settings for reading images.

    Attributes:
        on_error: what a data set does with images that cannot be read: "raise" ends in an error when one is asked
            for; "skip" reads all of them once when it is opened, and leaves the broken ones out.
        strict: refuse JPEG files that are damaged anywhere, as `read_jpeg` does; else take what libjpeg makes of them.
        max_pixels: the most pixels of an image; None for 2^24, or 16 for each byte of the file if that is more.
        place: whose words errors speak: a key of `ADVICE`.
        skipped: filled with the files that were left out, and why.
        workers: processes that read the images of data sets ahead, 0 to 256; with 0 they are read where they are
            needed. What comes is the same.

    Raises:
        ArgumentError: an attribute is none of these.
    """

    on_error: OnError = "raise"
    strict: bool = True
    max_pixels: int | None = None
    place: str = "Python"
    skipped: dict[str, str] = field(default_factory=dict, compare=False)
    workers: int = 0

    def __post_init__(self) -> None:
        if self.on_error not in get_args(OnError):
            raise ArgumentError(f"on_error must be 'raise' or 'skip', got {self.on_error!r}")
        check_max_pixels(self.max_pixels)
        check_workers(self.workers)

    @property
    def advice(self) -> tuple[str, str]:
        """Return advice on lenient reading and on the pixel limit."""
        return ADVICE[self.place]

    def report(self) -> None:
        """Log what was left out, if anything was."""
        if not self.skipped:
            return
        named = "; ".join(list(self.skipped.values())[:NUM_NAMED])
        more = f"; and {len(self.skipped) - NUM_NAMED} more" if len(self.skipped) > NUM_NAMED else ""
        count = f"{len(self.skipped):,} image{'s' if len(self.skipped) > 1 else ''}"
        logger.warning(
            "left out %s that cannot be read: %s%s (tailcut check FOLDER lists broken ones)", count, named, more
        )


_current: ContextVar[Reading | None] = ContextVar("reading", default=None)


def current_reading() -> Reading:
    """Return the current settings for reading images: those of the innermost `reading` block."""
    return _current.get() or Reading()


@contextmanager
def reading(
    *,
    on_error: OnError = "raise",
    strict: bool = True,
    max_pixels: int | None = None,
    place: str = "Python",
    skipped: dict[str, str] | None = None,
    workers: int = 0,
) -> Iterator[Reading]:
    """Set how images are read within the block, and later by the data sets that are opened in it.

    Args:
        on_error: see `Reading`, as for the others.
        strict: likewise.
        max_pixels: likewise.
        place: likewise.
        skipped: collects the skipped images; a new dictionary when None.
        workers: see `Reading`.

    Yields:
        The settings, whose `skipped` lists the skipped images.

    Raises:
        ArgumentError: an argument is none of these.
    """
    made = Reading(on_error, strict, max_pixels, place, {} if skipped is None else skipped, workers)
    token = _current.set(made)
    try:
        yield made
    finally:
        _current.reset(token)


def read_ahead(source: "torch.utils.data.Dataset[Any]", length: int, workers: int | None = None) -> Iterator[Any]:
    """Yield `source[0]`, `source[1]`, ... up to `length`, made ahead by worker processes; see `in_order`.

    Args:
        source: as for `in_order`.
        length: how many; a single item is made in this process.
        workers: 0 to 256; as the enclosing `reading` says when None, 0 without one.
    """
    wanted = current_reading().workers if workers is None else workers
    return in_order(source, length, wanted if length > 1 else 0)


def resolve_reading(strict: bool | None, max_pixels: int | None, on_error: OnError | None = None) -> Reading:
    """Return the current settings, overridden by those of a call that are not None."""
    given: dict[str, Any] = {"strict": strict, "max_pixels": max_pixels, "on_error": on_error}
    return dataclasses.replace(current_reading(), **{key: value for key, value in given.items() if value is not None})


def leave_out(path: str | Path, error: DataError) -> None:
    """Record an image that cannot be read, where broken ones are to be left out; else raise the error."""
    settings = current_reading()
    if settings.on_error == "raise":
        raise error
    settings.skipped[str(path)] = first_line(error)


def warn_of_other_files(folder: Path, others: Sequence[str]) -> None:
    """Log that a data set leaves out files whose names are not those of JPEG or PNG files, if there are any.

    Args:
        folder: of the data set.
        others: paths of these files within it.
    """
    if not others:
        return
    files, are = ("file", "is") if len(others) == 1 else ("files", "are")
    logger.warning(
        "left out %s %s of %s that %s not called .jpg, .jpeg or .png: %s",
        f"{len(others):,}",
        files,
        folder,
        are,
        _some(others),
    )


def warn_of_misplaced(folder: Path, names: Sequence[str], places: str) -> None:
    """Log that a data set leaves out images and folders that do not lie where it looks, if there are any.

    Args:
        folder: of the data set.
        names: paths of these within it.
        places: where it looks, in words.
    """
    if names:
        logger.warning("left out %s of %s: %s", _some(names), folder, places)


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:NUM_NAMED]) + (", ..." if len(names) > NUM_NAMED else "")


def readable(files: Sequence[Path], read: Callable[[int], object], what: str) -> tuple[list[int], dict[str, str]]:
    """Return the readable images: all of them, unchecked, unless the current settings skip broken ones.

    Args:
        files: the images.
        read: reads one, given its position.
        what: what they are, for messages.

    Returns:
        Positions; and the files that are left out, and why.

    Raises:
        DataError: not one can be read.
    """
    settings = current_reading()
    if settings.on_error == "raise":
        return list(range(len(files))), {}
    logger.info("reading the %s images of %s once, to leave out broken ones", f"{len(files):,}", what)
    kept, left_out = [], {}
    for position, path in enumerate(files):
        try:
            read(position)
        except DataError as error:
            left_out[str(path)] = first_line(error)
        else:
            kept.append(position)
    settings.skipped.update(left_out)
    if left_out and not kept:
        raise DataError(f"{what}: not one of {len(files):,} images can be read; {next(iter(left_out.values()))}")
    return kept, left_out
