"""The search for the finest step of a network whose file has no more bytes than are allowed."""

import math
from collections.abc import Callable
from typing import Any

from tailcut.arguments import is_integer
from tailcut.errors import ArgumentError
from tailcut.format.quantized.values import STEPS_PER_OCTAVE, step_size

COARSEST, FINEST = 64, -128
"""Of the steps tried for a size, in eighths of an octave."""

REFINEMENT = 8
"""Parts of an eighth, to which the step for a size is found in the end."""

PARTS_PER_OCTAVE = STEPS_PER_OCTAVE * REFINEMENT

FIRST_REACH = 4
"""Parts by which an estimate that was set right by one size may still be wrong: so far the search reaches first."""

OCTAVES = 8
"""By which steps finer than the coarsest are tried where that does not fit."""

WIDE = PARTS_PER_OCTAVE
"""Parts between two steps, an octave, within which sizes are about linear in the logarithm of the step."""


def finest_step(
    size_of: Callable[[float], int],
    max_bytes: int,
    *,
    finest: int = FINEST,
    coarsest: int = COARSEST,
    estimate: Callable[[float], float] | None = None,
) -> float:
    """Return the finest step whose file has at most `max_bytes` bytes.

    The steps of tensors are whole eighths of an octave, but they do not all change at the same step of the network: the
    search goes on to parts of an eighth.

    Args:
        size_of: step -> bytes; coarser steps take fewer, or about as many. It is called about five times with an
            estimate, ten times without.
        max_bytes: the most bytes.
        finest: of the steps tried, in eighths of an octave.
        coarsest: likewise.
        estimate: step -> about the bytes of what the step changes, at once. The search begins where it says.

    Raises:
        ArgumentError: no step makes it so small.
    """
    search = _Search(size_of, checked_max_bytes(max_bytes), min(finest, FINEST), max(coarsest, COARSEST))
    if estimate is not None:
        search.approach(estimate)
    return search.finest()


def checked_max_bytes(max_bytes: Any) -> int:
    """Return `max_bytes`; raise `ArgumentError` unless it is a number of bytes."""
    if not is_integer(max_bytes) or max_bytes < 1:
        raise ArgumentError(f"max_bytes must be a whole number of bytes, got {max_bytes!r}")
    return int(max_bytes)


def coarsest_fitting(size_of: Callable[[float], int], max_bytes: int, coarsest: int = COARSEST) -> int:
    """Return a coarse step, in eighths of an octave, whose file has at most `max_bytes` bytes.

    The coarsest makes all numbers zeros, but a step is a number of the file too: one some octaves finer may take a few
    bytes less.

    Raises:
        ArgumentError: none of the steps tried makes it so small.
    """
    sizes = []
    for eighth in range(coarsest, coarsest - STEPS_PER_OCTAVE * (OCTAVES + 1), -STEPS_PER_OCTAVE):
        sizes.append(size_of(step_size(eighth)))
        if sizes[-1] <= max_bytes:
            return eighth
    raise too_few(max_bytes, min(sizes))


class TooFewBytesError(ArgumentError):
    """No step makes the file so small."""


def too_few(max_bytes: int, least: int) -> TooFewBytesError:
    """Return the error for a size that no step reaches; the least is that of a file without numbers."""
    return TooFewBytesError(
        f"the file cannot have {max_bytes:,} bytes: with all numbers rounded away it has {least:,}, for names, "
        "structure and what stays exact"
    )


def _step(part: int) -> float:
    """Return 2^(part / 64)."""
    eighth = -(-part // REFINEMENT)
    return step_size(eighth) * math.exp2((part - eighth * REFINEMENT) / PARTS_PER_OCTAVE)


class _Search:
    """Steps whose sizes are known, in parts of an eighth: one that fits, and a finer one that does not."""

    def __init__(self, size_of: Callable[[float], int], max_bytes: int, finest: int, coarsest: int) -> None:
        self._size_of, self._max_bytes, self._coarsest = size_of, max_bytes, coarsest
        self._coarse, self._fine = coarsest * REFINEMENT, finest * REFINEMENT
        self._sizes: dict[int, int] = {}

    def approach(self, estimate: Callable[[float], float]) -> None:
        """Begin at an estimate, set right by the first size, and reach out until the step lies between two others."""
        start = self._estimated(estimate, self._max_bytes)
        self._fits(start)
        if start in self._sizes:
            right = self._max_bytes / max(1, self._sizes[start])
            start = self._estimated(estimate, right * estimate(_step(start)))
        reach = FIRST_REACH
        while start - self._fine > max(reach, self._near(self._fine)) and self._fits(start - reach):
            reach *= 2
        reach = FIRST_REACH
        while self._coarse - start > max(reach, self._near(self._coarse)) and not self._fits(start + reach):
            reach *= 2

    def finest(self) -> float:
        """Return the finest step that fits."""
        poor = 0
        while self._coarse - self._fine > 1:
            width = self._coarse - self._fine
            # Lines that do not halve what is left, twice in a row, are no good guides.
            self._fits(self._by_line() if poor < 2 else (self._coarse + self._fine) // 2)
            poor = poor + 1 if 2 * (self._coarse - self._fine) > width + 1 else 0
        if self._coarse not in self._sizes:
            return step_size(coarsest_fitting(self._size_of, self._max_bytes, self._coarsest))
        return _step(self._coarse)

    def _near(self, end: int) -> int:
        """Return how far an end may be from where the step should be: a line leads from it, if its size is known."""
        return WIDE // 2 if end in self._sizes else 0

    def _by_line(self) -> int:
        """Return the step at which a line between the two sizes has just the bytes that are allowed; or the middle."""
        most, least = self._sizes.get(self._fine), self._sizes.get(self._coarse)
        width = self._coarse - self._fine
        if most is None or least is None or width > WIDE or most <= least:
            return (self._coarse + self._fine) // 2
        part = math.floor((self._max_bytes - least) / (most - least) * width)
        return min(max(self._coarse - part, self._fine + 1), self._coarse - 1)

    def _fits(self, part: int) -> bool:
        """Measure the size at a step, and move the end of its kind there."""
        try:
            self._sizes[part] = self._size_of(_step(part))
        except ArgumentError:  # too fine to be coded
            self._fine = max(self._fine, part)
            return False
        if self._sizes[part] <= self._max_bytes:
            self._coarse = min(self._coarse, part)
            return True
        self._fine = max(self._fine, part)
        return False

    def _estimated(self, estimate: Callable[[float], float], num_bytes: float) -> int:
        coarse, fine = self._coarse - 1, self._fine + 1
        while coarse - fine > 1:
            middle = (coarse + fine) // 2
            if estimate(_step(middle)) <= num_bytes:
                coarse = middle
            else:
                fine = middle
        return coarse
