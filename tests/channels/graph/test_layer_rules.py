"""Which axes of a layer's tensors lie along which channels."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tailcut.channels.graph.tracing import Trace, trace

X = torch.rand(2, 3, 6, 6)


def traced(*layers: nn.Module, x: Tensor = X) -> Trace:
    return trace(nn.Sequential(*layers), (x,))


def axes(found: Trace, name: str) -> dict[str, dict[int, list[int]]]:
    layer = found.layers[name]
    return {key: {axis: found.coupling.roots(v).tolist() for axis, v in at.items()} for key, at in layer.axes.items()}


def outer(found: Trace, name: str) -> list[int]:
    labels = found.layers[name].outer
    assert labels is not None
    return found.coupling.roots(labels).tolist()


def test_convolutions() -> None:
    found = traced(nn.Conv2d(3, 4, 3), nn.Conv2d(4, 5, 1, bias=False))
    first = outer(found, "0")
    assert axes(found, "0") == {"weight": {0: first, 1: [0, 0, 0]}, "bias": {0: first}}
    assert axes(found, "1") == {"weight": {0: outer(found, "1"), 1: first}}
    assert found.layers["0"].originates
    assert found.layers["0"].positions == 2 * 4 * 4
    assert set(found.coupling.locked_units().values()) == {"the network's output"}


def test_depthwise_convolutions_pass_their_channels_on() -> None:
    found = traced(nn.Conv2d(3, 4, 3), nn.Conv2d(4, 8, 3, groups=4), nn.Conv2d(8, 2, 1))
    first = outer(found, "0")
    twice = [unit for unit in first for _ in range(2)]
    assert axes(found, "1") == {"weight": {0: twice}, "bias": {0: twice}}
    assert not found.layers["1"].originates
    assert axes(found, "2")["weight"][1] == twice


def test_grouped_convolutions_stay_equally_wide() -> None:
    found = traced(nn.Conv2d(3, 6, 3), nn.Conv2d(6, 4, 3, groups=2), nn.Conv2d(4, 2, 1))
    first, second = outer(found, "0"), outer(found, "1")
    assert first[:3] == first[3:]
    assert len(set(first)) == 3
    assert second[:2] == second[2:]
    assert axes(found, "1")["weight"] == {0: second, 1: first[:3]}


def test_transposed_convolutions() -> None:
    found = traced(
        nn.Conv2d(3, 4, 1), nn.ConvTranspose2d(4, 6, 2), nn.ConvTranspose2d(6, 6, 2, groups=6), nn.Conv2d(6, 2, 1)
    )
    first, second = outer(found, "0"), outer(found, "1")
    assert axes(found, "1") == {"weight": {0: first, 1: second}, "bias": {0: second}}
    assert found.layers["1"].positions == 2 * 6 * 6
    assert axes(found, "2")["weight"] == {0: second}
    assert axes(found, "3")["weight"][1] == second
    found = traced(nn.Conv2d(3, 4, 1), nn.ConvTranspose2d(4, 6, 2, groups=2), nn.Conv2d(6, 2, 1))
    second = outer(found, "1")
    assert second[:3] == second[3:]
    assert axes(found, "1")["weight"] == {0: outer(found, "0"), 1: second[:3]}


def test_linear_layers_after_a_flattened_map() -> None:
    found = traced(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(64, 5))
    assert axes(found, "2")["weight"][1] == [unit for unit in outer(found, "0") for _ in range(16)]
    assert found.layers["2"].positions == 2


def test_linear_layers_across_other_channels() -> None:
    found = traced(nn.Conv2d(3, 4, 1), nn.Flatten(2), nn.Linear(36, 9), nn.Conv1d(4, 2, 1))
    assert axes(found, "3")["weight"][1] == outer(found, "0")
    assert axes(found, "2")["weight"][1] == [0] * 36
    assert all("across the channels" in found.coupling.locked_units()[unit] for unit in outer(found, "2"))


@pytest.mark.parametrize(
    ("module", "names"),
    [
        (nn.BatchNorm2d(4), ["weight", "bias", "running_mean", "running_var"]),
        (nn.BatchNorm2d(4, affine=False), ["running_mean", "running_var"]),
        (nn.InstanceNorm2d(4, affine=True), ["weight", "bias"]),
        (nn.GroupNorm(4, 4), ["weight", "bias"]),
        (nn.GroupNorm(1, 4), ["weight", "bias"]),
        (nn.PReLU(4), ["weight"]),
    ],
)
def test_layers_that_treat_each_channel(module: nn.Module, names: list[str]) -> None:
    found = traced(nn.Conv2d(3, 4, 1), module, nn.Conv2d(4, 2, 1))
    first = outer(found, "0")
    assert len(set(first)) == 4
    assert axes(found, "1") == {name: {0: first} for name in names}
    assert axes(found, "2")["weight"][1] == first


def test_group_norm_keeps_its_groups_equally_wide() -> None:
    found = traced(nn.Conv2d(3, 6, 1), nn.GroupNorm(2, 6), nn.Conv2d(6, 2, 1))
    first = outer(found, "0")
    assert first[:3] == first[3:]


def test_one_slope_for_all_channels() -> None:
    found = traced(nn.Conv2d(3, 4, 1), nn.PReLU(), nn.Conv2d(4, 2, 1))
    assert "1" not in found.layers
    assert axes(found, "2")["weight"][1] == outer(found, "0")


def test_layer_norm_over_channels_and_over_places() -> None:
    class Last(nn.Module):
        def __init__(self, size: int, axis: int) -> None:
            super().__init__()
            self.conv, self.norm, self.axis = nn.Conv2d(3, 4, 1), nn.LayerNorm(size), axis
            self.head = nn.Conv2d(4, 2, 1)

        def forward(self, x: Tensor) -> Tensor:
            y: Tensor = self.norm(self.conv(x).movedim(1, self.axis))
            z: Tensor = self.head(y.movedim(self.axis, 1))
            return z

    found = trace(Last(4, -1), (X,))
    assert axes(found, "norm") == {name: {0: outer(found, "conv")} for name in ("weight", "bias")}
    found = trace(Last(6, 1), (X,))
    assert "norm" not in found.layers
    assert axes(found, "head")["weight"][1] == outer(found, "conv")


def test_embeddings() -> None:
    found = traced(nn.Embedding(9, 5), nn.Linear(5, 2), x=torch.randint(9, (2, 7)))
    assert axes(found, "0") == {"weight": {1: outer(found, "0")}}
    assert axes(found, "1")["weight"][1] == outer(found, "0")


def test_a_module_used_twice_couples_its_channels() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.again, self.head = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 1), nn.Conv2d(4, 2, 1)

        def forward(self, x: Tensor) -> Tensor:
            y: Tensor = self.head(self.again(self.again(self.first(x))))
            return y

    found = trace(Twice(), (X,))
    assert outer(found, "first") == outer(found, "again")
    assert len(set(outer(found, "again"))) == 4
    assert found.layers["again"].positions == 2 * 2 * 36


class Pads(nn.Module):
    """Zeros before and after, or what `wrong` makes of it."""

    def __init__(self, before: int, after: int, wrong: int = 0) -> None:
        super().__init__()
        self.pad_before, self.pad_after, self.wrong = before, after, wrong

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.pad(x, (0, 0, 0, 0, self.pad_before, self.pad_after + self.wrong))


def test_padded_shortcuts_are_noted_and_checked() -> None:
    found = traced(nn.Conv2d(3, 4, 1), Pads(2, 3), nn.Conv2d(9, 2, 1))
    alignment = found.alignments["1"]
    assert found.coupling.roots(alignment.inner).tolist() == outer(found, "0")
    assert alignment.before == 2
    assert len(alignment.outer) == 9
    assert axes(found, "2")["weight"][1] == found.coupling.roots(alignment.outer).tolist()
    found = traced(nn.Conv2d(3, 4, 1), Pads(2, 3, wrong=1), nn.Conv2d(10, 2, 1))
    assert "it does not give pad_before + channels + pad_after" in found.coupling.locked_units()[outer(found, "0")[0]]


def test_layers_on_unusual_axes_are_kept_whole() -> None:
    class OnRows(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.norm = nn.Conv2d(3, 4, 1), nn.BatchNorm2d(6)
            self.rows, self.head = nn.Conv2d(6, 6, 1), nn.Conv2d(4, 2, 1)

        def forward(self, x: Tensor) -> Tensor:
            y: Tensor = self.norm(self.conv(x).transpose(1, 2))
            z: Tensor = self.head(self.rows(y).transpose(1, 2))
            return z

    found = trace(OnRows(), (X,))
    assert found.layers["norm"].why is not None
    assert found.coupling.locked_units()[outer(found, "conv")[0]].startswith("goes into norm: its channels do not lie")

    class OnlyRows(OnRows):
        def forward(self, x: Tensor) -> Any:
            return self.head(self.rows(self.conv(x).transpose(1, 2)).transpose(1, 2))

    found = trace(OnlyRows(), (X,))
    assert found.coupling.locked_units()[outer(found, "conv")[0]].startswith("goes into rows: other channels lie along")
