"""Canonical order of the coefficients: by L1 norm of the index, ties lexicographically."""

import math
from collections.abc import Iterable, Sequence

import numpy as np
import torch

from tailcut.arguments import is_integer
from tailcut.errors import ArgumentError

MAX_ORDER_WEIGHT = 64
MAX_POSITIONS = (1 << 63) - 1
# Up to this sum, how many indices have each sum is kept as a table; beyond it, they are counted when asked for.
MAX_TABLE = 1 << 20
# So many indices are ordered at a time, or this part of all if that is more.
ORDER_BLOCK = 1 << 18
ORDER_PART = 16


def normalize_axes(axes: Sequence[int] | None, num_axes: int) -> tuple[int, ...]:
    """`axes` as sorted non-negative numbers; None means all axes.

    Raises:
        ArgumentError: this is no list of integers, or an axis is out of range or named twice.
    """
    if axes is None:
        return tuple(range(num_axes))
    axes = list(axes) if isinstance(axes, Iterable) else axes
    if not _are_integers(axes):
        raise ArgumentError(f"expected a list of integers as axes, got {axes!r}")
    chosen = [int(axis) + num_axes if axis < 0 else int(axis) for axis in axes]
    if any(not 0 <= axis < num_axes for axis in chosen) or len(set(chosen)) != len(chosen):
        raise ArgumentError(f"expected different axes of a tensor with {num_axes} axes, got {tuple(axes)}")
    return tuple(sorted(chosen))


def check_order_weights(weights: Sequence[int] | None, num_axes: int) -> tuple[int, ...]:
    """Return one weight per transformed axis; None means all ones.

    Raises:
        ArgumentError: not one integer from 1 to 64 per transformed axis.
    """
    if weights is None:
        return (1,) * num_axes
    weights = list(weights) if isinstance(weights, Iterable) else weights
    fits = _are_integers(weights) and all(1 <= weight <= MAX_ORDER_WEIGHT for weight in weights)
    if not fits or len(weights) != num_axes:
        raise ArgumentError(
            f"expected order weights of {num_axes} integers from 1 to {MAX_ORDER_WEIGHT}, one per transformed "
            f"axis, got {weights!r}"
        )
    return tuple(int(weight) for weight in weights)


def _are_integers(values: object) -> bool:
    """Return whether this is a sequence of integers; NumPy's count, bools do not."""
    return isinstance(values, Iterable) and all(map(is_integer, values))


def l1_order_index(
    shape: Sequence[int],
    num: int | None = None,
    *,
    axes: Sequence[int] | None = None,
    weights: Sequence[int] | None = None,
) -> np.ndarray:
    """Return the multi-indices of the first `num` coefficients, in order.

    Frequencies (indices over the transformed axes) are ordered by the weighted sum of their index, ties by
    the index read lexicographically. Axes that are not transformed are kept whole: for each frequency come
    all positions along them, lexicographically.

    Args and errors are those of `l1_order`.

    Returns:
        int64 array of shape (num, len(shape)). Time and memory follow `num`, not the size of the tensor.
    """
    axes = normalize_axes(axes, len(shape))
    weights = check_order_weights(weights, len(axes))
    if any(size < 0 for size in shape):
        raise ArgumentError(f"expected a shape of non-negative sizes, got {tuple(shape)}")
    total = math.prod(shape)
    num = total if num is None else num
    if not 0 <= num <= total:
        raise ArgumentError(f"expected 0 to {total} coefficients of a tensor of shape {tuple(shape)}, got {num}")
    if num == 0 or not shape:
        return np.zeros((num, len(shape)), dtype=np.int64)
    positions, corner = corner_positions(shape, num, axes=axes, weights=weights)
    return np.stack(np.unravel_index(positions, corner), axis=1)


def l1_order(
    shape: Sequence[int],
    num: int | None = None,
    *,
    axes: Sequence[int] | None = None,
    weights: Sequence[int] | None = None,
) -> torch.Tensor:
    """Return the flat (row-major) positions of the first `num` coefficients, in the canonical order.

    Args:
        shape: shape of the tensor.
        num: how many coefficients; all when None.
        axes: the transformed axes; all when None.
        weights: one positive integer per transformed axis; ones (the paper's L1 norm) when None.

    Returns:
        int64 tensor of shape (num,): the i-th entry is the position of the i-th coefficient.

    Raises:
        ArgumentError: `num`, `axes` or `weights` do not fit `shape`, or positions pass 2^63 - 1.

    >>> l1_order((3, 3), 6).tolist()
    [0, 1, 3, 2, 4, 6]
    """
    index = l1_order_index(shape, num, axes=axes, weights=weights)
    return torch.from_numpy(flat_positions(index, shape))


