"""The canonical order of coefficients: which index is the i-th (L1 norm first, ties lexicographic)."""

import math
from collections.abc import Iterable, Sequence
from numbers import Integral

import numpy as np
import torch

from tailcut.errors import ArgumentError

MAX_ORDER_WEIGHT = 64
MAX_POSITIONS = (1 << 63) - 1


def normalize_axes(axes: Sequence[int] | None, num_axes: int) -> tuple[int, ...]:
    """`axes` as sorted non-negative numbers; None means all axes.

    Raises:
        ArgumentError: this is no list of integers, or an axis is out of range or named twice.
    """
    if axes is None:
        return tuple(range(num_axes))
    if not _are_integers(axes):
        raise ArgumentError(f"expected a list of integers as axes, got {axes!r}")
    chosen = [int(axis) + num_axes if axis < 0 else int(axis) for axis in axes]
    if any(not 0 <= axis < num_axes for axis in chosen) or len(set(chosen)) != len(chosen):
        raise ArgumentError(f"expected different axes of a tensor with {num_axes} axes, got {tuple(axes)}")
    return tuple(sorted(chosen))


def check_order_weights(weights: Sequence[int] | None, num_axes: int) -> tuple[int, ...]:
    """One weight per transformed axis; None means all ones.

    Raises:
        ArgumentError: not one integer from 1 to 64 per transformed axis.
    """
    if weights is None:
        return (1,) * num_axes
    fits = _are_integers(weights) and all(1 <= weight <= MAX_ORDER_WEIGHT for weight in weights)
    if not fits or len(weights) != num_axes:
        raise ArgumentError(
            f"expected order weights of {num_axes} integers from 1 to {MAX_ORDER_WEIGHT}, one per transformed "
            f"axis, got {weights!r}"
        )
    return tuple(int(weight) for weight in weights)


def _are_integers(values: object) -> bool:
    """Whether this is a list (or the like) of integers; NumPy's count, bools do not."""
    return isinstance(values, Iterable) and all(
        isinstance(value, Integral) and not isinstance(value, bool) for value in values
    )


