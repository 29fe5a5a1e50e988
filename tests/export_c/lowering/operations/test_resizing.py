"""Sums and largest numbers of channels, larger numbers of two maps, reflected edges."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from tests.export_c.integers import check_same
from tests.export_c.lowering.many import SMALL, Many, compare_all
from tests.export_c.lowering.test_lowering import CLOSE
from tests.export_c.networks import lively
from tests.export_c.running import compare
from torch import Tensor, nn
from torch.nn import functional

from tailcut.errors import StructureError
from tailcut.export_c import export_c


class SpatialGate(nn.Module):
    """The spatial half of CBAM (Woo et al., 2018)."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 1, 7, padding=3)

    def forward(self, x: Tensor) -> Tensor:
        pooled = torch.cat([x.max(1)[0].unsqueeze(1), x.mean(1).unsqueeze(1)], dim=1)
        return x * torch.sigmoid(self.conv(pooled))


OF_CHANNELS: list[Callable[[Tensor], Tensor] | nn.Module] = [
    lambda x: x.mean(1, keepdim=True),
    lambda x: x.relu().sum(1).sigmoid(),
    lambda x: x.amax(1, keepdim=True) - x,
    lambda x: x.amin(dim=1),
    lambda x: x.min(1, keepdim=True).values,
    lambda x: functional.max_pool2d(x, 2).sum((1,), keepdim=True),
    lambda x: x.min(3, keepdim=True)[0],
    SpatialGate(),
]
OF_TWO: list[Callable[[Tensor], Tensor] | nn.Module] = [
    lambda x: x.abs(),
    lambda x: torch.maximum(x, 0.3 - x),
    lambda x: torch.minimum(x.relu(), functional.avg_pool2d(x, 3, 1, 1)),
    lambda x: torch.max(x[:, :2], x[:, 2:4]),
    lambda x: torch.min(x[:, :1], x[:, 1:]),
]
REFLECTED: list[Callable[[Tensor], Tensor] | nn.Module] = [
    nn.ReflectionPad2d(2),
    nn.Sequential(nn.ReflectionPad2d((1, 4, 5, 0)), nn.Conv2d(5, 2, 3)),
    nn.Conv2d(5, 2, 3, padding=1, padding_mode="reflect"),
    nn.Conv2d(5, 2, 3, padding=1, padding_mode="replicate"),
    lambda x: functional.pad(functional.max_pool2d(x, 2), (2, 1, 1, 2), mode="reflect"),
]


@pytest.mark.parametrize("functions", [OF_CHANNELS, OF_TWO, REFLECTED])
def test_beside_torch(functions: list[Callable[[Tensor], Tensor] | nn.Module], tmp_path: Path) -> None:
    assert compare_all(tmp_path, nn.Conv2d(3, 5, 3, padding=1), (3, 6, 7), functions) < CLOSE


@pytest.mark.parametrize("functions", [OF_TWO, REFLECTED, OF_CHANNELS])
def test_of_integers(functions: list[Callable[[Tensor], Tensor] | nn.Module], tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = lively(Many(nn.Conv2d(3, 5, 3, padding=1), functions))
    check_same(model, tmp_path, example_input=torch.rand(1, 3, 6, 7))


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda x: x.max(1)[1].float(), "the places of the largest numbers"),
        (lambda x: x.amax((1, 2)), r"over the axes \[1, 2\]; C code knows it over channels, or over rows and columns"),
        (lambda x: functional.pad(x, (1, 1, 1, 1), mode="circular"), "C code"),
    ],
)
def test_what_has_no_form(function: Callable[[Tensor], Tensor], message: str, tmp_path: Path) -> None:
    model = Many(nn.Conv2d(3, 5, 1), [function])
    with pytest.raises(StructureError, match=message):
        export_c(model, tmp_path, example_input=torch.rand(1, 3, 6, 7))


def test_small_code(tmp_path: Path) -> None:
    model = lively(nn.Sequential(nn.ReflectionPad2d(1), nn.Conv2d(3, 4, 3), nn.ChannelShuffle(2)))
    assert compare(model, tmp_path, options=SMALL, example_input=torch.rand(1, 3, 6, 7))[0] < CLOSE
