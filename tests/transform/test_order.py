import itertools
import math
import random
import time
import tracemalloc
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.processor_time import within

from tailcut.errors import ArgumentError
from tailcut.transform import l1_order, l1_rank, order
from tailcut.transform.order import check_order_weights, flat_positions, l1_order_index, normalize_axes


def brute_force(shape: tuple[int, ...], axes: tuple[int, ...], weights: tuple[int, ...]) -> list[int]:
    """All positions, sorted by the definition: frequency by weighted sum, then lexicographically; the rest after it."""
    whole = [axis for axis in range(len(shape)) if axis not in axes]

    def key(index: tuple[int, ...]) -> tuple[Any, ...]:
        frequency = tuple(index[axis] for axis in axes)
        total = sum(weight * part for weight, part in zip(weights, frequency, strict=True))
        return total, frequency, tuple(index[axis] for axis in whole)

    indices = sorted(itertools.product(*(range(size) for size in shape)), key=key)
    return [int(np.ravel_multi_index(index, shape)) if shape else 0 for index in indices]


def by_sorting(shape: tuple[int, ...], axes: tuple[int, ...], weights: tuple[int, ...]) -> np.ndarray:
    """Return the multi-indices of all coefficients in the same order, by NumPy's sort: (numel, axes of the tensor)."""
    index = np.indices(shape).reshape(len(shape), -1)
    total = sum((weight * index[axis] for axis, weight in zip(axes, weights, strict=True)), np.zeros(index.shape[1]))
    whole = [axis for axis in range(len(shape)) if axis not in axes]
    keys = [total, *index[list(axes)], *index[whole]]
    ordered: np.ndarray = index.T[np.lexsort(keys[::-1])]
    return ordered


@st.composite
def tensors(draw: st.DrawFn) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
    shape = tuple(draw(st.lists(st.integers(1, 6), max_size=5)))
    axes = tuple(sorted(draw(st.sets(st.sampled_from(range(len(shape)))) if shape else st.just(set()))))
    weights = tuple(draw(st.lists(st.integers(1, 9), min_size=len(axes), max_size=len(axes))))
    return shape, axes, weights


@given(tensors())
def test_order_is_that_of_a_sort(tensor: tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]) -> None:
    shape, axes, weights = tensor
    assert l1_order(shape, axes=axes, weights=weights).tolist() == brute_force(shape, axes, weights)


@given(tensors(), st.data())
def test_first_ones_begin_the_whole_order(
    tensor: tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]], data: st.DataObject
) -> None:
    shape, axes, weights = tensor
    num = data.draw(st.integers(0, math.prod(shape)))
    order = l1_order(shape, num, axes=axes, weights=weights)
    assert order.dtype == torch.int64
    assert order.tolist() == brute_force(shape, axes, weights)[:num]


@given(tensors())
def test_rank_is_the_inverse(tensor: tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]) -> None:
    shape, axes, weights = tensor
    order, rank = l1_order(shape, axes=axes, weights=weights), l1_rank(shape, axes=axes, weights=weights)
    assert rank.shape == shape
    assert torch.equal(rank.reshape(-1)[order], torch.arange(math.prod(shape)))


@given(tensors())
def test_index_and_position_agree(tensor: tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]) -> None:
    shape, axes, weights = tensor
    index = l1_order_index(shape, axes=axes, weights=weights)
    assert index.shape == (math.prod(shape), len(shape))
    positions = l1_order(shape, axes=axes, weights=weights).numpy()
    assert np.array_equal(flat_positions(index, shape), positions)
    if shape:
        assert np.array_equal(np.stack(np.unravel_index(positions, shape), axis=1), index)


def test_defaults_are_all_axes_and_weights_of_one() -> None:
    shape = (3, 4, 2)
    assert torch.equal(l1_order(shape), l1_order(shape, axes=(0, 1, 2), weights=(1, 1, 1)))
    assert torch.equal(l1_order(shape, axes=(-1, 0)), l1_order(shape, axes=(0, 2)))
    assert torch.equal(l1_order(shape, weights=(3, 3, 3)), l1_order(shape))


