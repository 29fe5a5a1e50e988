"""Limits on the size of the network that a file may ask for, checked before memory is taken."""

import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from tailcut.arguments import check_positive
from tailcut.errors import ArgumentError, LimitError

MAX_PARAMETERS = 1 << 30
MAX_TENSORS = 1 << 14
# Work, in numbers that take as long to load: of a tensor, of one kept as coefficients, of each that an edit reads.
TENSOR_WORK = 1 << 11
KEPT_WORK = 1 << 13
EDIT_WORK = 1 << 7
# So much of it is allowed in any case; with a larger `max_parameters`, half of that.
MIN_WORK = 1 << 22
ANEW_WORK = 4
"""Decoding a number takes so many times as long as taking a known one in again."""


_of_command: ContextVar[int | None] = ContextVar("tailcut_max_parameters", default=None)
_non_finite_of_command: ContextVar[bool] = ContextVar("tailcut_allow_non_finite", default=False)


@contextmanager
def command_line_limit(max_parameters: int | None, *, allow_non_finite: bool = False) -> Iterator[None]:
    """Within the block, files are read and written with these options of the command line.

    Args:
        max_parameters: --max-parameters; None if it was not given.
        allow_non_finite: --allow-non-finite.

    Raises:
        ArgumentError: it is below 1.
    """
    if max_parameters is not None and max_parameters < 1:
        raise ArgumentError(f"--max-parameters must be at least 1, got {max_parameters}")
    token = _of_command.set(MAX_PARAMETERS if max_parameters is None else max_parameters)
    non_finite = _non_finite_of_command.set(allow_non_finite)
    try:
        yield
    finally:
        _non_finite_of_command.reset(non_finite)
        _of_command.reset(token)


def non_finite_allowed(given: bool) -> bool:
    """Return whether NaN and infinity are read and written: the argument, or --allow-non-finite."""
    return given or _non_finite_of_command.get()


def limit_of(max_parameters: int | None) -> int:
    """Return the limit in effect: the one given, else that of the command line, else `MAX_PARAMETERS`.

    Raises:
        ArgumentError: the one given is no whole number of at least 1.
    """
    if max_parameters is None:
        return _of_command.get() or MAX_PARAMETERS
    return check_positive("max_parameters", max_parameters)


def check_total(shapes: Iterable[tuple[int, ...]], max_parameters: int) -> None:
    """Raise `LimitError` if tensors of these shapes hold more than `max_parameters` numbers together."""
    total = sum(math.prod(shape) for shape in shapes)
    if total > max_parameters:
        raise too_many_numbers(total, max_parameters)


def check_work(num_tensors: int, *, num_kept: int = 0, num_edits: int = 0, max_parameters: int) -> None:
    """Raise `LimitError` if tensors and edits, however small, would take longer than the numbers that are allowed.

    Args:
        num_tensors: of the network.
        num_kept: how many of them are kept as coefficients.
        num_edits: of the file.
        max_parameters: the most numbers that the dense network may have.
    """
    if num_tensors > MAX_TENSORS:
        raise LimitError(f"the network has more than {MAX_TENSORS} tensors")
    work = num_tensors * (TENSOR_WORK + EDIT_WORK * num_edits) + num_kept * KEPT_WORK
    if work > max(MIN_WORK, max_parameters // 2):
        raise LimitError(
            f"the network has {num_tensors} tensors or more, {num_kept} of them kept as coefficients, and {num_edits} "
            f"edits: more than is allowed for {max_parameters} numbers; if you trust the file, raise {limit_setting()}"
        )


def check_level_work(num_known: int, num_anew: int, max_parameters: int) -> None:
    """Raise `LimitError` if levels of a file would take longer than the numbers that are allowed.

    Args:
        num_known: coefficients of lower levels that each level above them takes in again, of all levels together.
        num_anew: numbers of other tensors that levels above the lowest have anew, of all levels together.
        max_parameters: the most numbers that the dense network may have.
    """
    if num_known + ANEW_WORK * num_anew > max(MIN_WORK, max_parameters // 2):
        raise LimitError(
            f"the file's levels repeat {num_known} coefficients and have {num_anew} other numbers anew: more than is "
            f"allowed for {max_parameters} numbers; if you trust the file, raise {limit_setting()}"
        )


def too_many_numbers(total: int, max_parameters: int) -> LimitError:
    """Return the error for a network that is larger than the user allows."""
    return LimitError(
        f"the network has {total} numbers or more, at most {max_parameters} are allowed; "
        f"if you trust the file, raise {limit_setting()}"
    )


def limit_setting() -> str:
    """Return the name of the setting that raises the limit: an argument in Python, an option on the command line."""
    return "the cap with max_parameters=" if _of_command.get() is None else "--max-parameters"
