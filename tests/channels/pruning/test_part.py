"""A part is pruned as a network of its own is, and files restore it within the whole."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from tailcut.channels import prune, prune_part, score
from tailcut.errors import ArgumentError
from tailcut.format import load, save
from tailcut.structure import create_model, record_of

X = torch.rand(2, 3, 16, 16)


class Whole(nn.Module):
    """What it does behind its backbone depends on numbers, which no one can follow."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.backbone = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 4, 3))
        self.head = nn.Conv2d(4, 2, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        maps = self.backbone(x)
        return self.head(maps[: 1 + int(maps.sum().item() > 0)])  # type: ignore[no-any-return]


def test_a_part_is_pruned_as_a_network_of_its_own(tmp_path: Path) -> None:
    model = Whole().eval()
    alone = copy.deepcopy(model.backbone)
    scores = score(model, method="l1")
    report = prune_part(model, "backbone", X, scores, 0.5)
    own = {name.removeprefix("backbone."): x for name, x in scores.items() if name != "head"}
    expected = prune(alone, X, own, 0.5)
    assert report == expected
    assert torch.equal(model.backbone(X), alone(X))
    assert model.get_parameter("backbone.0.weight").shape[0] == 4
    assert [edit.kind for edit in record_of(model).edits] == ["prune"]
    assert not record_of(model.backbone).edits
    save(model, tmp_path / "a.tailcut")
    again = load(tmp_path / "a.tailcut", into=Whole()).eval()
    torch.testing.assert_close(again(X), model(X))


def test_cuts_of_two_parts_are_one_edit(tmp_path: Path) -> None:
    model = create_model("resnet18", width=8, small_input=True).eval()
    scores = score(model, method="l1")
    for part in ("layer2", "layer1"):
        prune_part(model, part, torch.rand(1, 8, 8, 8), scores, {f"{part}.1.conv1": 0.5})
    assert len(record_of(model).edits) == 1
    assert model.get_parameter("layer1.1.conv1.weight").shape[0] == 4
    save(model, tmp_path / "a.tailcut")
    torch.testing.assert_close(load(tmp_path / "a.tailcut")(X), model(X))


def test_layers_over_tokens_are_pruned_by_the_scores_that_they_have() -> None:
    """As `prune` takes them: where channels have no other scores."""
    torch.manual_seed(0)
    body = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 6))
    model, x = nn.Sequential(nn.Linear(5, 6), body), torch.rand(2, 7, 5)
    scores = score(model, [x])
    assert scores.fallback == {"0", "1.0", "1.2"}
    report = prune_part(model, "1", torch.rand(2, 7, 6), scores, 0.5)
    assert report.macs_after < report.macs_before
    kept = scores["1.0"].topk(8).indices.sort().values
    torch.manual_seed(0)
    dense = nn.Linear(6, 16)
    assert torch.equal(body[0].get_parameter("weight"), dense.weight[kept])


@pytest.mark.parametrize(
    ("part", "rates", "message"),
    [
        ("neck", 0.5, "the network has no module 'neck' to prune"),
        ("", 0.5, "the network has no module '' to prune"),
        ("backbone", {"head": 0.5}, "a rate is given for head, which is no layer of backbone"),
        ("head", 0.5, "nothing can be pruned"),
    ],
)
def test_what_does_not_fit(part: str, rates: Any, message: str) -> None:
    model = Whole()
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(ArgumentError, match=message):
        prune_part(model, part, torch.rand(1, 4 if part == "head" else 3, 16, 16), score(model, method="l1"), rates)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not record_of(model).edits


@pytest.mark.parametrize("rates", [0.0, {"backbone.0": 0.0}])
def test_where_nothing_is_removed_the_report_says_so(rates: Any) -> None:
    model = Whole().eval()
    expected = model.backbone(X)
    report = prune_part(model, "backbone", X, score(model, method="l1"), rates)
    assert report.macs_after == report.macs_before
    assert torch.equal(model.backbone(X), expected)
    assert not record_of(model).edits


@pytest.mark.parametrize("what", ["weight", "module"])
def test_a_part_that_shares_with_the_rest_is_refused(what: str) -> None:
    model = Whole().eval()
    tied: Any = model.backbone[3]
    if what == "weight":
        tied = nn.Conv2d(8, 4, 3)
        tied.weight = model.backbone[3].weight
    model.tied = tied
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(ArgumentError, match=r"backbone\.3(\.weight)? is also tied(\.weight)?, outside of backbone"):
        prune_part(model, "backbone", X, score(model, method="l1"), 0.5)
    assert all(torch.equal(x, before[name]) for name, x in model.state_dict().items())
