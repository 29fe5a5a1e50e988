import copy
import re

import pytest
import torch
from tests.channels.slim_networks import EXACT, Gated, Plain, macs, random_scores
from torch import nn

from tailcut.channels import prune
from tailcut.channels.graph.groups import find_groups
from tailcut.channels.pruning.global_ranking import CostModel, select_by_budget
from tailcut.channels.pruning.selection import Limits, candidates
from tailcut.channels.pruning.surgery import apply_cut, plan_cut
from tailcut.counting import count_macs, count_parameters
from tailcut.errors import ArgumentError


@pytest.mark.parametrize("kind", EXACT)
def test_costs_are_those_of_the_cut_network(kind: str) -> None:
    case = EXACT[kind]
    model = case.build().eval()
    x = case.example().float()
    graph = find_groups(model, (x,), case.ignore)
    before, parameters = macs(model, x), sum(p.numel() for p in model.parameters())
    costs = CostModel(model, graph, macs=before, parameters=parameters)
    assert costs.ratio("macs", set()) == costs.ratio("parameters", set()) == 1
    generator = torch.Generator().manual_seed(0)
    removed: set[int] = set()
    for group in graph.groups.values():
        free = candidates(graph, group, removed)[:-1]
        removed |= {unit for unit in free if torch.rand((), generator=generator) < 0.4}
    removed -= {units[0] for units in (group.units for group in graph.groups.values()) if set(units) <= removed}
    apply_cut(model, plan_cut(graph, removed))
    assert costs.ratio("macs", removed) == macs(model, x) / before
    assert costs.ratio("parameters", removed) == sum(p.numel() for p in model.parameters()) / parameters


def test_the_lowest_of_all_go_first_and_no_more_than_needed() -> None:
    model = Plain()
    x = torch.rand(1, 3, 16, 16)
    graph = find_groups(model, (x,))
    scores = {
        "0": torch.tensor([0.1, 1, 1, 1, 1, 1, 1, 1.9]).double(),
        "4": torch.tensor([0.2, 0.3, *[1.0] * 6, 1.6, 1.9]).double(),
        "7": torch.ones(12).double(),
    }
    order = [graph.groups["0"].units[0], *graph.groups["4"].units[:2]]
    total, parameters = count_macs(model, x).total, count_parameters(model)
    costs = CostModel(model, graph, macs=total, parameters=parameters)
    for count in range(1, 4):
        target = costs.ratio("macs", set(order[:count]))
        chosen = select_by_budget(graph, scores, Limits(), lambda gone: costs.ratio("macs", gone), target)
        assert chosen == set(order[:count])
        slightly_more = select_by_budget(graph, scores, Limits(), lambda gone: costs.ratio("macs", gone), target + 1e-9)
        assert slightly_more == set(order[:count])
    assert select_by_budget(graph, scores, Limits(), lambda gone: costs.ratio("macs", gone), 1.0) == set()


def test_a_group_without_scores_is_left_alone() -> None:
    model = Gated()
    x = torch.rand(1, 3, 16, 16)
    graph = find_groups(model, (x,))
    scores = {"squeeze": torch.rand(6).double()}
    costs = CostModel(model, graph, macs=count_macs(model, x).total, parameters=count_parameters(model))
    chosen = select_by_budget(graph, scores, Limits(), lambda gone: costs.ratio("parameters", gone), 0.9)
    assert chosen
    assert chosen <= set(graph.groups["squeeze"].units)


def test_budgets_out_of_reach() -> None:
    model = Plain()
    x = torch.rand(1, 3, 16, 16)
    graph = find_groups(model, (x,))
    costs = CostModel(model, graph, macs=count_macs(model, x).total, parameters=count_parameters(model))
    scores = {name: values.double() for name, values in random_scores(model, 0).items()}
    with pytest.raises(ArgumentError, match=r"a ratio of 0\.5 cannot be reached: .* removed, 0\.[5-9]\d* is left"):
        select_by_budget(graph, scores, Limits(max_rate=0.1), lambda gone: costs.ratio("macs", gone), 0.5)


def message_of(ignore: tuple[str, ...], scored: tuple[str, ...], limits: Limits, of: str) -> str:
    model = Plain()
    x = torch.rand(1, 3, 16, 16)
    graph = find_groups(model, (x,), ignore)
    costs = CostModel(model, graph, macs=count_macs(model, x).total, parameters=count_parameters(model))
    scores = {name: values.double() for name, values in random_scores(model, 0).items() if name in scored}
    with pytest.raises(ArgumentError) as error:
        select_by_budget(graph, scores, limits, lambda gone: costs.ratio(of, gone), 0.001, of=of)
    return str(error.value).partition(" is left")[2]


def test_what_holds_a_budget_up_is_named() -> None:
    """MACs of 0, 4, 7 and 9: 55,296, 141,120, 4,320, 36; numbers in their weights: 216, 720, 4,320, 36."""
    scored = ("0", "4", "7")
    stay = "; of the layers that must keep their channels these have the most"
    assert message_of((), scored, Limits(), "macs") == ""
    limits = Limits(min_channels=3, round_to=2, max_rate=0.5)
    now = "min_channels=3, round_to=2, max_rate=0.5"
    assert message_of((), scored, limits, "macs") == f"; allow narrower layers (now {now})"
    assert message_of(("0",), scored, Limits(), "macs") == f"{stay} MACs: 0: ignored"
    assert message_of(("0", "7"), scored, Limits(), "macs") == f"{stay} MACs: 0, 7: ignored"
    assert message_of(("0", "7"), scored, Limits(), "parameters") == f"{stay} parameters: 7, 0: ignored"
    assert message_of((), ("0", "7"), Limits(), "macs") == "; score more layers (4: no scores)"


def test_limits_hold_for_budgets_too() -> None:
    model = Plain()
    x = torch.rand(1, 3, 16, 16)
    graph = find_groups(copy.deepcopy(model), (x,))
    costs = CostModel(model, graph, macs=count_macs(model, x).total, parameters=count_parameters(model))
    scores = {name: values.double() for name, values in random_scores(model, 0).items()}
    limits = Limits(min_channels=3, round_to=2)
    chosen = select_by_budget(graph, scores, limits, lambda gone: costs.ratio("macs", gone), 0.4)
    for name in ("0", "4", "7"):
        kept = len(set(graph.groups[name].units) - chosen)
        assert kept >= 3
        assert kept % 2 == 0


def test_a_ratio_just_out_of_reach_is_told() -> None:
    def fresh() -> nn.Module:
        torch.manual_seed(0)
        return nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3))

    x, scores = torch.rand(1, 3, 8, 8), {"0": torch.arange(8.0)}
    with pytest.raises(ArgumentError, match="is left") as found:
        prune(fresh(), x, scores, macs_ratio=0.001)
    told = re.search(r"removed, (0\.\d+) is left", str(found.value))
    assert told is not None
    least = float(told[1])
    with pytest.raises(ArgumentError, match="cannot be reached"):
        prune(fresh(), x, scores, macs_ratio=least - 0.01)
    assert prune(fresh(), x, scores, macs_ratio=least + 0.001).macs_ratio <= least + 0.001
