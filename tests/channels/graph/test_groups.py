"""Groups against those of Torch-Pruning where it is right, and against what is known where it is not."""

from typing import Any

import pytest
import torch
from tests.channels.slim_networks import EXACT, ConcatenatedDepthwise, Gated, PaddedInCode
from torch import Tensor, nn

from tailcut.channels.graph.groups import ChannelGraph, find_groups, units_of
from tailcut.errors import ArgumentError
from tailcut.models.resnet_cifar import PadShortcut
from tailcut.structure import create_model

X = torch.rand(1, 3, 16, 16)


def peers_groups(model: nn.Module, x: Tensor) -> set[frozenset[str]]:
    """The convolutions and linear layers that Torch-Pruning cuts together, except that of the output."""
    tp = pytest.importorskip("torch_pruning")
    graph = tp.DependencyGraph().build_dependency(model, example_inputs=x)
    names = {module: name for name, module in model.named_modules()}
    found = set()
    for module in names:
        if not isinstance(module, (nn.Conv2d, nn.Linear)):
            continue
        function = tp.prune_conv_out_channels if isinstance(module, nn.Conv2d) else tp.prune_linear_out_channels
        if isinstance(module, nn.Conv2d) and module.groups > 1:
            continue
        group = graph.get_pruning_group(module, function, idxs=[0])
        outs = {tp.prune_conv_out_channels, tp.prune_linear_out_channels, tp.prune_depthwise_conv_out_channels}
        members = {dep.target.module for dep, _ in group if dep.handler in outs}
        found.add(frozenset(names[member] for member in members if not getattr(member, "groups", 1) > 1))
    return found


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("resnet18", {"width": 4, "small_input": True, "num_classes": 5}),
        ("resnet50", {"width": 4, "small_input": True, "num_classes": 5}),
        ("vgg16_bn_cifar", {"width": 4}),
        ("densenet40", {"growth": 2}),
        ("googlenet_cifar", {"width": 24}),
        ("mobilenetv2_cifar", {"width_multiplier": 0.25}),
    ],
)
def test_groups_are_those_of_torch_pruning(name: str, arguments: dict[str, Any]) -> None:
    model = create_model(name, **arguments).eval()
    x = torch.rand(1, 3, 32, 32)
    graph = find_groups(model, (x,))
    modules = dict(model.named_modules())
    ours = {
        frozenset(layer for layer in group.layers if not getattr(modules[layer], "groups", 1) > 1)
        for group in graph.groups.values()
    }
    assert ours == peers_groups(model, x)


def layers(graph: ChannelGraph) -> dict[str, tuple[str, ...]]:
    return {name: group.layers for name, group in graph.groups.items()}


def test_a_depthwise_convolution_beside_its_input_is_one_group() -> None:
    graph = find_groups(ConcatenatedDepthwise(), (X,))
    assert layers(graph) == {"conv": ("conv", "depthwise"), "head": ("head",)}
    assert len(graph.groups["conv"].units) == 8
    (group,) = [group for group in graph.groups.values() if "depthwise" in group.layers]
    assert graph.group_of("depthwise") is group
    assert graph.widths(group) == [dict.fromkeys(group.units, 1), dict.fromkeys(group.units, 2)]
    assert graph.group_of("nothing") is None


def test_a_gate_goes_with_what_it_gates() -> None:
    graph = find_groups(Gated(), (X,))
    assert layers(graph)["conv"] == ("conv", "excite")
    assert layers(graph)["squeeze"] == ("squeeze",)
    assert set(graph.groups["gate"].locked.values()) == {"stretched over other channels, in the network's forward"}


def test_padded_shortcuts_make_followers() -> None:
    model = create_model("resnet20", width=4)
    graph = find_groups(model, (X,))
    assert [(follower.leader, follower.group) for follower in graph.followers] == [
        ("conv1", "layer2.0.conv2"),
        ("layer2.0.conv2", "layer3.0.conv2"),
    ]
    first, second = graph.followers
    outer = units_of(graph.coupling, first.alignment.outer)
    inner = units_of(graph.coupling, first.alignment.inner)
    assert first.beside == dict(zip(outer[2:6], inner, strict=True))
    assert len(second.beside) == 8
    assert [len(group.units) for name, group in graph.groups.items() if name.endswith("0.conv2")] == [8, 16]


