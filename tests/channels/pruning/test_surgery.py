from typing import Any

import pytest
import torch
from tests.channels.slim_networks import EXACT, ConcatenatedDepthwise, Plain, same_state, state_of
from torch import Tensor, nn

from tailcut.channels.graph.groups import ChannelGraph, find_groups, units_of
from tailcut.channels.pruning.surgery import Cut, apply_cut, holders, plan_cut, put_tensor
from tailcut.errors import StructureError
from tailcut.models.resnet_cifar import PadShortcut

X = torch.rand(1, 3, 16, 16)


def outer(graph: ChannelGraph, layer: str) -> list[int]:
    labels = graph.layer(layer).outer
    assert labels is not None
    return units_of(graph.coupling, labels)


def test_what_is_kept_of_each_tensor() -> None:
    graph = find_groups(Plain(), (X,))
    units = outer(graph, "4")
    cut = plan_cut(graph, {units[0], units[3]})
    kept = [1, 2, 4, 5, 6, 7, 8, 9]
    assert cut.kept == {
        "4.weight": {0: kept},
        "7.weight": {1: [36 * channel + place for channel in kept for place in range(36)]},
    }
    assert cut.sizes == {
        "4": {"in_channels": 8, "out_channels": 8, "groups": 1},
        "7": {"in_features": 288, "out_features": 12},
    }
    assert plan_cut(graph, set()) == Cut()


def test_depthwise_groups_follow_the_channels() -> None:
    graph = find_groups(ConcatenatedDepthwise(), (X,))
    cut = plan_cut(graph, {outer(graph, "conv")[2]})
    assert cut.sizes["depthwise"] == {"in_channels": 7, "out_channels": 14, "groups": 7}
    assert cut.kept["depthwise.weight"] == {0: [0, 1, 2, 3, *range(6, 16)]}
    assert cut.kept["head.weight"] == {1: [0, 1, *range(3, 8), 8, 9, 10, 11, *range(14, 24)]}


def test_the_cut_and_its_undoing() -> None:
    model: Any = Plain()
    model[0].weight.requires_grad_(False)
    graph = find_groups(model, (X,))
    before = state_of(model)
    weight = model[0].weight
    undo = apply_cut(model, plan_cut(graph, {outer(graph, "0")[1]}))
    kept = [0, *range(2, 8)]
    assert torch.equal(model[0].weight, weight[kept])
    assert not model[0].weight.requires_grad
    assert model[0].bias.requires_grad
    assert isinstance(model[0].weight, nn.Parameter)
    assert not isinstance(model[1].running_mean, nn.Parameter)
    assert (model[0].out_channels, model[1].num_features, model[2].num_parameters) == (7, 7, 7)
    assert model[4].in_channels == 7
    undo()
    assert same_state(before, state_of(model))


def test_weights_keep_their_channels_last() -> None:
    images: Any = Plain().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    apply_cut(images, plan_cut(graph := find_groups(images, (X,)), {outer(graph, "0")[1]}))
    assert images[0].weight.is_contiguous(memory_format=torch.channels_last)
    volume: Any = nn.Sequential(nn.Conv3d(2, 4, 3), nn.Conv3d(4, 2, 3))
    volume = volume.to(memory_format=torch.channels_last_3d)
    apply_cut(volume, plan_cut(graph := find_groups(volume, (torch.rand(1, 2, 6, 6, 6),)), {outer(graph, "0")[1]}))
    assert volume[0].weight.is_contiguous(memory_format=torch.channels_last_3d)
    assert not volume[1].weight.is_contiguous()


def test_a_cut_that_does_not_fit_changes_nothing() -> None:
    model = Plain()
    before = state_of(model)
    with pytest.raises(StructureError, match=r"0\.weight would have shape \(8, 3, 3, 3\), \(7, 3, 3, 3\) was expected"):
        apply_cut(model, Cut({}, {"0": {"in_channels": 3, "out_channels": 7, "groups": 1}}))
    assert same_state(before, state_of(model))
    with pytest.raises(StructureError, match="5 is a ReLU, which has no sizes"):
        apply_cut(model, Cut({"0.bias": {0: [1, 2]}}, {"5": {"in_channels": 3}}))
    assert same_state(before, state_of(model))
    with pytest.raises(IndexError):
        apply_cut(model, Cut({"0.bias": {0: [1]}, "0.weight": {0: [99]}}))
    assert same_state(before, state_of(model))


