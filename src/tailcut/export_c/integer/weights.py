"""How the stored numbers of a weight become weights of 16 bits, as `runtime/tailcut_run_integer.c` makes them."""

import math
from dataclasses import dataclass, field

import numpy as np

from tailcut.errors import StructureError
from tailcut.export_c.integer.arithmetic import MOST_SUM, ONE, Ints, cosines, least_shift, rounded, split_bits
from tailcut.export_c.program.coded import coded
from tailcut.export_c.program.weights import LEAST_SAVED, MOST_CODED, StoredNumbers, Weight, stored_numbers
from tailcut.transform.order import l1_order_index

MOST = (1 << 15) - 1
MAX_BITS = 15
LEAST_BITS = 6


@dataclass(eq=False)
class IntegerWeight:
    """A weight and the shifts that its use needs; see `tailcut_integer_weight`.

    Attributes:
        weight: whose numbers these are.
        numbers: whole ones, in their order.
        factors: what a number is multiplied by, for 0 to 4 cosines that are not constant.
        factor_exponent: of the factors.
        is_rounded: the file's numbers are no whole numbers of 16 bits times a step, and were rounded to such.
        shift, core_shift, kernel_shift, exponent: filled in for the map that is read.
    """

    weight: Weight
    numbers: Ints
    factors: tuple[int, ...]
    factor_exponent: int
    is_rounded: bool
    shift: int = 0
    core_shift: int = 0
    kernel_shift: int = 0
    exponent: int = 0
    index: Ints = field(default_factory=lambda: np.zeros((4, 0), np.int64))

    @property
    def stored(self) -> StoredNumbers:
        """The numbers as they lie in flash; whole ones of a truncated weight in a code where that is shorter."""
        content = self.numbers.astype(np.int8 if np.abs(self.numbers).max(initial=0) <= 127 else np.int16)
        if self.weight.is_truncated and not self.is_rounded and len(content) <= MOST_CODED:
            code = coded(self.numbers.tolist())
            if code.nbytes + LEAST_SAVED <= content.nbytes:
                return StoredNumbers(code)
        return StoredNumbers(content)

    def coefficients(self) -> Ints:
        """Return the coefficients of a truncated weight with the scales of their cosines."""
        return self._scaled(self.shift)

    def dense(self) -> Ints:
        """Return a dense weight, (out, in, rows, columns)."""
        made: Ints = rounded(self.numbers * self.factors[0], self.shift).reshape(self.weight.sizes)
        return made

    def core(self) -> Ints:
        """Return the core (num_out, num_in, rows, columns) of a truncated weight."""
        return self._added(rounded(self._products(), self.core_shift))

    def set_for_core(self, bits: int) -> None:
        """Choose the shifts of a convolution of a map whose numbers have so many bits."""
        if not self.weight.is_truncated:
            self.shift = self._found(least_shift(lambda shift: self._fits_dense(shift, bits)))
            self.exponent = self.factor_exponent + self.shift
            return
        self.shift = self._found(least_shift(lambda shift: bool(np.abs(self._scaled(shift)).max(initial=0) <= MOST)))
        first = self._least_core_shift(bits)
        self.core_shift = self._found(least_shift(lambda shift: self._fits_core(shift, bits), first))
        self.exponent = self.factor_exponent + self.shift + self.core_shift - 14

    def set_for_whole(self) -> int:
        """Choose the shifts of a layer whose kernel is its whole input; return the bits of its projected input."""
        size = max(self.weight.sizes[2:])
        self.kernel_shift = self._found(least_shift(lambda shift: size << (14 - min(shift, 14)) + MAX_BITS <= MOST_SUM))
        sums, largest = self._sums(np.abs(self._scaled(0))), np.abs(self._scaled(0)).max(initial=1)
        bits = min(MAX_BITS, -(-split_bits(max(sums.max(initial=0) / largest, 1.0)) // 2))

        def fits(shift: int) -> bool:
            values = np.abs(self._scaled(shift))
            return bool(values.max(initial=0) <= MOST and int(self._sums(values).max(initial=0)) << bits <= MOST_SUM)

        self.shift = self._found(least_shift(fits))
        self.exponent = self.factor_exponent + self.shift
        return bits

    def wanted_bits(self) -> int:
        """Return the bits that a map should have which a convolution with this weight reads."""
        return max(LEAST_BITS, min(MAX_BITS, -(-self._bits_to_share() // 2)))

    def spare_bits(self) -> int:
        """Return the bits that the largest weights have beside a map of 16 bits."""
        return self._bits_to_share() - MAX_BITS

    def _bits_to_share(self) -> int:
        values = self.dense() if not self.weight.is_truncated else self._unrounded_core()
        magnitudes = np.abs(values).reshape(values.shape[0], -1).astype(np.float64)
        largest = max(magnitudes.max(initial=0.0), 1.0)
        return split_bits(max(magnitudes.sum(1).max(initial=0.0) / largest, 1.0))

    def _scaled(self, shift: int) -> Ints:
        counts = ((self.index > 0) & self._transformed()[:, None]).sum(0)
        return rounded(self.numbers * np.asarray(self.factors)[counts], shift)

    def _transformed(self) -> Ints:
        own = {self._stored_axis(axis) for axis in self.weight.axes}
        return np.asarray([axis in own for axis in range(4)])

    def _stored_axis(self, axis: int) -> int:
        return 1 - axis if self.weight.is_swapped and axis < 2 else axis

    def _products(self) -> Ints:
        """Coefficients times cosines, (rows, columns, count), before the last shift."""
        lines = rounded(self._scaled(self.shift) * self._kernel_cosines(2), 14)
        products: Ints = lines[:, None] * self._kernel_cosines(3)
        return products

    def _kernel_cosines(self, axis: int) -> Ints:
        size = self.weight.sizes[axis]
        is_cosine = axis in self.weight.axes
        made = cosines(size, self.weight.corner[axis]) if is_cosine else ONE * np.eye(size, dtype=np.int64)
        return np.ascontiguousarray(made[:, self.index[axis]])

    def _unrounded_core(self) -> Ints:
        self.shift = self._found(least_shift(lambda shift: bool(np.abs(self._scaled(shift)).max(initial=0) <= MOST)))
        self.core_shift = 14
        return self.core()

    def _fits_dense(self, shift: int, bits: int) -> bool:
        self.shift = shift
        values = np.abs(self.dense())
        return bool(values.max(initial=0) <= MOST and int(values.sum((1, 2, 3)).max()) << bits <= MOST_SUM)

    def _fits_core(self, shift: int, bits: int) -> bool:
        terms = rounded(self._products(), shift)
        if self._added(np.abs(terms)).max(initial=0) > MOST:  # no part of a sum exceeds it
            return False
        return int(np.abs(self._added(terms)).sum((1, 2, 3)).max(initial=0)) << bits <= MOST_SUM

    def _least_core_shift(self, bits: int) -> int:
        """Return a shift below which no core fits, from sums that are not rounded: rounding takes at most half of each.

        So the cores of all shifts below need not be made.
        """
        products = self._products()
        counts = self._added(np.ones_like(products[:1, :1]))  # for each place of the kernel the same
        counts_of_out = counts.sum((1, 2, 3)) * math.prod(products.shape[:2])
        most, sums = self._added(np.abs(products)), np.abs(self._added(products)).sum((1, 2, 3))

        def may_fit(shift: int) -> bool:
            largest = ((most >> shift) - counts).max(initial=0)
            least = ((sums >> shift) - counts_of_out).max(initial=0)
            return bool(largest <= MOST and int(least) << bits <= MOST_SUM)

        found = least_shift(may_fit)
        return 31 if found is None else found

    def _added(self, products: Ints) -> Ints:
        """Return the sums of products of the coefficients, (rows, columns, count), for each pair of channels.

        They are below 2^53, which float64 adds exactly.
        """
        num_out, num_in = self.weight.corner[:2]
        pairs = self.index[0] * num_in + self.index[1]
        places = products.reshape(-1, products.shape[2])
        sums = [np.bincount(pairs, place, num_out * num_in).astype(np.int64) for place in places]
        return np.stack(sums, 1).reshape(num_out, num_in, *products.shape[:2])

    def _sums(self, values: Ints) -> Ints:
        sums = np.zeros(self.weight.corner[0], np.int64)
        np.add.at(sums, self.index[0], values)
        return sums

    def _found(self, shift: int | None) -> int:
        if shift is None:
            raise StructureError(
                f"{self.weight.name}: its sums do not fit in 32 bits; export with the arithmetic float32"
            )
        return shift


def integer_weight(weight: Weight) -> IntegerWeight:
    """Return a weight as whole numbers times a step: those of its file if it has such, else rounded to 16 bits."""
    stored, is_rounded = stored_numbers(weight.numbers), False
    if stored.is_whole:
        numbers, step = stored.content.astype(np.int64), stored.step
    else:
        largest = float(np.abs(weight.numbers).max(initial=0.0))
        step = 2.0 ** (math.frexp(largest)[1] - MAX_BITS)
        numbers = np.clip(np.rint(weight.numbers.astype(np.float64) / step), -MOST, MOST).astype(np.int64)
        is_rounded = True
    own = _as_stored(weight.sizes, weight.is_swapped)
    step /= math.sqrt(math.prod(own[axis] for axis in weight.axes)) if weight.is_truncated else 1.0
    exponent = math.frexp(step * 2.0 ** (len(weight.axes) / 2))[1] - MAX_BITS
    factors = tuple(min(MOST, round(math.ldexp(step * 2.0 ** (count / 2), -exponent))) for count in range(5))
    made = IntegerWeight(weight, numbers.reshape(-1), factors, exponent, is_rounded)
    if weight.is_truncated:
        made.index = coefficient_index(weight)
    return made


def coefficient_index(weight: Weight) -> Ints:
    """Return the places of the coefficients along (out, in, rows, columns), (4, count)."""
    own = _as_stored(weight.sizes, weight.is_swapped)
    index = l1_order_index(own, len(weight.numbers), axes=weight.axes, weights=weight.order_weights)
    places = index.T
    return places[[1, 0, 2, 3]] if weight.is_swapped else places


def made_dense(weight: Weight, *, keeps_out: bool) -> Weight:
    """Return a truncated weight as a dense tensor, (out, in, rows, columns).

    Args:
        weight: kept as coefficients.
        keeps_out: the output channels stay those of cosines, with the scales of these.
    """
    made = np.zeros(weight.corner, np.float64)
    made[tuple(coefficient_index(weight))] = weight.numbers
    sizes = list(weight.sizes)
    for axis in (1 - axis if weight.is_swapped and axis < 2 else axis for axis in weight.axes):
        size, count = weight.sizes[axis], weight.corner[axis]
        basis = np.cos(np.pi * (2 * np.arange(size)[:, None] + 1) * np.arange(count) / (2 * size))
        if axis == 0 and keeps_out:
            basis, sizes[0] = np.eye(count), count
        basis = basis * np.where(np.arange(count) > 0, math.sqrt(2 / size), math.sqrt(1 / size))
        made = np.moveaxis(np.tensordot(basis, made, (1, axis)), 0, axis)
    numbers, shape = np.ascontiguousarray(made, np.float32).reshape(-1), (sizes[0], sizes[1], sizes[2], sizes[3])
    return Weight(weight.name, numbers, shape, shape)


def _as_stored(sizes: tuple[int, int, int, int], is_swapped: bool) -> tuple[int, int, int, int]:
    return (sizes[1], sizes[0], *sizes[2:]) if is_swapped else sizes