def l1_order_index(
    shape: Sequence[int],
    num: int | None = None,
    *,
    axes: Sequence[int] | None = None,
    weights: Sequence[int] | None = None,
) -> np.ndarray:
    """The multi-indices of the first `num` coefficients, in order.

    Frequencies (indices over the transformed axes) are ordered by the weighted sum of their index, ties by
    the index read lexicographically. Axes that are not transformed are kept whole: for each frequency come
    all positions along them, lexicographically.

    Args:
        shape: shape of the tensor.
        num: how many coefficients; all when None.
        axes: the transformed axes; all when None.
        weights: one positive integer per transformed axis; ones (the L1 norm) when None.

    Returns:
        int64 array of shape (num, len(shape)). Time and memory follow `num`, not the size of the tensor.

    Raises:
        ArgumentError: `num`, `axes` or `weights` do not fit `shape`.
    """
    axes = normalize_axes(axes, len(shape))
    weights = check_order_weights(weights, len(axes))
    if any(size < 0 for size in shape):
        raise ArgumentError(f"expected a shape of non-negative sizes, got {tuple(shape)}")
    total = math.prod(shape)
    num = total if num is None else num
    if not 0 <= num <= total:
        raise ArgumentError(f"expected 0 to {total} coefficients of a tensor of shape {tuple(shape)}, got {num}")
    whole = [axis for axis in range(len(shape)) if axis not in axes]
    group = math.prod(shape[axis] for axis in whole)
    index = np.zeros((num, len(shape)), dtype=np.int64)
    if num == 0:
        return index
    frequencies = _first_frequencies([shape[axis] for axis in axes], weights, -(-num // group))
    places = np.arange(num)
    index[:, list(axes)] = frequencies[places // group]
    if whole:
        inner = np.unravel_index(places % group, [shape[axis] for axis in whole])
        index[:, whole] = np.stack(inner, axis=1)
    return index


def l1_order(
    shape: Sequence[int],
    num: int | None = None,
    *,
    axes: Sequence[int] | None = None,
    weights: Sequence[int] | None = None,
) -> torch.Tensor:
    """The flat (row-major) positions of the first `num` coefficients, in the canonical order.

    Args:
        shape: shape of the tensor.
        num: how many coefficients; all when None.
        axes: the transformed axes; all when None.
        weights: one positive integer per transformed axis; ones (the paper's L1 norm) when None.

    Returns:
        int64 tensor of shape (num,): the i-th entry is the position of the i-th coefficient.

    Raises:
        ArgumentError: `num`, `axes` or `weights` do not fit `shape`.

    >>> l1_order((3, 3), 6).tolist()
    [0, 1, 3, 2, 4, 6]
    """
    index = l1_order_index(shape, num, axes=axes, weights=weights)
    return torch.from_numpy(flat_positions(index, shape))


def l1_rank(
    shape: Sequence[int], *, axes: Sequence[int] | None = None, weights: Sequence[int] | None = None
) -> torch.Tensor:
    """The inverse of `l1_order`: at each index of a tensor of `shape`, the place of its coefficient.

    Returns:
        int64 tensor of shape `shape`.

    >>> l1_rank((2, 3)).tolist()
    [[0, 1, 3], [2, 4, 5]]
    """
    order = l1_order(shape, axes=axes, weights=weights)
    rank = torch.empty_like(order)
    rank[order] = torch.arange(order.numel(), device=order.device)
    return rank.reshape(tuple(shape))


def flat_positions(index: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    """Row-major positions, shape (n,), of multi-indices, shape (n, len(shape))."""
    if not shape:
        return np.zeros(len(index), dtype=np.int64)
    if math.prod(shape) > MAX_POSITIONS:
        raise ArgumentError(f"a tensor of shape {tuple(shape)} has more than 2^63 - 1 positions")
    flat: np.ndarray = np.ravel_multi_index(tuple(index.T), tuple(shape)).astype(np.int64)
    return flat


def _first_frequencies(sizes: Sequence[int], weights: Sequence[int], num: int) -> np.ndarray:
    """The first `num` indices of a grid of `sizes`, by weighted sum, then lexicographically: (num, axes)."""
    if not sizes:
        return np.zeros((num, 0), dtype=np.int64)
    largest = _largest_sum(sizes, weights, num)
    found = np.zeros((1, 0), dtype=np.int64)
    sums = np.zeros(1, dtype=np.int64)
    for size, weight in zip(sizes, weights, strict=True):
        # Each prefix found so far is extended by every index that keeps the sum in bounds. The order of
        # enumeration is lexicographic, so that a stable sort by the sum alone gives the total order.
        counts = np.minimum((largest - sums) // weight + 1, size)
        starts = np.cumsum(counts) - counts
        last = np.arange(counts.sum()) - np.repeat(starts, counts)
        found = np.column_stack([np.repeat(found, counts, axis=0), last])
        sums = np.repeat(sums, counts) + weight * last
    order = np.argsort(sums.astype(np.int32), kind="stable")[:num]
    return found[order]


def _largest_sum(sizes: Sequence[int], weights: Sequence[int], num: int) -> int:
    """The smallest weighted sum s such that at least `num` indices have a sum of at most s."""
    most = sum(weight * (size - 1) for size, weight in zip(sizes, weights, strict=True))
    bound = 16
    while True:
        bound = min(bound, most)
        reached = np.cumsum(_counts_by_sum(sizes, weights, bound))
        if reached[-1] >= num or bound == most:
            return int(np.searchsorted(reached, num))
        bound *= 2


def _counts_by_sum(sizes: Sequence[int], weights: Sequence[int], bound: int) -> np.ndarray:
    """How many indices have the weighted sum 0, 1, ..., `bound`. Floats: counts may pass 2^63, and only
    comparisons with a count that fits into memory are made.
    """
    counts = np.zeros(bound + 1)
    counts[0] = 1
    for size, weight in zip(sizes, weights, strict=True):
        # Multiplying by 1 + x^w + ... + x^(w (size - 1)) = (1 - x^(w size)) / (1 - x^w).
        shifted = counts.copy()
        if weight * size <= bound:
            shifted[weight * size :] -= counts[: bound + 1 - weight * size]
        for start in range(weight):
            shifted[start::weight] = np.cumsum(shifted[start::weight])
        counts = shifted
    return counts