def test_a_follower_whose_order_counts_goes_with_its_leader() -> None:
    class Padded(nn.Module):
        def __init__(self, tied: bool) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 1)
            self.shortcut = PadShortcut(1, 2, 2)
            self.wide = nn.Conv2d(4, 8, 1)
            self.offset = nn.Parameter(torch.zeros(1, 8, 16, 16))
            self.head = nn.Conv2d(8, 2, 1) if tied else nn.Identity()
            self.tied = tied

        def forward(self, x: Tensor) -> Tensor:
            x = self.conv(x)
            y = self.wide(x) + self.shortcut(x)
            z: Tensor = self.head(y + self.offset if self.tied else y)
            return z

    graph = find_groups(Padded(tied=False), (X,))  # the output is the follower
    assert graph.followers == []
    assert layers(graph) == {"conv": ("conv", "wide")}
    assert len(graph.groups["conv"].locked) == 8
    graph = find_groups(Padded(tied=True), (X,))  # a parameter of one number per place and channel
    assert graph.followers == []
    assert len(graph.groups["conv"].free) == 8


def test_ignored_layers_are_locked_but_may_be_reordered() -> None:
    model = create_model("resnet20", width=4)
    graph = find_groups(model, (X,), ("layer3.*", "layer1.0.conv1"))
    assert len(graph.followers) == 2
    assert graph.groups["layer3.0.conv2"].free == []
    assert graph.groups["layer1.0.conv1"].free == []
    assert len(graph.groups["layer2.0.conv2"].free) == 8
    graph = find_groups(model, (X,), ("layer?",))
    assert [name for name, group in graph.groups.items() if group.free] == []
    with pytest.raises(ArgumentError, match="no module is named 'layer4'"):
        find_groups(model, (X,), ("layer4",))


def test_channels_beside_constants_are_locked_alone() -> None:
    graph = find_groups(PaddedInCode(), (X,))
    group = graph.groups["first"]
    assert group.layers == ("first", "second")
    assert len(group.units) == 16
    assert len(group.free) == 8
    graph.lock(group.free[:3], "by hand")
    assert len(graph.groups["first"].free) == 5
    assert "by hand" in graph.groups["first"].locked.values()


def test_parameters_are_cut_in_whole_slices_only() -> None:
    class Own(nn.Module):
        def __init__(self, shape: tuple[int, ...], persistent: bool = True) -> None:
            super().__init__()
            self.first, self.second = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 2, 1)
            self.register_buffer("own", torch.zeros(shape), persistent=persistent)

        def forward(self, x: Tensor) -> Tensor:
            x = self.first(x)
            y: Tensor = self.second(x + self.own.reshape(1, 4, 1, -1))  # type: ignore[operator]
            return y

    assert len(find_groups(Own((4, 1)), (X,)).groups["first"].free) == 4
    assert len(find_groups(Own((1, 4, 1, 16)), (X,)).groups["first"].free) == 4
    folded = find_groups(Own((2, 2)), (X,)).groups["first"]
    assert set(folded.locked.values()) == {"meets single numbers of own, which can be cut in whole slices only"}
    lost = find_groups(Own((4, 1), persistent=False), (X,)).groups["first"]
    assert set(lost.locked.values()) == {"meets the buffer own, which is not in the state_dict"}


@pytest.mark.parametrize("kind", EXACT)
def test_every_unit_is_in_one_group(kind: str) -> None:
    graph = find_groups(EXACT[kind].build(), (EXACT[kind].example().float(),))
    units = [unit for group in graph.groups.values() for unit in group.units]
    assert len(units) == len(set(units))
    names = [name for group in graph.groups.values() for name in group.layers]
    assert len(names) == len(set(names))
    assert {name for name, layer in graph.trace.layers.items() if layer.originates} <= set(names)