def test_two_axes_walk_the_diagonals_from_the_top_right() -> None:
    """JPEG's zigzag visits the same diagonals; there every second one is walked the other way."""
    rows, columns = np.divmod(l1_order((8, 8)).numpy(), 8)
    assert np.all(np.diff(rows + columns) >= 0)
    for diagonal in range(15):
        assert np.array_equal(rows[rows + columns == diagonal], np.sort(rows[rows + columns == diagonal]))
    assert list(zip(rows[:6].tolist(), columns[:6].tolist(), strict=True)) == [
        (0, 0),
        (0, 1),
        (1, 0),
        (0, 2),
        (1, 1),
        (2, 0),
    ]


def test_published_corner() -> None:
    """The first 33 coefficients of a 3 x 3 layer of the published network reach to index (3, 3, 2, 2)."""
    assert l1_order_index((512, 256, 3, 3), 33).max(axis=0).tolist() == [3, 3, 2, 2]
    assert l1_order_index((1024, 512, 2, 2), 33).max(axis=0).tolist() == [3, 4, 1, 1]
    assert l1_order_index((2, 64, 1, 1), 33).max(axis=0).tolist() == [1, 16, 0, 0]


HUGE: list[tuple[tuple[int, ...], dict[str, Any]]] = [
    ((9216, 4096), {}),
    ((4096, 9216), {"weights": (1, 3)}),
    ((9216, 4096, 3), {"axes": (2,)}),
    ((9216, 4096, 3), {"axes": (0,)}),
    ((9216, 4096), {"axes": ()}),
    ((1 << 30, 1 << 32), {}),
    ((512, 512, 3, 3), {"weights": (1, 1, 64, 64)}),
    ((1 << 10,) * 6, {}),
    ((1 << 30,), {}),
]


@pytest.mark.parametrize(("shape", "arguments"), HUGE)
def test_memory_follows_the_count(shape: tuple[int, ...], arguments: dict[str, Any]) -> None:
    l1_order((3, 3), 2)
    tracemalloc.start()
    started = time.process_time()
    order = l1_order(shape, 352, **arguments)
    fast = within(time.process_time() - started, seconds=0.5)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert order.shape == (352,)
    assert order[0] == 0
    assert len(set(order.tolist())) == 352
    assert peak < 5_000_000
    assert fast


def test_counts_beyond_float_precision_stay_exact() -> None:
    """Twelve axes of 2^20 hold more than 2^200 indices; the first ones are those of a small tensor."""
    huge = l1_order_index((1 << 20,) * 12, 2000)
    small = l1_order_index((4,) * 12, 2000)
    assert np.array_equal(huge[:455], small[:455])  # sums up to 3, which fit both: C(12 + 3, 3) = 455
    assert huge.sum(axis=1).max() == 5  # C(12 + 4, 4) = 1820 of sums up to 4
    assert np.all(np.diff(huge.sum(axis=1)) >= 0)


@pytest.mark.parametrize("num", [-1, 13, 10**12])
def test_count_out_of_range(num: int) -> None:
    with pytest.raises(ArgumentError, match=rf"expected 0 to 12 coefficients of a tensor of shape \(3, 4\), got {num}"):
        l1_order((3, 4), num)


def test_empty_tensors_and_counts() -> None:
    assert l1_order((0, 3)).shape == l1_order((3, 3), 0).shape == (0,)
    assert l1_rank((2, 0)).shape == (2, 0)
    assert l1_order(()).tolist() == [0]
    assert l1_rank(()).item() == 0


def test_negative_sizes_are_refused() -> None:
    with pytest.raises(ArgumentError, match=r"expected a shape of non-negative sizes, got \(-2, -3\)"):
        l1_order((-2, -3))


