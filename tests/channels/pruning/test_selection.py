import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.channels.slim_networks import EXACT, ConcatenatedDepthwise, Grouped, PaddedInCode, Plain
from torch import nn

from tailcut.channels.graph.groups import ChannelGraph, find_groups
from tailcut.channels.pruning.plan import Amount, Rates
from tailcut.channels.pruning.selection import (
    Limits,
    Rate,
    candidates,
    check_scores,
    held_by_limits,
    importance_of,
    num_kept,
    number_of,
    rates_for_dict,
    rates_for_list,
    select_by_rates,
    take,
    why_locked,
)
from tailcut.errors import ArgumentError
from tailcut.structure import create_model

X = torch.rand(1, 3, 16, 16)


def graph_of(model: nn.Module) -> ChannelGraph:
    return find_groups(model, (X,))


@given(count=st.integers(1, 600), rate=st.floats(0, 0.999))
def test_rates_round_to_whole_units(count: int, rate: float) -> None:
    kept, published = num_kept(count, Rate(rate)), num_kept(count, Rate(rate, as_published=True))
    assert 1 <= published <= kept <= count
    assert published == max(1, int(count * (1 - rate)))
    assert kept == 1 or kept <= count * (1 - rate) + 1e-8
    assert kept + 1 > count * (1 - rate)


@pytest.mark.parametrize(
    ("count", "rate", "kept", "published"),
    [
        (64, 0.21, 50, 50),
        (512, 0.75, 128, 128),
        (16, 0.18, 13, 13),
        (320, 0.8, 64, 63),
        (10, 0.9, 1, 1),
        (3, 0.99, 1, 1),
    ],
)
def test_rates_of_the_paper(count: int, rate: float, kept: int, published: int) -> None:
    assert (num_kept(count, Rate(rate)), num_kept(count, Rate(rate, as_published=True))) == (kept, published)


def test_importance_is_relative_to_the_mean_of_a_layer() -> None:
    graph = graph_of(ConcatenatedDepthwise())
    group = graph.groups["conv"]
    scores = {"conv": torch.arange(1.0, 9).double(), "depthwise": torch.arange(16.0).double()}
    own = torch.arange(1, 9) / 4.5
    pairs = (torch.arange(8) * 2 + 0.5) / 7.5
    expected = ((own + pairs) / 2).tolist()
    found = importance_of(graph, group, scores)
    assert found is not None
    assert [found[unit] for unit in group.units] == pytest.approx(expected)
    found = importance_of(graph, group, scores, "depthwise")
    assert found is not None
    assert [found[unit] for unit in group.units] == pytest.approx(pairs.tolist())
    found = importance_of(graph, group, {"conv": torch.zeros(8).double()})
    assert found == dict.fromkeys(group.units, 0.0)
    assert importance_of(graph, group, {"head": torch.ones(4)}) is None


def test_units_that_only_some_layers_have() -> None:
    graph = graph_of(PaddedInCode())
    group = graph.groups["first"]
    found = importance_of(graph, group, {"first": torch.ones(8).double()})
    assert found is not None
    assert sorted(found.values()) == [0.0] * 8 + [1.0] * 8
    found = importance_of(graph, group, {"first": torch.ones(8), "second": torch.arange(16.0)}, "first")
    assert found is not None
    assert [found[unit] for unit in group.units[:8]] == [1.0] * 8
    assert found[group.units[-1]] == pytest.approx(2.0)


@pytest.mark.parametrize(
    ("limits", "rate", "expected"),
    [
        (Limits(), None, 7),
        (Limits(min_channels=3), None, 5),
        (Limits(round_to=4), None, 4),
        (Limits(round_to=3), None, 5),
        (Limits(round_to=16), None, 0),
        (Limits(max_rate=0.5), None, 4),
        (Limits(), Rate(0.3), 3),
        (Limits(max_rate=0.25), Rate(0.9), 2),
        (Limits(max_rate=0.3), Rate(0.9), 2),
        (Limits(max_rate=0.3), None, 2),
        (Limits(max_rate=0.1), Rate(0.9), 0),
        (Limits(min_channels=100), None, 0),
    ],
)
def test_taking_within_limits(limits: Limits, rate: Rate | None, expected: int) -> None:
    graph = graph_of(Plain())
    group = graph.groups["0"]
    lowest = list(reversed(group.units))
    assert take(graph, group, lowest, limits, rate) == set(lowest[:expected])


