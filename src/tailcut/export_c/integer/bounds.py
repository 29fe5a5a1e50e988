"""Magnitudes that no number exceeds, as `runtime/tailcut_run_integer.c` keeps them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tailcut.export_c.integer.arithmetic import Ints, bits_of
from tailcut.export_c.integer.functions import IntegerFunction
from tailcut.export_c.integer.program import scale_of, shift_of
from tailcut.export_c.program.program import Op

SLACK = 16
"""What rounding may add to the number of a row."""


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

    def exponent_for(self, bits: int) -> Ints:
        """Return the least exponent in which a number within the bound has so many bits, with `SLACK` to spare."""
        count = bits_of(self.most)
        made = np.where(
            count > bits, halved_up(self.most, np.maximum(count - bits, 0)), self.most << np.maximum(bits - count, 0)
        )
        return self.exponent + count - bits + (made + SLACK > 1 << bits)


def halved_up(values: Ints, count: Ints | int) -> Ints:
    """Return half of them, `count` times, up to the next whole number."""
    return -(-values >> np.minimum(count, 32))


def _within(most: Ints, exponent: Ints) -> tuple[Ints, Ints]:
    is_large = most >= 1 << 31
    return np.where(is_large, halved_up(most, 1), most), exponent + is_large
