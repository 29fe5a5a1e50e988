from typing import Any

import pytest
from torch import nn

from tailcut.errors import ArgumentError
from tailcut.weights.layers import candidates
from tailcut.weights.planning.settings import (
    OVERRIDE_KEYS,
    Setting,
    check_patterns,
    matches,
    plan_tensors,
    to_pattern_list,
)


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