class Option(nn.Module):
    """Channels 0 to 3 lie beside channels 2 to 5 of eight, those beside 1 to 8 of ten."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.third = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 8, 1), nn.Conv2d(8, 10, 1)
        self.short, self.shorter = PadShortcut(1, 2, 2), PadShortcut(1, 1, 1)
        self.head = nn.Linear(10 * 4, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.first(x))
        x = torch.relu(self.second(x) + self.short(x))
        x = torch.relu(self.third(x) + self.shorter(x))
        y: Tensor = self.head(x.flatten(1))
        return y


def option() -> ChannelGraph:
    return find_groups(Option(), (torch.rand(1, 3, 2, 2),))


def test_a_leader_alone_leaves_zeros_and_another_order() -> None:
    graph = option()
    cut = plan_cut(graph, {outer(graph, "first")[1]})
    # Channel 3 of the second layer lost what lay beside it: it comes to those before.
    assert cut.kept["second.bias"] == {0: [0, 1, 3, 2, 4, 5, 6, 7]}
    assert cut.sizes["short"] == {"pad_before": 3, "pad_after": 2}
    assert "shorter" not in cut.sizes
    # The third layer's channels beside them follow, and the flattened map too.
    order = [0, 1, 2, 4, 3, 5, 6, 7, 8, 9]
    assert cut.kept["third.bias"] == {0: order}
    assert cut.kept["head.weight"] == {1: [4 * channel + place for channel in order for place in range(4)]}
    assert "second" in cut.sizes  # fewer inputs
    assert cut.sizes["second"]["out_channels"] == 8
    assert "third" not in cut.sizes


def test_a_follower_goes_with_its_leader() -> None:
    graph = option()
    first, second, third = (outer(graph, name) for name in ("first", "second", "third"))
    cut = plan_cut(graph, {first[0], second[2], second[7]})
    assert cut.kept["second.bias"] == {0: [0, 1, 3, 4, 5, 6]}
    assert cut.sizes["short"] == {"pad_before": 2, "pad_after": 1}
    assert cut.sizes["shorter"] == {"pad_before": 3, "pad_after": 1}
    assert cut.kept["third.bias"] == {0: [0, 3, 8, 1, 2, 4, 5, 6, 7, 9]}
    cut = plan_cut(graph, {third[0], third[9]})
    assert cut.sizes["shorter"] == {"pad_before": 0, "pad_after": 0}
    with pytest.raises(StructureError, match="short: a channel went, the one beside it did not"):
        plan_cut(graph, {second[2]})


def test_shortcuts_that_cannot_be_reordered_lose_padding_place_by_place() -> None:
    class Fixed(Option):
        def __init__(self) -> None:
            super().__init__()
            self.place = nn.Parameter(torch.zeros(8, 1, 1))

        def forward(self, x: Tensor) -> Tensor:
            x = torch.relu(self.first(x))
            x = torch.relu(self.second(x) + self.short(x)) * self.place
            y: Tensor = self.head(torch.relu(self.third(x)).flatten(1))
            return y

    graph = find_groups(Fixed(), (torch.rand(1, 3, 2, 2),))
    assert graph.followers == []
    first, second = outer(graph, "first"), outer(graph, "second")
    assert first == second[2:6]
    cut = plan_cut(graph, {second[0], second[2], second[7]})
    assert cut.sizes["short"] == {"pad_before": 1, "pad_after": 1}
    assert cut.kept["first.bias"] == {0: [1, 2, 3]}
    assert cut.kept["place"] == {0: [1, 3, 4, 5, 6]}


def test_tied_tensors_are_cut_once() -> None:
    model: Any = EXACT["shared"].build()
    graph = find_groups(model, (X,))
    cut = plan_cut(graph, {outer(graph, "left")[0]})
    assert cut.kept["left.weight"] == cut.kept["right.weight"]
    undo = apply_cut(model, cut)
    assert model.left.weight is model.right.weight
    assert model.left.weight.shape[0] == 5
    undo()
    assert model.left.weight is model.right.weight
    assert model.left.weight.shape[0] == 6


def test_holders_name_tied_tensors_under_each_name() -> None:
    model: Any = EXACT["shared"].build()
    names = [name for name, _, _, x in holders(model) if x is model.left.weight]
    assert names == ["left.weight", "right.weight"]
    put_tensor(model.left, "bias", nn.Parameter(torch.zeros(2)))
    assert model.left.bias.shape == (2,)
    norm = nn.BatchNorm1d(4)
    put_tensor(norm, "running_mean", torch.zeros(2))
    assert norm.state_dict()["running_mean"].shape == (2,)


def test_a_tensor_of_two_names_is_cut_by_one_list() -> None:
    model = nn.Sequential(nn.BatchNorm2d(4), nn.BatchNorm2d(4))
    model[1].running_mean = model[0].running_mean
    before = state_of(model)
    cut = Cut(kept={"0.running_mean": {0: [0, 1]}, "1.running_mean": {0: [2, 3]}})
    with pytest.raises(StructureError, match=r"1\.running_mean and 0\.running_mean are one tensor"):
        apply_cut(model, cut)
    assert same_state(before, state_of(model))
