"""Concatenations of many maps."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from tests.export_c.integers import check_same
from tests.export_c.lowering.many import Many, compare_all
from tests.export_c.lowering.test_lowering import CLOSE
from tests.export_c.networks import lively
from tests.export_c.running import compare
from torch import Tensor, nn
from torch.nn import functional

from tailcut.errors import StructureError
from tailcut.export_c import export_c


class Dense(nn.Module):
    """Layers that each read the outputs of all before, as lists (torchvision's DenseNet)."""

    def __init__(self, num_layers: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Conv2d(3 + 2 * place, 2, 3, padding=1) for place in range(num_layers))

    def forward(self, x: Tensor) -> Tensor:
        maps = [x]
        for layer in self.layers:
            maps.append(layer(torch.cat(maps, 1)).relu())
        return torch.cat(maps, 1)


def test_many_maps_one_behind_the_other(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = lively(Dense(20))
    difference, report = compare(model, tmp_path / "float32", example_input=torch.rand(1, 3, 5, 4))
    assert difference < CLOSE
    check_same(model, tmp_path / "integer", example_input=torch.rand(1, 3, 5, 4))
    assert report.arena_bytes < 4 * 20 * (43 + 43 + 20), "each map is copied a few times at most"


def test_more_maps_than_are_read_at_once_in_one_concatenation(tmp_path: Path) -> None:
    def sums(x: Tensor) -> Tensor:
        parts = [(x * number).relu()[:, :1] for number in range(1, 20)]
        return torch.cat([*parts, torch.cat([functional.avg_pool2d(x, 3, 1, 1) for _ in range(6)], 1)], 1)

    assert compare_all(tmp_path, nn.Conv2d(3, 5, 3, padding=1), (3, 6, 7), [sums]) < CLOSE


WITH_EMPTY_PARTS: list[Callable[[Tensor], Tensor]] = [
    lambda x: torch.cat([x, x[:, 4:]], 1),
    lambda x: torch.cat([x[:, :0], x.relu(), x[:, 1:2]], 1),
    lambda x: torch.cat(x.split([4, 0], 1), 1),
    lambda x: torch.cat([x[:, :, 7:], x, x[:, :, :2]], 2),
    lambda x: torch.cat([x, torch.zeros(1, 0, 6, 7)], 1),
    lambda x: torch.cat([x.mean((2, 3)), torch.tensor([])], 1),
    lambda x: torch.cat([x.flatten(2), x.flatten(2)[:, 4:]], 1),
]


def test_a_concatenation_leaves_empty_parts_out(tmp_path: Path) -> None:
    layer = nn.Conv2d(3, 4, 3, padding=1)
    assert compare_all(tmp_path / "floats", layer, (3, 6, 7), WITH_EMPTY_PARTS) < CLOSE
    check_same(lively(Many(layer, WITH_EMPTY_PARTS)), tmp_path / "integers", example_input=torch.rand(1, 3, 6, 7))


@pytest.mark.parametrize("arithmetic", ["float32", "integer"])
@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda x: x[:, 4:], r"^slice \(.*\) gives \(1, 0, 6, 7\), no number; C code has sizes from"),
        (lambda x: x.mean((2, 3))[:, 4:], r"^slice \(.*\) gives \(1, 0\), no number; .*: leave out what is empty"),
        (lambda x: x.split([4, 0], 1)[1], r"^getitem \(.*\) gives \(1, 0, 6, 7\), no number"),
        (lambda x: x + x[:, :, 6:].sum((2, 3), keepdim=True), r"sum .*slice \(.*\) gives \(1, 4, 0, 7\), no number"),
        (lambda x: torch.cat([x, x[:, 4:].relu()], 1), r"^relu \(.*\): gives \(1, 0, 6, 7\), no number"),
        (lambda x: torch.cat([x[:, 4:], x[:, :0]], 1), r"^cat \(.*\): gives \(1, 0, 6, 7\), no number"),
    ],
)
def test_other_empty_parts_are_refused(
    function: Callable[[Tensor], Tensor], message: str, arithmetic: str, tmp_path: Path
) -> None:
    model = Many(nn.Conv2d(3, 4, 3, padding=1), [function])
    with pytest.raises(StructureError, match=message):
        export_c(model, tmp_path, example_input=torch.rand(1, 3, 6, 7), arithmetic=arithmetic)
