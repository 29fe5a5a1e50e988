"""Counts of coefficients in the levels of a progressive network: each has so many parts of the level above."""

from collections.abc import Iterable, Sequence
from functools import reduce

from tailcut.errors import ArgumentError

MAX_LEVELS = 8
PARTS = 256
"""The count of a tensor in a level is so many of these parts of that in the level above, rounded up."""


def count_below(count: int, parts: int) -> int:
    """Return how many coefficients of a tensor the level below has; at least one of one or more."""
    return -(-count * parts // PARTS)


def parts_of(fractions: Sequence[float]) -> tuple[int, ...]:
    """Return the parts that each level has of the one above, from the lowest.

    Args:
        fractions: of all levels but the highest, the coefficients of a tensor that it has, as parts of all.

    Raises:
        ArgumentError: they do not rise from above 0 to below 1, or are too many or too close.
    """
    if not isinstance(fractions, Iterable) or isinstance(fractions, str):
        raise ArgumentError(f"levels must be a list of parts, such as (0.25, 0.5); got {fractions!r}")
    shown = ", ".join(f"{fraction!r}" for fraction in fractions)
    numbers = [fraction for fraction in fractions if isinstance(fraction, (int, float)) and 0 < fraction < 1]
    if not numbers or len(numbers) < len(fractions) or sorted(set(numbers)) != list(numbers):
        raise ArgumentError(f"levels must rise from above 0 to below 1, such as (0.25, 0.5); got {shown}")
    if len(numbers) >= MAX_LEVELS:
        raise ArgumentError(
            f"a file has at most {MAX_LEVELS} levels, the whole network one of them; got {len(numbers)} more"
        )
    above = [*numbers[1:], 1.0]
    parts = tuple(max(1, round(PARTS * low / high)) for low, high in zip(numbers, above, strict=True))
    if max(parts) >= PARTS:
        raise ArgumentError(f"levels must differ by one part in {PARTS} or more; got {shown}")
    return parts


def count_in(level: int, count: int, parts: Sequence[int]) -> int:
    """Return how many coefficients a tensor with `count` in all has in a level, from 0."""
    return reduce(count_below, reversed(parts[level:]), count)
