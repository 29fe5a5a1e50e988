"""Checks of numbers that users give: of Python or of NumPy, and returned as Python's own."""

import math
from numbers import Integral, Real
from typing import Any

from tailcut.errors import ArgumentError


def is_integer(value: object) -> bool:
    """Return whether this is an integer of Python or NumPy; a bool is none."""
    return isinstance(value, Integral) and not isinstance(value, bool)


def is_number(value: object) -> bool:
    """Return whether this is a real number of Python or NumPy that is finite; a bool is none."""
    return isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)


def check_positive(what: str, value: object) -> int:
    """`value` as a plain int. Raises `ArgumentError` unless it is an integer above 0."""
    if not isinstance(value, Integral) or isinstance(value, bool) or value < 1:
        raise ArgumentError(f"{what} must be a positive integer, got {value!r}")
    return int(value)


def check_part(what: str, value: object) -> float:
    """`value` as a plain float. Raises `ArgumentError` unless it is in (0, 1]."""
    if not isinstance(value, Real) or isinstance(value, bool) or not 0 < float(value) <= 1:
        raise ArgumentError(f"{what} must be above 0 and at most 1, got {value!r}")
    return float(value)


def check_seed(value: Any) -> int:
    """`value` as a plain int. Raises `ArgumentError` unless it is an integer that torch's generators take."""
    if not is_integer(value) or not -(1 << 63) <= value < 1 << 64:
        raise ArgumentError(f"seed must be an integer of at most 64 bits, got {value!r}")
    return int(value)
