"""Weights of a program: coefficients or dense numbers, in the narrowest type that holds them."""

import math
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import numpy.typing as npt

from tailcut.export_c.program.coded import coded

Floats = npt.NDArray[np.float32]
LEAST_SAVED = 128
"""Bytes that a code must save to be worth its time."""
MOST_CODED = 1 << 18
"""Numbers that are coded: more take seconds, and are for larger machines."""


@dataclass(frozen=True, eq=False)
class StoredNumbers:
    """Numbers as they lie in flash: `step` times `content`.

    `content` is of float32, float16, int16 or int8, or of uint8: the code of whole numbers, see `coded`.
    """

    content: npt.NDArray[np.generic]
    step: float = 1.0

    @property
    def is_float32(self) -> bool:
        """True if they are read where they lie."""
        return self.content.dtype == np.float32

    @property
    def is_whole(self) -> bool:
        """True if they are whole numbers, one after the other."""
        return self.content.dtype in (np.int8, np.int16)


def stored_numbers(numbers: Floats) -> StoredNumbers:
    """Numbers in the narrowest type that holds every one of them: of quantised files int8 or int16 and the step.

    The steps of files are powers of 2^(1/8); multiples of one are met to 1e-6, other numbers bit for bit.
    """
    largest = float(np.abs(numbers).max(initial=0.0))
    if not largest:
        return StoredNumbers(np.zeros(numbers.shape, np.int8))
    top = math.floor(8 * math.log2(largest)) + 1
    for power in range(top, top - 8 * 16, -1):
        step = 2.0 ** (power / 8)
        if largest / step >= 32_767 or not all(_are_multiples(part, step) for part in (numbers[:64], numbers)):
            continue
        whole = np.rint(numbers.astype(np.float64) / step)
        return StoredNumbers(whole.astype(np.int8 if np.abs(whole).max() <= 127 else np.int16), step)
    with np.errstate(over="ignore"):
        half = numbers.astype(np.float16)
    if np.isfinite(half).all() and np.array_equal(half.astype(np.float32), numbers):
        return StoredNumbers(half)
    return StoredNumbers(numbers)


def _are_multiples(numbers: Floats, step: float) -> bool:
    return np.allclose(np.rint(numbers.astype(np.float64) / step) * step, numbers, 1e-6, 0)


@dataclass(eq=False)
class Weight:
    """A weight as its first coefficients, or dense.

    Attributes:
        name: of the parameter.
        numbers: in the order of the file, or row-major (out, in, rows, columns).
        sizes: (out channels, in channels of a group, rows, columns).
        corner: the sizes of the corner that holds the coefficients, in the same order; `sizes` for a dense one.
        axes: transformed axes, as they are stored.
        order_weights: one for each of them.
        is_truncated: kept as coefficients.
        is_swapped: stored as (in, out, rows, columns).
    """

    name: str
    numbers: Floats
    sizes: tuple[int, int, int, int]
    corner: tuple[int, int, int, int]
    axes: tuple[int, ...] = ()
    order_weights: tuple[int, ...] = ()
    is_truncated: bool = False
    is_swapped: bool = False

    @cached_property
    def stored(self) -> StoredNumbers:
        """The numbers in the narrowest type that holds them; whole coefficients in a code where that is shorter."""
        stored = stored_numbers(self.numbers)
        if not self.is_truncated:
            return stored
        # So that a reader of coefficients need not: what cosine 0 of all transformed axes is scaled by.
        own = (self.sizes[1], self.sizes[0], *self.sizes[2:]) if self.is_swapped else self.sizes
        scaled = replace(stored, step=stored.step / math.sqrt(math.prod(own[axis] for axis in self.axes)))
        if not scaled.is_whole or len(self.numbers) > MOST_CODED:
            return scaled
        code = coded(stored.content.astype(np.int64).tolist())
        return replace(scaled, content=code) if code.nbytes + LEAST_SAVED <= stored.content.nbytes else scaled

    @property
    def is_narrow_out(self) -> bool:
        """True if the output channels are sums of cosines."""
        return (1 if self.is_swapped else 0) in self.axes

    @property
    def is_narrow_in(self) -> bool:
        """True if the input channels are projected on cosines."""
        return (0 if self.is_swapped else 1) in self.axes

    @property
    def taps(self) -> int:
        """Products per pair of channels."""
        return self.sizes[2] * self.sizes[3]

    @property
    def floats_per_output(self) -> int:
        """Numbers of the core for one output."""
        return self.corner[1] * self.taps