def test_layers_of_one_group_that_differ_keep_enough_each() -> None:
    graph = graph_of(PaddedInCode())
    group = graph.groups["first"]
    taken = take(graph, group, group.free, Limits(), Rate(0.5))
    assert len(taken) == 4  # half of the first layer, a quarter of the second
    taken = take(graph, group, group.free, Limits(round_to=3), None)
    assert len(taken) == 0  # no number of channels is a multiple in both
    graph = graph_of(Grouped())
    first = graph.groups["first"]
    assert graph.widths(first) == [dict.fromkeys(first.units, 24 // len(first.units))]
    assert len(take(graph, first, first.free, Limits(min_channels=9), None)) == 1


def test_followers_wait_for_their_leaders() -> None:
    graph = graph_of(create_model("resnet20", width=4))
    leader, follower = graph.groups["conv1"], graph.groups["layer2.0.conv2"]
    beside = graph.followers[0].beside
    free = candidates(graph, follower, set())
    assert len(free) == 4
    assert not set(free) & set(beside)
    gone = set(leader.units[:2])
    assert set(candidates(graph, follower, gone)) - set(free) == {unit for unit, up in beside.items() if up in gone}
    scores = {name: torch.rand(len(group.units)).double() for name, group in graph.groups.items()}
    removed = select_by_rates(graph, {"conv1": Rate(0.5), "layer2.0.conv2": Rate(0.9)}, scores, Limits())
    assert len(removed & set(leader.units)) == 2
    assert len(removed & set(follower.units)) == 6


def test_rates_by_list_and_by_dict() -> None:
    model = create_model("resnet18", width=4, small_input=True)
    graph = graph_of(model)
    entries = [("conv1",), ("layer1.0.conv2",), ("layer1.0.conv1", "layer1.1.conv1")]
    chosen = rates_for_list(graph, entries, [0.0, 0.2, 0.3], as_published=True)
    assert chosen == {
        "conv1": Rate(0.2, "layer1.0.conv2", True),  # the later of two entries for one group
        "layer1.0.conv1": Rate(0.3, "layer1.0.conv1", True),
        "layer1.1.conv1": Rate(0.3, "layer1.1.conv1", True),
    }
    with pytest.raises(ArgumentError, match=r"expected 3 rates, one for each of conv1, .*\+layer1\.1\.conv1; got 2"):
        rates_for_list(graph, entries, [0.1, 0.2])
    with pytest.raises(ArgumentError, match="'bn1', which is not a layer with prunable channels"):
        rates_for_list(graph, [("bn1",)], [0.1])
    assert rates_for_dict(graph, model, {"layer1.0.conv2": 0.5, "conv1": 0.5}) == {"conv1": Rate(0.5, "layer1.0.conv2")}
    assert rates_for_dict(graph, model, {"fc": 0.0}) == {"fc": Rate(0.0, "fc")}
    with pytest.raises(ArgumentError, match="fc, which cannot be pruned: the network's output"):
        rates_for_dict(graph, model, {"fc": 0.5})
    assert why_locked(graph.groups["fc"]) == "the network's output"


@pytest.mark.parametrize("value", [1.0, -0.5, 2, math.nan, math.inf, "half", None])
def test_rates_out_of_range(value: Any) -> None:
    graph = graph_of(Plain())
    with pytest.raises(ArgumentError, match="the rate of 0 must be from 0 up to 1"):
        select_by_rates(graph, {"0": Rate(value)}, {"0": torch.rand(8)}, Limits())


@pytest.mark.parametrize("limits", [{"min_channels": 0}, {"min_channels": True}, {"round_to": 2.0}, {"max_rate": 0}])
def test_limits_out_of_range(limits: dict[str, Any]) -> None:
    with pytest.raises(ArgumentError, match=next(iter(limits))):
        Limits(**limits)


def test_scores_are_taken_as_float64_vectors() -> None:
    model = Plain()
    graph = graph_of(model)
    found = check_scores({"0": list(range(8)), "4": torch.ones(10, dtype=torch.float16)}, model, graph)  # type: ignore[dict-item]
    assert {name: (vector.dtype, len(vector)) for name, vector in found.items()} == {
        "0": (torch.float64, 8),
        "4": (torch.float64, 10),
    }
    # Layers that have no channels to prune may be scored as well.
    assert set(check_scores({"1": torch.ones(8), "5": torch.ones(3)}, model, graph)) == {"1", "5"}


@pytest.mark.parametrize("kind", ["plain", "dense", "grouped", "shared"])
@given(rate=st.floats(0, 0.99), seed=st.integers(0, 100))
def test_the_units_that_go_are_the_lowest_free_ones(kind: str, rate: float, seed: int) -> None:
    graph = _graphs(kind)
    generator = torch.Generator().manual_seed(seed)
    scores = {
        name: torch.rand(len(layer.outer), generator=generator).double()
        for name, layer in graph.trace.layers.items()
        if layer.outer is not None
    }
    removed = select_by_rates(graph, dict.fromkeys(graph.groups, Rate(rate)), scores, Limits())
    for group in graph.groups.values():
        gone = removed & set(group.units)
        importance = importance_of(graph, group, scores)
        assert importance is not None
        assert not gone & set(group.locked)
        count = len(group.units)
        # Where a layer has several channels in a unit it keeps at least what the rate leaves, not at most.
        is_coarse = any(sum(counts.values()) > len(counts) for counts in graph.widths(group))
        kept = math.ceil(round(count * (1 - rate), 9)) if is_coarse else num_kept(count, Rate(rate))
        assert len(gone) == (count - kept if group.free else 0)
        if gone and len(gone) < len(group.free):
            highest = max(importance[unit] for unit in gone)
            assert highest <= min(importance[unit] for unit in group.free if unit not in gone)


_known: dict[str, ChannelGraph] = {}


def _graphs(kind: str) -> ChannelGraph:
    if kind not in _known:
        _known[kind] = find_groups(EXACT[kind].build(), (EXACT[kind].example().float(),))
    return _known[kind]


@pytest.mark.parametrize(
    ("limits", "reason"),
    [
        (Limits(round_to=16), "round_to=16 lets none go"),
        (Limits(min_channels=100), "min_channels=100 lets none go"),
        (Limits(round_to=16, min_channels=8), "min_channels=8 and round_to=16 let none go"),
        (Limits(round_to=6, min_channels=7), "min_channels=7 and round_to=6 let none go"),  # only both together
        (Limits(round_to=2), None),
    ],
)
def test_groups_that_the_limits_keep_whole(limits: Limits, reason: str | None) -> None:
    graph = graph_of(Plain())
    scores, rates = {"0": torch.arange(8.0).double()}, {"0": Rate(0.5)}
    removed = select_by_rates(graph, rates, scores, limits)
    assert held_by_limits(graph, rates, removed, limits) == ({} if reason is None else {"0": reason})
    assert held_by_limits(graph, {"0": Rate(0.0)}, set(), limits) == {}


@pytest.mark.parametrize("half", [np.float32(0.5), np.float64(0.5), torch.tensor(0.5), np.array(0.5)[()]])
def test_rates_and_limits_may_be_numpys_or_torchs(half: Any) -> None:
    graph = graph_of(Plain())
    limits = Limits(np.int64(2), torch.tensor(2), half)  # type: ignore[arg-type]
    assert limits == Limits(2, 2, 0.5)
    assert (type(limits.round_to), type(limits.max_rate)) == (int, float)
    assert len(select_by_rates(graph, {"0": Rate(half)}, {"0": torch.arange(8)}, Limits())) == 4
    assert rates_for_list(graph, [("0",)], [half]) == {"0": Rate(0.5, "0")}
    assert rates_for_dict(graph, Plain(), {"0": half}) == {"0": Rate(0.5, "0")}


@pytest.mark.parametrize("value", [np.array([0.5]), torch.tensor([0.5, 0.5]), True, 1j, [0.5]])
def test_what_is_no_number(value: Any) -> None:
    assert number_of(value) is None
    for name in ("min_channels", "round_to", "max_rate"):
        with pytest.raises(ArgumentError, match=name):
            Limits(**{name: value})
    with pytest.raises(ArgumentError, match="the rate of 0 must be from 0 up to 1, not included; got"):
        rates_for_dict(graph_of(Plain()), Plain(), {"0": value})


def test_very_large_scores_keep_their_order() -> None:
    graph = graph_of(Plain())
    scores = {"0": torch.tensor([1.7e308, 1.6e308, 1, 2, 1.5e308, 1.4e308, 1.3e308, 1.2e308], dtype=torch.float64)}
    removed = select_by_rates(graph, {"0": Rate(0.25)}, scores, Limits())
    assert removed == set(graph.groups["0"].units[2:4])
    found = importance_of(graph, graph.groups["0"], {"0": torch.full((8,), 5e-324, dtype=torch.float64)})
    assert found == dict.fromkeys(graph.groups["0"].units, 1.0)


@pytest.mark.parametrize(
    ("rates", "expected"), [(None, False), (0.5, False), ("paper", True), ([0.1, 0.2], True), ({"conv1": 0.5}, True)]
)
def test_lists_and_dicts_name_layers(rates: Rates | None, expected: bool) -> None:
    amount = Amount(rates, None, None, Limits())
    assert amount.is_by_layer is expected
