import itertools
from typing import Any

import pytest
import torch
from torch import nn

from tailcut.execution.ir import geometry as geometry_module
from tailcut.execution.ir.geometry import geometry_of, pooled_size

CONVOLUTIONS: list[tuple[Any, tuple[int, ...]]] = [
    (nn.Conv1d(4, 6, 3, stride=2, padding=1), (2, 4, 11)),
    (nn.Conv2d(4, 6, (3, 5), stride=(1, 2), padding=(0, 3), dilation=(2, 1)), (2, 4, 9, 12)),
    (nn.Conv2d(4, 6, (3, 5), padding="same", dilation=(1, 2)), (2, 4, 9, 8)),
    (nn.Conv2d(4, 6, 3, padding="valid"), (2, 4, 9, 8)),
    (nn.Conv2d(4, 6, 3, padding=2, padding_mode="reflect"), (2, 4, 9, 8)),
    (nn.Conv2d(4, 6, 3, padding=1, padding_mode="circular"), (2, 4, 9, 8)),
    (nn.Conv2d(4, 6, 3, padding=1, groups=2), (2, 4, 9, 8)),
    (nn.Conv3d(4, 6, 2, padding=1), (2, 4, 3, 4, 5)),
    (nn.ConvTranspose1d(4, 6, 3, stride=2, padding=1, output_padding=1), (2, 4, 7)),
    (nn.ConvTranspose2d(4, 6, 2, stride=2), (2, 4, 5, 6)),
    (nn.ConvTranspose2d(4, 6, (2, 3), stride=(2, 3)), (2, 4, 5, 6)),
    (nn.ConvTranspose2d(4, 6, 3, stride=2, dilation=2), (2, 4, 5, 6)),
    (nn.ConvTranspose2d(4, 6, 2, stride=2, dilation=2), (2, 4, 5, 6)),
    (nn.ConvTranspose2d(4, 6, (2, 1), stride=(2, 1), dilation=(1, 2)), (2, 4, 5, 6)),
    (nn.ConvTranspose3d(4, 6, 2, stride=2), (1, 4, 3, 2, 2)),
]


@pytest.mark.usefixtures("context")
@pytest.mark.parametrize(("layer", "shape"), CONVOLUTIONS)
def test_the_same_convolution_with_channels_first(layer: Any, shape: tuple[int, ...]) -> None:
    x = torch.randn(shape)
    with torch.no_grad():
        expected = layer(x)
        geometry = geometry_of(layer, shape, ())
        assert geometry is not None
        core = layer.weight.transpose(0, 1) if geometry.is_transposed else layer.weight
        found = geometry.convolve(x.transpose(0, 1), core, layer.bias).transpose(0, 1)
    torch.testing.assert_close(found, expected)
    assert geometry.out_positions == expected.numel() // 6
    assert geometry.positions == x.numel() // 4


@pytest.mark.filterwarnings("ignore:Using padding")
@pytest.mark.parametrize("band", [1, 100, 700])
@pytest.mark.parametrize(
    "options",
    [
        *({}, {"padding": 1}, {"padding": (2, 0)}, {"padding": 3, "dilation": 2}, {"padding": "same"}),
        {"padding": (30, 9)},  # bands that lie in the padding as a whole
    ],
)
def test_large_maps_go_band_by_band(options: dict[str, Any], band: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(geometry_module, "BAND_NUMBERS", band)
    layer, x = nn.Conv2d(3, 4, (4, 3), **options).double(), torch.randn(2, 3, 19, 12, dtype=torch.float64)
    geometry = geometry_of(layer, x.shape, ())
    assert geometry is not None
    with torch.no_grad():
        assert geometry._is_large(x.transpose(0, 1)) == (2 * band < x.numel())
        found = geometry.convolve(x.transpose(0, 1), layer.weight, layer.bias)
        torch.testing.assert_close(found.transpose(0, 1), layer(x))
    assert found.is_contiguous() or 2 * band >= x.numel()


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (nn.Conv2d(4, 6, 3), (4, 9, 9)),
        (nn.Conv2d(4, 6, 3), (2, 4, 2, 9)),
        (nn.Conv2d(4, 6, 3), (0, 4, 9, 9)),
        (nn.Conv2d(4, 6, 3), (2, 3, 9, 9)),
        (nn.Linear(4, 6), (4,)),
        (nn.Linear(4, 6), (2, 5)),
        (nn.ConvTranspose2d(4, 6, 2, groups=2), (1, 4, 9, 9)),
        (nn.Bilinear(2, 2, 2), (3, 2)),
    ],
)
def test_calls_without_a_low_rank_way(layer: nn.Module, shape: tuple[int, ...]) -> None:
    assert geometry_of(layer, shape, ()) is None


def test_an_output_size_is_left_to_torch() -> None:
    assert geometry_of(nn.ConvTranspose2d(4, 6, 2, stride=2), (1, 4, 5, 5), ([11, 11],)) is None


def test_linear_layers_have_one_position_per_row() -> None:
    geometry = geometry_of(nn.Linear(4, 6), (2, 3, 4), ())
    assert geometry is not None
    assert (geometry.positions, geometry.channel_axis, geometry.is_one_position) == (6, 2, True)


@pytest.mark.parametrize("ceil_mode", [False, True])
def test_pooled_sizes_are_those_of_torch(ceil_mode: bool) -> None:
    for size, kernel, stride in itertools.product(range(3, 12), range(1, 4), range(1, 5)):
        for padding in range(kernel // 2 + 1):
            pooled = nn.functional.max_pool1d(torch.zeros(1, 1, size), kernel, stride, padding, 1, ceil_mode)
            assert pooled_size(size, kernel, stride, padding, ceil_mode=ceil_mode) == pooled.shape[2]
