"""Magnitudes that no number exceeds, as `runtime/tailcut_run_integer.c` keeps them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tailcut.export_c.integer.arithmetic import Ints, bits_of, scaled
from tailcut.export_c.integer.functions import IntegerFunction
from tailcut.export_c.integer.program import scale_of, shift_of
from tailcut.export_c.program.program import Op, Operation

SLACK = 16
"""What rounding may add to the number of a row."""

LARGEST_FLOAT = float(np.finfo(np.float32).max)
"""The limit of a clamp that has none."""


@dataclass(frozen=True)
class Bound:
    """Magnitudes of at most `most` * 2^exponent, (images, channels); most < 2^31."""

    most: Ints
    exponent: Ints

    @staticmethod
    def of(mantissas: Ints, exponents: Ints) -> Bound:
        """Return the magnitudes of scaled numbers."""
        return Bound(np.abs(mantissas), exponents)

    def plus(self, other: Bound) -> Bound:
        """Return the bound of sums."""
        pair = np.broadcast_arrays(self.most, self.exponent, other.most, other.exponent)
        most, exponent, other_most, other_exponent = pair
        is_swapped = (most == 0) | ((other_most > 0) & (other_exponent > exponent))
        large, unit = np.where(is_swapped, other_most, most), np.where(is_swapped, other_exponent, exponent)
        small, below = np.where(is_swapped, most, other_most), np.where(is_swapped, exponent, other_exponent)
        total = large + np.where(small > 0, halved_up(small, np.maximum(unit - below, 0)), 0)
        return Bound(*_within(total, unit))

    def through(self, op: Op) -> Bound:
        """Return the bound of what a linear operation gives."""
        channels = self.most.shape[1]
        return self.times(Bound.of(*scale_of(op, channels))).plus(Bound.of(*shift_of(op, channels)))

    def times(self, other: Bound) -> Bound:
        """Return the bound of products."""
        less, other_less = np.maximum(bits_of(self.most) - 16, 0), np.maximum(bits_of(other.most) - 15, 0)
        made = halved_up(self.most, less) * halved_up(other.most, other_less)
        return Bound(*_within(made, self.exponent + less + other.exponent + other_less))

    def through_function(self, function: IntegerFunction) -> Bound:
        """Return the bound of what a function gives."""
        own = Bound(np.full_like(self.most, function.most), np.full_like(self.exponent, function.exponent))
        return self.plus(own) if function.is_rectified else own

    def clamped(self, op: Op) -> Bound:
        """Return the bound of what a clamp gives: as large as its limits make numbers, no larger than they allow."""
        if not changes_bound(op):
            return self
        (low, least), (high, most) = ((part[0], Bound.of(*part)) for part in (scaled(op.low), scaled(op.high)))
        found = self.or_above(least) if low > 0 else self
        found = found.or_above(most) if high < 0 else found
        most = least.or_above(most)
        return most.chosen(found.is_above(most), found)

    def is_above(self, other: Bound) -> npt.NDArray[np.bool_]:
        """Tell which magnitudes are larger than others."""
        bits, other_bits = bits_of(self.most), bits_of(other.most)
        more = self.exponent + bits - other.exponent - other_bits
        is_above = (more > 0) | ((more == 0) & (self.most << 32 - bits > other.most << 32 - other_bits))
        found: npt.NDArray[np.bool_] = np.where((self.most == 0) | (other.most == 0), self.most > 0, is_above)
        return found

    def or_above(self, other: Bound) -> Bound:
        """Return the larger of two bounds, at each place."""
        return other.chosen(other.is_above(self), self)

    def chosen(self, where: npt.NDArray[np.bool_], other: Bound) -> Bound:
        """Return this bound at some places, another elsewhere."""
        return Bound(np.where(where, self.most, other.most), np.where(where, self.exponent, other.exponent))

    def exponent_for(self, bits: int) -> Ints:
        """Return the least exponent in which a number within the bound has so many bits, with `SLACK` to spare."""
        count = bits_of(self.most)
        made = np.where(
            count > bits, halved_up(self.most, np.maximum(count - bits, 0)), self.most << np.maximum(bits - count, 0)
        )
        return self.exponent + count - bits + (made + SLACK > 1 << bits)


def changes_bound(op: Op) -> bool:
    """Tell if numbers may be larger or smaller behind a clamp than the largest before it; not behind a ReLU."""
    return op.kind == Operation.CLAMP and (op.low > 0 or op.high < LARGEST_FLOAT)


def halved_up(values: Ints, count: Ints | int) -> Ints:
    """Return half of them, `count` times, up to the next whole number."""
    return -(-values >> np.minimum(count, 32))


def _within(most: Ints, exponent: Ints) -> tuple[Ints, Ints]:
    is_large = most >= 1 << 31
    return np.where(is_large, halved_up(most, 1), most), exponent + is_large
