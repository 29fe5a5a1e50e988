from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from tailcut.errors import ArgumentError
from tailcut.weights import TailTruncation, regularize
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
    assert list(to_pattern_list("include", "a.*")) == ["a.*"]
    assert list(to_pattern_list("include", ("a", "b"))) == ["a", "b"]
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


def test_what_is_read_once_is_listed_first() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Flatten(), nn.Linear(8, 10))
    given: Any = (name for name in ["0.weight"])
    report = regularize(
        model,
        keep_ratio=0.5,
        exclude=given,
        overrides={"2.weight": {"axes": map(int, "01"), "order_weights": np.array([1, 2])}},
    )
    assert [(tensor.name, tensor.axes, tensor.order_weights) for tensor in report.tensors] == [
        ("2.weight", (0, 1), (1, 2))
    ]
    given = (name for name in ["0.weight"])
    axes: Any = np.array([0, 1])
    report = regularize(nn.Sequential(nn.Conv2d(3, 8, 3)), include=given, axes=axes, keep_ratio=0.5)
    assert report.tensors[0].axes == (0, 1)


def test_tied_names_have_one_count() -> None:
    model = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8))
    model[1].weight = model[0].weight
    with pytest.raises(ArgumentError, match=r"tied, and one count; got 0\.weight 10, 1\.weight 50"):
        regularize(model, num_kept={"0.weight": 10, "1.weight": 50})
    regularize(model, num_kept={"0.weight": 10, "1.weight": 10})
    with pytest.raises(ArgumentError, match=r"tied, and one count; got 0\.weight 5, 1\.weight 3"):
        TailTruncation(model, num_kept={"0.weight": 5, "1.weight": 3})


def test_weights_of_a_byte_are_quantised_already() -> None:
    model = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8)).requires_grad_(False)
    weight = torch.rand(8, 8).to(torch.float8_e4m3fn)
    model[1].weight = nn.Parameter(weight, requires_grad=False)
    report = regularize(model, keep_ratio=0.5)
    assert [tensor.name for tensor in report.tensors] == ["0.weight"]
    assert any("quantised already (torch.float8_e4m3fn)" in tensor.reason for tensor in report.skipped)