def test_more_positions_than_an_integer_can_count_are_refused() -> None:
    with pytest.raises(ArgumentError, match=r"has more than 2\^63 - 1 positions"):
        l1_order((1 << 40, 1 << 40), 3)


def test_default_device_does_not_matter() -> None:
    with torch.device("meta"):
        assert l1_rank((2, 3)).tolist() == [[0, 1, 3], [2, 4, 5]]


@pytest.mark.parametrize(
    ("axes", "expected"), [(None, (0, 1, 2)), ((), ()), ((-1, 0), (0, 2)), (np.array([1]).tolist(), (1,))]
)
def test_axes_are_sorted_and_counted_from_the_front(axes: Any, expected: tuple[int, ...]) -> None:
    result = normalize_axes(axes, 3)
    assert result == expected
    assert all(type(axis) is int for axis in result)


@pytest.mark.parametrize("axes", [[3], [-4], [1, 1], [1, -2]])
def test_axes_out_of_range_or_twice(axes: list[int]) -> None:
    with pytest.raises(ArgumentError, match="expected different axes of a tensor with 3 axes"):
        normalize_axes(axes, 3)


@pytest.mark.parametrize("axes", [0, 1.5, [0.0], [True], ["x"], "12"])
def test_axes_that_are_no_integers(axes: Any) -> None:
    with pytest.raises(ArgumentError, match="expected a list of integers as axes, got"):
        normalize_axes(axes, 3)


def test_order_weights_default_to_ones() -> None:
    assert check_order_weights(None, 3) == (1, 1, 1)
    assert check_order_weights([1, 64], 2) == (1, 64)
    from_numpy: Any = [np.int64(2)]
    assert all(type(weight) is int for weight in check_order_weights(from_numpy, 1))


@pytest.mark.parametrize(
    "weights", [(1,), (1, 2, 3), (0, 1), (65, 1), (-1, 1), (1.0, 1), (True, 1), "ab", 3, (None, 1)]
)
def test_order_weights_out_of_range(weights: Any) -> None:
    with pytest.raises(
        ArgumentError, match="expected order weights of 2 integers from 1 to 64, one per transformed axis"
    ):
        check_order_weights(weights, 2)
    with pytest.raises(ArgumentError, match="expected order weights of 2 integers"):
        l1_order((3, 3), 2, weights=weights)


@pytest.mark.parametrize("small", [False, True], ids=["as it is", "in many blocks, without a table"])
def test_positions_in_the_corner_are_those_of_a_sort(small: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if small:
        monkeypatch.setattr(order, "MAX_TABLE", 3)
        monkeypatch.setattr(order, "ORDER_BLOCK", 5)
    source = random.Random(0)
    for _ in range(800):
        shape = tuple(source.choice([1, 2, 3, 4, 5, 7, source.randint(1, 12)]) for _ in range(source.randint(1, 5)))
        axes = tuple(sorted(source.sample(range(len(shape)), source.randint(0, len(shape)))))
        weights = tuple(source.choice([1, 1, 2, 3, source.randint(1, 64)]) for _ in axes)
        num = source.randint(1, math.prod(shape))
        positions, corner = order.corner_positions(shape, num, axes=axes, weights=weights)
        index = by_sorting(shape, axes, weights)[:num]
        expected = [int(index[:, axis].max()) + 1 if axis in axes else size for axis, size in enumerate(shape)]
        case = f"{shape}, {num}, {axes}, {weights}"
        assert list(corner) == expected, case
        assert positions.tolist() == np.ravel_multi_index(tuple(index.T), corner).tolist(), case


def test_heavy_weights_on_long_axes_take_no_table() -> None:
    positions, corner = order.corner_positions((100_000, 2), 150_000, axes=(0, 1), weights=(64, 63))
    rows, columns = np.divmod(np.arange(200_000), 2)
    expected = np.lexsort((np.arange(200_000), 64 * rows + 63 * columns))[:150_000]
    assert corner == (int(expected.max()) // 2 + 1, 2)
    assert np.array_equal(positions, expected)
