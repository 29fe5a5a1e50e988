import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tailcut.errors import ArgumentError
from tailcut.weights.planning.counts import check_named_counts, count_kept, round_half_up

SHAPES = st.lists(st.integers(1, 40), max_size=4).map(tuple)


@given(SHAPES, st.floats(0, 1, exclude_min=True), st.integers(1, 50))
def test_ratio_of_all_axes_is_rounded_to_the_nearest_count(shape: tuple[int, ...], ratio: float, min_kept: int) -> None:
    total = math.prod(shape)
    count = count_kept(shape, range(len(shape)), keep_ratio=ratio, num_kept=None, min_kept=min_kept)
    assert count == min(total, max(min_kept, 1, math.floor(ratio * total + 0.5)))


@given(SHAPES, st.data())
def test_ratio_of_some_axes_keeps_whole_frequencies(shape: tuple[int, ...], data: st.DataObject) -> None:
    axes = data.draw(st.sets(st.sampled_from(range(len(shape)))) if shape else st.just(set()))
    ratio = data.draw(st.floats(0, 1, exclude_min=True))
    group = math.prod(size for axis, size in enumerate(shape) if axis not in axes)
    count = count_kept(shape, sorted(axes), keep_ratio=ratio, num_kept=None)
    assert count % group == 0
    assert 1 <= count <= math.prod(shape)
    assert abs(count - ratio * math.prod(shape)) <= group / 2 * (1 + 1e-9) or count == group


def test_ratio_of_one_keeps_everything() -> None:
    assert count_kept((3, 7), (1,), keep_ratio=1, num_kept=None) == 21
    assert count_kept((3, 7), (), keep_ratio=0.001, num_kept=None) == 21


@given(SHAPES, st.integers(1, 2000))
def test_counts_are_capped_by_the_size(shape: tuple[int, ...], num_kept: int) -> None:
    assert count_kept(shape, (), keep_ratio=None, num_kept=num_kept, min_kept=99) == min(num_kept, math.prod(shape))


BOTH_OR_NONE: list[dict[str, Any]] = [{"keep_ratio": None, "num_kept": None}, {"keep_ratio": 0.5, "num_kept": 3}]


@pytest.mark.parametrize("arguments", BOTH_OR_NONE)
def test_ratio_and_count_exclude_each_other(arguments: dict[str, Any]) -> None:
    with pytest.raises(ArgumentError, match=r"conv\.weight: give either keep_ratio or num_kept"):
        count_kept((3, 3), (0, 1), name="conv.weight", **arguments)


@pytest.mark.parametrize(
    ("value", "expected"), [(0.5, 1), (1.5, 2), (2.5, 3), (2.4999, 2), (0.0, 0), (-0.5, 0), (7.0, 7)]
)
def test_halves_are_rounded_up(value: float, expected: int) -> None:
    assert round_half_up(value) == expected


def test_numbers_of_numpy_give_plain_counts() -> None:
    ratio: Any = np.float32(0.5)
    count: Any = np.int64(12)
    counts = [
        count_kept((4, 6), (0, 1), keep_ratio=ratio, num_kept=None),
        count_kept((4, 6), (0, 1), keep_ratio=None, num_kept=count),
        count_kept((4, 6), (0, 1), keep_ratio=0.01, num_kept=None, min_kept=count),
    ]
    assert [(count, type(count)) for count in counts] == [(12, int)] * 3


def test_counts_by_name() -> None:
    counts = {"a": 3}
    assert check_named_counts(counts) == counts
    assert check_named_counts(counts) is not counts
    with pytest.raises(ArgumentError, match="num_kept is an empty dict: expected the count of at least one tensor"):
        check_named_counts({})
    wrong: Any = {"a": 1, 0: 3}
    with pytest.raises(ArgumentError, match=r"num_kept: expected names of tensors as keys \('conv.weight'\), got 0"):
        check_named_counts(wrong)
