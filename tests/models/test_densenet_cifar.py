from typing import Any

import pytest
import torch
from tests.models.by_hand import ByHand, image, on_meta, relu
from torch import nn
from torch.nn import functional as f

from tailcut.counting import count_macs, count_parameters
from tailcut.errors import ArgumentError
from tailcut.models import DenseNet40


def test_counts_of_papers_on_pruning() -> None:
    """1.04 M parameters, which leave out batch norm, and 282.92 M MACs (HRank, table 4)."""
    model = on_meta(DenseNet40)
    norms = sum(count_parameters(module) for module in model.modules() if isinstance(module, nn.BatchNorm2d))
    assert round((count_parameters(model) - norms) / 1e6, 2) == 1.04
    assert round(count_macs(model, torch.empty(1, 3, 32, 32)).total / 1e6, 2) == 282.92


@pytest.mark.parametrize("size", [(32, 32), (9, 6)])
def test_forward(size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    model = DenseNet40(num_classes=7, growth=2)
    by, x = ByHand(model), image(2, 3, *size)
    maps = by.conv(x, "conv1", 1, 1)
    for number in (1, 2, 3):
        for layer in range(12):
            name = f"dense{number}.{layer}"
            maps = torch.cat([maps, by.conv(relu(by.norm(maps, f"{name}.bn1")), f"{name}.conv1", 1, 1)], 1)
        if number < 3:
            maps = by.conv(relu(by.norm(maps, f"trans{number}.bn1")), f"trans{number}.conv1")
            maps = f.avg_pool2d(maps, 2)
    assert maps.shape[1] == 2 * 2 + 36 * 2
    torch.testing.assert_close(model(x), by.linear(relu(by.norm(maps, "bn")).mean((2, 3)), "fc"))


@pytest.mark.parametrize("arguments", [{"num_classes": 0}, {"growth": 0}, {"growth": 65_537}])
def test_wrong_arguments(arguments: dict[str, Any]) -> None:
    with pytest.raises(ArgumentError, match=f"densenet40: {next(iter(arguments))} must be"):
        DenseNet40(**arguments)
