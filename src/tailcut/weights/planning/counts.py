"""How many coefficients a tensor keeps: from a ratio or a count, and the checks of such numbers."""

import math
from collections.abc import Mapping, Sequence
from numbers import Integral, Real
from typing import Any

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


def check_positive(what: str, value: object) -> int:
    """`value`, of Python or of NumPy, as a plain int. Raises `ArgumentError` unless it is an integer above 0."""
    if isinstance(value, bool) or not isinstance(value, Integral) or value < 1:
        raise ArgumentError(f"{what} must be a positive integer, got {value!r}")
    return int(value)


def check_part(what: str, value: object) -> float:
    """`value`, of Python or of NumPy, as a plain float. Raises `ArgumentError` unless it is in (0, 1]."""
    if isinstance(value, bool) or not isinstance(value, Real) or not 0 < float(value) <= 1:
        raise ArgumentError(f"{what} must be above 0 and at most 1, got {value!r}")
    return float(value)


def check_named_counts(counts: Mapping[str, Any]) -> dict[str, Any]:
    """Return a copy of counts by name. Raises `ArgumentError` if there are none, or a name is not a string."""
    if not counts:
        raise ArgumentError("num_kept is an empty dict: expected the count of at least one tensor, by its name")
    wrong = [name for name in counts if not isinstance(name, str)]
    if wrong:
        raise ArgumentError(f"num_kept: expected names of tensors as keys ('conv.weight'), got {wrong[0]!r}")
    return dict(counts)


def round_half_up(value: float) -> int:
    """Return the nearest integer, halves up."""
    return math.floor(value + 0.5)
