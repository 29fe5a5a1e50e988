import math
import re
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from tailcut.errors import ArgumentError
from tailcut.weights.layers import candidates
from tailcut.weights.settings import (
    OVERRIDE_KEYS,
    Setting,
    check_named_counts,
    check_part,
    check_patterns,
    check_positive,
    count_kept,
    matches,
    plan_tensors,
    round_half_up,
    to_pattern_list,
)

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


def test_positive_integers() -> None:
    for number in (3, np.int64(3), np.uint8(3)):
        assert (check_positive("x", number), type(check_positive("x", number))) == (3, int)
    for value in (0, -1, True, 1.0, "1", None, np.int64(0), np.float32(1), np.bool_(True)):
        with pytest.raises(ArgumentError, match=re.escape(f"x must be a positive integer, got {value!r}")):
            check_positive("x", value)


def test_parts() -> None:
    for number in (0.5, np.float32(0.5), np.float64(0.5), Fraction(1, 2)):
        assert (check_part("x", number), type(check_part("x", number))) == (0.5, float)
    assert type(check_part("x", np.int64(1))) is float
    for value in (0, 1.01, -0.5, True, "0.5", None, math.nan, np.float32(2), np.bool_(True), 0.5j):
        with pytest.raises(ArgumentError, match=re.escape(f"x must be above 0 and at most 1, got {value!r}")):
            check_part("x", value)


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


def test_patterns_are_shell_style_on_any_name() -> None:
    assert matches(["features.0.weight", "head.weight"], ["head.*"])
    assert matches(["features.10.weight"], ["features.1?.weight"])
    assert matches(["features.3.weight"], ["features.[1-4].weight"])
    assert not matches(["features.3.weight"], ["features", "weight", "Features.*"])
    assert not matches(["a"], [])


def test_patterns_come_as_one_or_several() -> None:
    assert to_pattern_list("include", "a.*") == ["a.*"]
    assert to_pattern_list("include", ("a", "b")) == ["a", "b"]
    wrong: Any
    for wrong in (3, [3], None, [None]):
        with pytest.raises(ArgumentError, match="include must be a pattern of names or a list of patterns, got"):
            to_pattern_list("include", wrong)


def test_a_pattern_that_matches_nothing_is_a_slip_of_the_pen() -> None:
    names = ["features.0.weight", "features.2.weight", "head.weight"]
    check_patterns("include", ["head.*", "*.2.*"], names)
    with pytest.raises(ArgumentError, match=r"include: 'haed\.weight' matches no parameter; .*head\.weight"):
        check_patterns("include", ["head.*", "haed.weight"], names)


def test_plans_follow_settings_counts_and_overrides() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Linear(5, 6))
    chosen = candidates(model)
    setting = Setting(keep_ratio=0.5, order_weights=(1, 2, 3, 4), min_kept=2)
    plans = {plan.candidate.names[0]: plan for plan in plan_tensors(chosen, setting, None, {"1.*": {"axes": [-1]}})}
    assert list(plans) == ["0.weight", "0.bias", "1.weight", "1.bias"]
    assert plans["0.weight"].axes == (0, 1, 2, 3)
    assert plans["0.weight"].order_weights == (1, 2, 3, 4)
    assert plans["0.weight"].num_kept == 54
    assert plans["0.bias"].order_weights == (1,)
    assert plans["1.weight"].axes == (1,)
    assert plans["1.weight"].order_weights == (1,)
    assert plans["1.weight"].num_kept == 18  # three of five frequencies, six numbers each
    assert plans["1.weight"].shape == (6, 5)


def test_every_override_key_is_a_setting() -> None:
    assert set(OVERRIDE_KEYS) == set(Setting.__dataclass_fields__)


def test_the_callers_settings_are_not_changed() -> None:
    chosen = candidates(nn.Linear(5, 6))
    counts, overrides = {"weight": 3, "bias": 2}, {"weight": {"keep_ratio": 0.5}}
    plans = plan_tensors(chosen, Setting(), counts, overrides)
    assert [plan.num_kept for plan in plans] == [15, 2]
    assert (counts, overrides) == ({"weight": 3, "bias": 2}, {"weight": {"keep_ratio": 0.5}})
