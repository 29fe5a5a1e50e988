"""About how many bits numbers take once they are coded."""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from tailcut.format.quantized import Coded, Layout
from tailcut.format.quantized.coder import APART, LEAST_MEAN

SHIFT_BITS = 3.0
"""About the bits of a shift in the file: an axis whose shifts save less has none."""

MANY = 1 << 10
"""From so many numbers of a matrix on, their distribution tells what they cost; of fewer their sizes do."""


def expected_bits(mean: ArrayLike) -> np.ndarray:
    """Return the bits of a number with a Laplace distribution, rounded to whole numbers.

    Args:
        mean: of its magnitude, not below 0; of any shape, as what is returned.
    """
    means = np.asarray(mean, np.float64)
    scale = np.maximum(means, 1e-3)
    zero, ratio = -np.expm1(-0.5 / scale), np.exp(-1 / scale)
    # Whether it is 0; then the sign, and a geometric distribution of the magnitude.
    bits = _binary_entropy(zero) + (1 - zero) * (1 + _binary_entropy(ratio) / (1 - ratio))
    return np.where(means < 1e-3, 0.0, bits)


def _binary_entropy(share: np.ndarray) -> np.ndarray:
    both = np.stack([share, 1 - share])
    entropy: np.ndarray = -(both * np.log2(np.maximum(both, 1e-300))).sum(0)
    return entropy


def coded_bits(made: Coded, layout: Layout) -> float:
    """Return about the bits of a tensor."""
    magnitudes = np.abs(made.numbers)
    shifts = SHIFT_BITS * sum(map(len, made.shifts.values()))
    if len(layout.shape) > 1 and layout.size >= MANY:
        return _entropy(magnitudes, layout.shape) + np.count_nonzero(magnitudes) + shifts  # and their signs
    bits = np.where(magnitudes, 2 * np.log2(np.maximum(magnitudes, 1)) + 3, 0.4).sum()
    return float(bits) + 2 * math.log2(abs(made.offset) + 1) + shifts


def _entropy(magnitudes: np.ndarray, shape: Sequence[int]) -> float:
    """Return the bits of magnitudes if those for which the coder expects about the same have one distribution.

    Args:
        magnitudes: the first ones of a tensor; those behind are 0.
        shape: of the tensor.
    """
    whole = np.zeros(math.prod(shape))
    whole[: len(magnitudes)] = magnitudes
    whole = whole.reshape(shape)
    mean = whole.mean()
    apart = np.zeros(())
    for axis in range(whole.ndim):
        others = tuple(other for other in range(whole.ndim) if other != axis)
        apart = apart + np.log2(whole.mean(others, keepdims=True) + LEAST_MEAN) - math.log2(mean + LEAST_MEAN)
    expected = math.log2(mean + LEAST_MEAN) + APART * apart
    classes = np.clip(np.round(2 * expected).astype(np.int64) + 10, 0, 63)  # half octaves, as the coder's levels
    # Large ones by octaves and their quarters: few are alike, and what tells them apart costs the same anywhere.
    large = np.log2(whole[whole >= 16]) - 4
    places = whole.astype(np.int64)
    places[whole >= 16] = 16 + np.floor(4 * large).astype(np.int64)
    counts = np.bincount((128 * classes + places).reshape(-1), minlength=64 * 128).reshape(64, 128)
    totals = np.maximum(counts.sum(1, keepdims=True), 1)
    shares = counts / totals
    return float(large.sum() - (counts * np.log2(np.where(counts, shares, 1.0))).sum())
