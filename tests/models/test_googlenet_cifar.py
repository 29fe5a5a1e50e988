from typing import Any

import pytest
import torch
from tests.models.by_hand import ByHand, image, on_meta, relu
from torch import Tensor, nn
from torch.nn import functional as f

from tailcut.counting import count_macs, count_parameters
from tailcut.errors import ArgumentError
from tailcut.models import GoogLeNetCIFAR


def test_counts_of_cfdp() -> None:
    """6.15 M parameters, which leave out batch norm, and 1.52 B MACs."""
    model = on_meta(GoogLeNetCIFAR)
    norms = sum(count_parameters(module) for module in model.modules() if isinstance(module, nn.BatchNorm2d))
    assert round((count_parameters(model) - norms) / 1e6, 2) == 6.15
    assert round(count_macs(model, torch.empty(1, 3, 32, 32)).total / 1e9, 2) == 1.52


def inception(by: ByHand, x: Tensor, name: str) -> Tensor:
    def conv(x: Tensor, branch: str, place: int, padding: int) -> Tensor:
        path = f"{name}.{branch}"
        return relu(by.norm(by.conv(x, f"{path}.{place}", 1, padding), f"{path}.{place + 1}"))

    first = conv(x, "b1", 0, 0)
    second = conv(conv(x, "b2", 0, 0), "b2", 3, 1)
    third = conv(conv(conv(x, "b3", 0, 0), "b3", 3, 1), "b3", 6, 1)
    fourth = conv(f.max_pool2d(x, 3, 1, 1), "b4", 1, 0)
    return torch.cat([first, second, third, fourth], 1)


@pytest.mark.parametrize("size", [(32, 32), (9, 5)])
def test_forward(size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    model = GoogLeNetCIFAR(num_classes=7, width=4)
    by, x = ByHand(model), image(2, 3, *size)
    maps = relu(by.norm(by.conv(x, "pre_layers.0", 1, 1), "pre_layers.1"))
    for name in ["a3", "b3", "-", "a4", "b4", "c4", "d4", "e4", "-", "a5", "b5"]:
        maps = f.max_pool2d(maps, 3, 2, 1) if name == "-" else inception(by, maps, name)
    torch.testing.assert_close(model(x), by.linear(maps.mean((2, 3)), "linear"))


@pytest.mark.parametrize(("width", "first", "last"), [(64, (64, 128, 32, 32), 1024), (32, (32, 64, 16, 16), 512)])
def test_width(width: int, first: tuple[int, ...], last: int) -> None:
    model = GoogLeNetCIFAR(width=width)
    branches = [getattr(model.a3, f"b{number}") for number in range(1, 5)]
    channels = [[layer for layer in branch if isinstance(layer, nn.Conv2d)][-1].out_channels for branch in branches]
    assert tuple(channels) == first
    assert model.linear.in_features == last


def test_the_narrowest_has_a_channel_everywhere() -> None:
    assert GoogLeNetCIFAR(width=1)(torch.rand(2, 3, 8, 8)).shape == (2, 10)


@pytest.mark.parametrize("arguments", [{"num_classes": 0}, {"width": 0}])
def test_wrong_arguments(arguments: dict[str, Any]) -> None:
    with pytest.raises(ArgumentError, match=f"googlenet_cifar: {next(iter(arguments))} must be"):
        GoogLeNetCIFAR(**arguments)
