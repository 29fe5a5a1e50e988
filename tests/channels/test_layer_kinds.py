from typing import Any

import pytest
import torch
from conformance.torch_networks import Conv1D
from torch import Tensor, nn

from tailcut.channels.layer_kinds import KIND_BY_NUMBER, KINDS, is_traced_through, layer_kind, whole_layer
from tailcut.models.resnet_cifar import PadShortcut

# Each layer twice: as wide as it is built, and narrower; the numbers are part of the file format.
LAYERS: list[tuple[int, Any, Any]] = [
    (1, lambda: nn.Conv1d(4, 6, 3), lambda: nn.Conv1d(3, 5, 3)),
    (1, lambda: nn.Conv2d(4, 6, 3, bias=False), lambda: nn.Conv2d(3, 5, 3, bias=False)),
    (1, lambda: nn.Conv2d(4, 8, (3, 1), groups=4), lambda: nn.Conv2d(3, 6, (3, 1), groups=3)),
    (1, lambda: nn.Conv3d(4, 8, 1, groups=2), lambda: nn.Conv3d(2, 6, 1, groups=2)),
    (1, lambda: nn.ConvTranspose1d(4, 6, 3), lambda: nn.ConvTranspose1d(3, 5, 3)),
    (1, lambda: nn.ConvTranspose2d(4, 6, 2, groups=2), lambda: nn.ConvTranspose2d(2, 4, 2, groups=2)),
    (1, lambda: nn.ConvTranspose3d(4, 6, 2), lambda: nn.ConvTranspose3d(1, 1, 2)),
    (2, lambda: nn.Linear(4, 6), lambda: nn.Linear(2, 5)),
    (2, lambda: nn.Linear(4, 6, bias=False), lambda: nn.Linear(2, 5, bias=False)),
    (3, lambda: nn.BatchNorm1d(6), lambda: nn.BatchNorm1d(5)),
    (3, lambda: nn.BatchNorm2d(6, affine=False), lambda: nn.BatchNorm2d(5, affine=False)),
    (3, lambda: nn.BatchNorm3d(6, track_running_stats=False), lambda: nn.BatchNorm3d(5, track_running_stats=False)),
    (3, lambda: nn.SyncBatchNorm(6), lambda: nn.SyncBatchNorm(5)),
    (3, lambda: nn.InstanceNorm2d(6, affine=True), lambda: nn.InstanceNorm2d(5, affine=True)),
    (4, lambda: nn.LayerNorm(6), lambda: nn.LayerNorm(5)),
    (4, lambda: nn.RMSNorm(6), lambda: nn.RMSNorm(5)),
    (5, lambda: nn.GroupNorm(2, 6), lambda: nn.GroupNorm(2, 4)),
    (5, lambda: nn.GroupNorm(6, 6), lambda: nn.GroupNorm(5, 5)),
    (6, lambda: nn.PReLU(6), lambda: nn.PReLU(5)),
    (7, lambda: nn.Embedding(9, 6), lambda: nn.Embedding(9, 5)),
    (8, lambda: PadShortcut(2, 4, 4), lambda: PadShortcut(2, 5, 3)),
    (9, lambda: Conv1D(6, 4), lambda: Conv1D(5, 2)),
]


@pytest.mark.parametrize(("number", "build", "narrow"), LAYERS)
def test_sizes_and_shapes_are_those_torch_gives(number: int, build: Any, narrow: Any) -> None:
    wide, expected = build(), narrow()
    kind = layer_kind(wide)
    assert kind is KIND_BY_NUMBER[number]
    for module in (wide, expected):
        shapes = kind.shapes(module, kind.sizes(module))
        tensors = {name: x for name, x in (*module.named_parameters(), *module.named_buffers()) if x.ndim}
        assert {name: tuple(x.shape) for name, x in tensors.items()} == {
            name: shape for name, shape in shapes.items() if name in tensors
        }
        assert set(tensors) <= set(shapes)
    sizes = kind.sizes(expected)
    assert kind.failure_reason(wide, sizes) is None
    kind.set_sizes(wide, sizes)
    assert repr(wide) == repr(expected)
    constants = getattr(wide, "__constants__", ())
    assert [getattr(wide, name, None) for name in constants] == [getattr(expected, name, None) for name in constants]


@pytest.mark.parametrize(
    ("module", "counts", "sizes"),
    [
        (nn.Conv2d(4, 8, 1), (3, 5), {"in_channels": 3, "out_channels": 5, "groups": 1}),
        (nn.Conv2d(4, 8, 1, groups=4), (3, 6), {"in_channels": 3, "out_channels": 6, "groups": 3}),
        (nn.Conv2d(4, 8, 1, groups=2), (2, 6), {"in_channels": 2, "out_channels": 6, "groups": 2}),
        (nn.Conv2d(1, 8, 1), (1, 6), {"in_channels": 1, "out_channels": 6, "groups": 1}),
        (nn.GroupNorm(2, 8), (6, 6), {"num_groups": 2, "num_channels": 6}),
        (nn.GroupNorm(8, 8), (6, 6), {"num_groups": 6, "num_channels": 6}),
        (nn.Linear(4, 8), (3, 5), {"in_features": 3, "out_features": 5}),
        (nn.BatchNorm2d(8), (3, 3), {"num_features": 3}),
        (PadShortcut(2, 3, 4), (1, 1), {"pad_before": 3, "pad_after": 4}),
    ],
)
def test_narrowed(module: nn.Module, counts: tuple[int, int], sizes: dict[str, int]) -> None:
    kind = layer_kind(module)
    assert kind is not None
    assert kind.narrowed(module, *counts) == sizes


def test_numbers_are_unique_and_whole() -> None:
    assert [kind.number for kind in KINDS] == list(range(1, 10))


class Standardised(nn.Conv2d):
    """A convolution whose weight is not what it convolves with."""

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.conv2d(x, self.weight - self.weight.mean(), self.bias)


class Named(nn.Conv2d):
    """A convolution by another name."""


def test_subclasses_are_layers_and_followed_inside_if_their_forward_is_their_own() -> None:
    assert layer_kind(Named(3, 4, 1)) is KIND_BY_NUMBER[1]
    assert layer_kind(Standardised(3, 4, 1)) is KIND_BY_NUMBER[1]
    assert [is_traced_through(layer) for layer in (Named(3, 4, 1), Standardised(3, 4, 1))] == [False, True]
    assert layer_kind(nn.LayerNorm([4, 5])) is None
    assert "several axes" in str(whole_layer(nn.LayerNorm([4, 5])))
    assert "attention" in str(whole_layer(nn.MultiheadAttention(4, 2)))
    assert "recurrent" in str(whole_layer(nn.GRU(4, 2)))
    assert whole_layer(nn.ReLU()) is None
    assert layer_kind(nn.ReLU()) is None


def test_a_padded_shortcut_is_known_by_its_attributes() -> None:
    class Pads(nn.Module):
        pad_before, pad_after = 1, 2

    assert layer_kind(Pads()) is KIND_BY_NUMBER[8]
    holder = Pads()
    holder.register_parameter("weight", nn.Parameter(torch.ones(1)))
    assert layer_kind(holder) is None
    wrong: Any = Pads()
    wrong.pad_after = 1.5
    assert layer_kind(wrong) is None