def l1_rank(
    shape: Sequence[int], *, axes: Sequence[int] | None = None, weights: Sequence[int] | None = None
) -> torch.Tensor:
    """Return the inverse of `l1_order`: for each index of a tensor of `shape`, the position of its coefficient.

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


def corner_positions(
    shape: Sequence[int], num: int, *, axes: Sequence[int], weights: Sequence[int]
) -> tuple[np.ndarray, tuple[int, ...]]:
    """Return the smallest corner that holds the first `num` coefficients, and their positions in it.

    The order is that of `l1_order_index`. It takes the result's 8 bytes and about 2 more per coefficient, for any
    shape: networks of a file are not to be trusted.

    Args:
        shape: shape of the tensor, every size at least 1.
        num: how many coefficients, 1 to the size of the tensor.
        axes: the transformed axes, sorted.
        weights: one positive integer per transformed axis.

    Returns:
        int64 array of shape (num,), row-major positions in the corner, and the corner's sizes: full along axes that
        are not transformed.

    Raises:
        ArgumentError: the corner has more than 2^63 - 1 positions.
    """
    whole = [axis for axis in range(len(shape)) if axis not in axes]
    group = math.prod(shape[axis] for axis in whole)
    grid = _Grid([shape[axis] for axis in axes], weights, -(-num // group))
    largest = dict(zip(axes, grid.largest_index(), strict=True))
    corner = tuple(largest[axis] + 1 if axis in largest else size for axis, size in enumerate(shape))
    if math.prod(corner) > MAX_POSITIONS:
        raise ArgumentError(f"a tensor of shape {tuple(corner)} has more than 2^63 - 1 positions")
    strides = [math.prod(corner[axis + 1 :]) for axis in range(len(corner))]
    places = grid.places([strides[axis] for axis in axes], math.prod(corner))
    if group == 1:
        return places, corner
    # Of the positions along them no more than `num` are needed, however many there are.
    index = np.unravel_index(np.arange(min(num, group)), [shape[axis] for axis in whole])
    inner = sum(strides[axis] * along for axis, along in zip(whole, index, strict=True))
    return (places[:, None] + inner).reshape(-1)[:num], corner


class _Grid:
    """The first `num` indices of a grid of `sizes`, by weighted sum, then lexicographically.

    The longest axis is never enumerated on its own: for each index along the others, those with a sum in some range are
    a run along it.
    """

    def __init__(self, sizes: Sequence[int], weights: Sequence[int], num: int) -> None:
        self._num = num
        self._num_axes = len(sizes)
        self._axes = [axis for axis, size in enumerate(sizes) if size > 1]
        # A common factor changes no order.
        factor = math.gcd(*(weights[axis] for axis in self._axes)) or 1
        self._sizes = [sizes[axis] for axis in self._axes]
        self._weights = [weights[axis] // factor for axis in self._axes]
        self._run = max(range(len(self._axes)), key=lambda place: self._sizes[place], default=0)
        self._most = sum(weight * (size - 1) for size, weight in zip(self._sizes, self._weights, strict=True))
        self._last = self._last_sum()
        self._reached = self._table(self._last) if self._last <= MAX_TABLE else None
        self._others = self._enumerated(self._last)

    def largest_index(self) -> list[int]:
        """Return the largest index along each axis among the first `num`."""
        largest = [0] * self._num_axes
        for place, axis in enumerate(self._axes):
            largest[axis] = min(self._sizes[place] - 1, (self._last - 1) // self._weights[place]) if self._last else 0
        # Of the last sum only some are taken: the lexicographically first.
        last_shell = self._shell()[: self._num - self._count(self._last - 1)]
        for place, axis in enumerate(self._axes):
            largest[axis] = max(largest[axis], int(last_shell[:, place].max(initial=0)))
        return largest

    def places(self, strides: Sequence[int], num_positions: int) -> np.ndarray:
        """Return the position of each coefficient, in order, (num,): the sum of index times stride.

        `num_positions` is the size of the row-major array that the strides belong to.
        """
        found = np.empty(self._num, dtype=np.int64)
        if not self._axes:
            found[:] = 0
            return found
        chosen = [strides[axis] for axis in self._axes]
        index, sums = self._others
        offsets = index @ np.array(
            [stride for place, stride in enumerate(chosen) if place != self._run], dtype=np.int64
        )
        weight, size, stride = self._weights[self._run], self._sizes[self._run], chosen[self._run]
        begin, done = 0, 0
        while done < self._num:
            end = self._range_end(begin, done)
            first = np.maximum(-((sums - begin) // weight), 0)
            last = np.clip((end - 1 - sums) // weight + 1, first, size)
            counts = np.maximum(last - first, 0)
            # Sum first, then place: in a row-major array places are in lexicographic order.
            step = weight * num_positions + stride
            starts = (sums - begin) * num_positions + offsets + (first - np.cumsum(counts) + counts) * step
            keys = np.arange(counts.sum()) * step
            keys += np.repeat(starts, counts)
            keys.sort()
            keys %= num_positions
            taken = min(len(keys), self._num - done)
            found[done : done + taken] = keys[:taken]
            begin, done = end, done + taken
        return found

    def _last_sum(self) -> int:
        """Return the smallest sum s such that at least `num` indices have a sum of at most s."""
        bound = min(16, self._most)
        while bound < min(self._most, MAX_TABLE) and self._table(bound)[-1] < self._num:
            bound = min(2 * bound, self._most)
        if bound <= MAX_TABLE and (table := self._table(bound))[-1] >= self._num:
            return int(np.searchsorted(table, self._num))
        self._reached, low, high = None, -1, bound
        self._others = self._enumerated(high)
        while self._count(high) < self._num:
            low, high = high, min(2 * high, self._most)
            self._others = self._enumerated(high)
        while low + 1 < high:
            middle = (low + high) // 2
            low, high = (middle, high) if self._count(middle) < self._num else (low, middle)
        return high

    def _table(self, bound: int) -> np.ndarray:
        return np.cumsum(_counts_by_sum(self._sizes, self._weights, bound))

    def _count(self, largest: int) -> int:
        """Return the number of indices with a sum of at most `largest`, itself at most the last one."""
        if largest < 0 or not self._axes:
            return 0 if largest < 0 else 1
        if self._reached is not None:
            return int(self._reached[largest])
        _, sums = self._others
        return int(np.clip((largest - sums) // self._weights[self._run] + 1, 0, self._sizes[self._run]).sum())

    def _enumerated(self, bound: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the indices along all axes but the longest whose sum is at most `bound`, and their sums.

        The indices are in lexicographic order, (n, axes - 1); the sums are (n,).
        """
        index, sums = np.zeros((1, 0), dtype=np.int64), np.zeros(1, dtype=np.int64)
        for place, (size, weight) in enumerate(zip(self._sizes, self._weights, strict=True)):
            if place == self._run:
                continue
            counts = np.minimum((bound - sums) // weight + 1, size)
            own = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
            index = np.column_stack([np.repeat(index, counts, axis=0), own])
            sums = np.repeat(sums, counts) + weight * own
        return index, sums

    def _shell(self) -> np.ndarray:
        """Return all indices with the last sum, in order: (n, axes longer than 1)."""
        index, sums = self._others
        if not self._axes:
            return np.zeros((1, 0), dtype=np.int64)
        along, rest = np.divmod(self._last - sums, self._weights[self._run])
        fits = (rest == 0) & (along < self._sizes[self._run])
        shell = np.insert(index[fits], self._run, along[fits], axis=1)
        ordered: np.ndarray = shell[np.lexsort(shell.T[::-1])]
        return ordered

    def _range_end(self, begin: int, done: int) -> int:
        """Return the largest end of a range of sums with at most a block of indices; the range has at least one sum."""
        wanted = done + max(ORDER_BLOCK, self._num // ORDER_PART)
        if self._reached is not None:
            return max(begin + 1, int(np.searchsorted(self._reached, wanted, side="right")))
        low, high = begin + 1, self._last + 1
        while low < high:
            middle = (low + high + 1) // 2
            low, high = (middle, high) if self._count(middle - 1) <= wanted else (low, middle - 1)
        return low


def _counts_by_sum(sizes: Sequence[int], weights: Sequence[int], bound: int) -> np.ndarray:
    """Return the number of indices with the weighted sums 0, 1, ..., `bound`.

    The numbers are floats: counts may exceed 2^63, and are only compared with a count that fits into memory.
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
