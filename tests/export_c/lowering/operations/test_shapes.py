"""Concatenations of many maps."""

from pathlib import Path

import torch
from tests.export_c.integers import check_same
from tests.export_c.lowering.many import compare_all
from tests.export_c.lowering.test_lowering import CLOSE
from tests.export_c.networks import lively
from tests.export_c.running import compare
from torch import Tensor, nn
from torch.nn import functional


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
