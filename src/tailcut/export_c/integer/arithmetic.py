"""Roundings, cosines and scaled numbers of the integer way, on arrays of int64; the functions of the C code by name."""

import math
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]

ONE = 1 << 14
"""Cosine 1."""

LARGEST = 1 << 30
"""What a scaled number is limited to."""

MOST_SUM = (1 << 31) - 1
"""What no sum of products may exceed."""

MOST_ROUNDED = 1 << 30
"""What no number may exceed that is rounded."""

_POLYNOMIAL = (20213, 4158, 345, 16)


def halved(values: Ints, count: Ints | int) -> Ints:
    """Return half of them, `count` times, down to the next whole number."""
    return values >> np.minimum(count, 62)


def rounded(values: Ints, count: Ints | int) -> Ints:
    """Return them over 2^count to the nearest number, halves up."""
    count = np.asarray(count, np.int64)
    within = np.clip(count, 1, 31)
    made = values + (np.int64(1) << (within - 1))
    made >>= within
    # There are few counts, and values of large maps, which are not read again for what no count asks for.
    if np.any(count > 30):
        made = np.where(count > 30, 0, made)
    return np.where(count <= 0, values, made) if np.any(count <= 0) else made


def shifted(values: Ints, power: Ints | int) -> Ints:
    """Return them times 2^power."""
    power = np.asarray(power, np.int64)
    if np.all(power <= 0):
        return rounded(values, -power)
    up = np.where(power > 30, 0, values << np.clip(power, 0, 30))
    return np.where(power > 0, up, rounded(values, -power))


def saturated(values: Ints, power: Ints | int, most: int) -> Ints:
    """Return them times 2^power, within `most`; values within 2^30."""
    power = np.asarray(power, np.int64)
    limit = np.where(power > 30, 0, most >> np.clip(power, 0, 30))
    made = shifted(np.where(power > 0, np.clip(values, -limit, limit), values), power)
    made = np.where((power > 0) & (values > limit), most, np.where((power > 0) & (values < -limit), -most, made))
    limited: Ints = np.clip(made, -most, most)
    return limited


def bits_of(values: Ints) -> Ints:
    """Return how many bits they have, of 0 and more; exact below 2^53."""
    return np.frexp(values.astype(np.float64))[1].astype(np.int64)


def divided(sums: Ints, count: Ints | int) -> Ints:
    """Return sums over counts to the nearest number, halves up."""
    return (2 * sums + count) // (2 * count)


def cosine_table(size: int) -> Ints:
    """Return cos(pi / 2 * n / size) * ONE for n from 0 to `size`."""
    part = (np.arange(size + 1, dtype=np.int64) * 32768 + size // 2) // size
    square = rounded(part * part, 15)
    total = np.zeros_like(square)
    for factor in reversed(_POLYNOMIAL):
        total = factor - rounded(square * total, 15)
    return ONE - rounded(square * total, 15)


def cosines(size: int, count: int) -> Ints:
    """Return cos(pi (2 place + 1) k / (2 size)) * ONE, (size, count)."""
    table = cosine_table(size)
    angle = (2 * np.arange(size)[:, None] + 1) * np.arange(count) % (4 * size)
    turn = np.where(angle > 2 * size, 4 * size - angle, angle)
    made: Ints = np.where(turn > size, -table[np.clip(2 * size - turn, 0, size)], table[np.clip(turn, 0, size)])
    return made


def scaled(values: npt.ArrayLike) -> tuple[Ints, Ints]:
    """Return the nearest scaled numbers: mantissas of 15 bits and a sign, and exponents from -128 to 113.

    What is larger than any scaled number becomes the largest, what is smaller 0.
    """
    numbers = np.asarray(values, np.float64)
    fraction, power = np.frexp(numbers)
    mantissa, exponent = np.rint(np.ldexp(fraction, 15)).astype(np.int64), power.astype(np.int64) - 15
    is_full = np.abs(mantissa) == 1 << 15
    mantissa, exponent = np.where(is_full, mantissa >> 1, mantissa), np.where(is_full, exponent + 1, exponent)
    is_large, is_small = exponent > 113, (exponent < -128) | (mantissa == 0)
    mantissa = np.where(is_large, np.sign(mantissa) * 32767, np.where(is_small, 0, mantissa))
    return mantissa, np.where(is_large, 113, np.where(is_small, 0, exponent))


def packed(mantissas: Ints, exponents: Ints) -> npt.NDArray[np.int32]:
    """Return scaled numbers as they lie in flash."""
    return ((mantissas << 8) + exponents + 128).astype(np.int32)


def in_units(mantissas: Ints, exponents: Ints, unit: Ints) -> Ints:
    """Return scaled numbers in units of 2^unit, within `LARGEST`."""
    return saturated(mantissas, exponents - unit, LARGEST)


def least_shift(fits: Callable[[int], bool], first: int = 0) -> int | None:
    """Return the least shift from `first` to 30 that fits; None if none does."""
    return next((shift for shift in range(first, 31) if fits(shift)), None)


def split_bits(most_products: float) -> int:
    """Return how many bits both factors of a sum of products may have together.

    Args:
        most_products: the sum of the magnitudes of one factor, in parts of the largest of them.
    """
    return math.floor(math.log2(MOST_SUM / most_products))
