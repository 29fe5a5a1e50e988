"""How many coefficients a tensor keeps: from a ratio or a count, and the checks of such numbers."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from tailcut.arguments import check_part, check_positive
from tailcut.errors import ArgumentError


def count_kept(
    shape: Sequence[int],
    axes: Sequence[int],
    *,
    keep_ratio: float | None,
    num_kept: int | None,
    min_kept: int = 1,
    name: str = "tensor",
) -> int:
    """Return the number of coefficients to keep of one tensor.

    A count is taken as it is, but never more than the tensor has. A ratio is rounded to the nearest number of
    whole frequencies (one coefficient each, if all axes are transformed), at least `min_kept`.

    Raises:
        ArgumentError: not exactly one of ratio and count, or one out of range.
    """
    total = math.prod(shape)
    if (keep_ratio is None) == (num_kept is None):
        raise ArgumentError(f"{name}: give either keep_ratio or num_kept")
    if num_kept is not None:
        return min(check_positive(f"{name}: num_kept", num_kept), total)
    least = check_positive(f"{name}: min_kept", min_kept)
    ratio = check_part(f"{name}: keep_ratio", keep_ratio)
    group = math.prod(size for axis, size in enumerate(shape) if axis not in axes)
    return min(total, max(least, group * max(1, round_half_up(ratio * (total // group)))))


def check_named_counts(counts: Mapping[str, Any]) -> dict[str, Any]:
    """Return a copy of counts by name. Raises `ArgumentError` if there are none, or a name is not a string."""
    if not counts:
        raise ArgumentError("num_kept is an empty dict: expected the count of at least one tensor, by its name")
    wrong = [name for name in counts if not isinstance(name, str)]
    if wrong:
        raise ArgumentError(f"num_kept: expected names of tensors as keys ('conv.weight'), got {wrong[0]!r}")
    return dict(counts)


def count_of(names: Sequence[str], counts: Mapping[str, int]) -> int | None:
    """Return the count that a tensor has by one of its names, or None. Raises `ArgumentError` for two of them."""
    given = {name: counts[name] for name in names if name in counts}
    if len(set(given.values())) > 1:
        shown = ", ".join(f"{name} {count}" for name, count in given.items())
        raise ArgumentError(f"num_kept: one tensor has these names, which are tied, and one count; got {shown}")
    return next(iter(given.values()), None)


def round_half_up(value: float) -> int:
    """Return the nearest integer, halves up."""
    return math.floor(value + 0.5)
