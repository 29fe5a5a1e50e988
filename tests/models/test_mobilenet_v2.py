from typing import Any

import pytest
import torch
from tests.models.by_hand import ByHand, image, on_meta
from torch import Tensor

from tailcut.counting import count_macs, count_parameters
from tailcut.errors import ArgumentError
from tailcut.models import mobilenetv2, mobilenetv2_cifar

# Strides of blocks 1 to 17 for large images.
STRIDES = (1, 2, 1, 2, 1, 1, 2, 1, 1, 1, 1, 1, 1, 2, 1, 1, 1)


def relu6(x: Tensor) -> Tensor:
    return x.clamp(0, 6)


@pytest.mark.parametrize(("build", "small_input"), [(mobilenetv2, False), (mobilenetv2_cifar, True)])
@pytest.mark.parametrize("size", [(32, 32), (45, 33)])
def test_forward(build: Any, small_input: bool, size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    model = build(num_classes=7, width_multiplier=0.1)
    by, x = ByHand(model), image(2, 3, *size)
    maps = relu6(by.norm(by.conv(x, "features.0.0", 1 if small_input else 2, 1), "features.0.1"))
    for number, usual in enumerate(STRIDES, start=1):
        stride = 1 if small_input and number == 2 else usual
        name, y = f"features.{number}.conv", maps
        if number > 1:
            y = relu6(by.norm(by.conv(y, f"{name}.0.0"), f"{name}.0.1"))
        first = 0 if number == 1 else 1
        y = by.conv(y, f"{name}.{first}.0", stride, 1, groups=y.shape[1])
        y = by.conv(relu6(by.norm(y, f"{name}.{first}.1")), f"{name}.{first + 1}")
        y = by.norm(y, f"{name}.{first + 2}")
        maps = maps + y if stride == 1 and maps.shape == y.shape else y
    maps = relu6(by.norm(by.conv(maps, "features.18.0"), "features.18.1"))
    torch.testing.assert_close(model(x), by.linear(maps.mean((2, 3)), "classifier.1"))


@pytest.mark.parametrize(
    ("multiplier", "parameters"), [(0.35, 1_677_128), (0.5, 1_968_680), (0.75, 2_636_424), (1.4, 6_108_776)]
)
def test_rounded_widths(multiplier: float, parameters: int) -> None:
    """Counts of torchvision 0.28.0's `mobilenet_v2(width_mult=...)`."""
    assert count_parameters(on_meta(mobilenetv2, width_multiplier=multiplier)) == parameters


def test_counts_of_the_original() -> None:
    """3.4 M parameters (Keras leaves 34,112 of batch norm out) and 300 M MACs: Sandler et al., table 4."""
    model = on_meta(mobilenetv2)
    assert round(count_parameters(model) / 1e6, 1) == 3.5
    assert count_macs(model, torch.empty(1, 3, 224, 224)).total == pytest.approx(300e6, rel=0.005)


def test_stem_is_the_first_of_the_features() -> None:
    """An edit of the stem takes `features[0]` away."""
    model = mobilenetv2()
    assert model.features[0](torch.rand(1, 3, 32, 32)).shape == (1, 32, 16, 16)
    assert model.features[1](torch.rand(1, 32, 8, 8)).shape == (1, 16, 8, 8)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_classes": 0}, "num_classes must be"),
        ({"width_multiplier": 0.0}, "width_multiplier must be above 0 and at most 16, got 0.0"),
        ({"width_multiplier": 16.5}, "width_multiplier must be"),
        ({"width_multiplier": float("nan")}, "width_multiplier must be"),
        ({"width_multiplier": "1"}, "width_multiplier must be"),
        ({"dropout": 2}, "dropout must be"),
    ],
)
def test_wrong_arguments(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ArgumentError, match=f"mobilenetv2_cifar: {message}"):
        mobilenetv2_cifar(**arguments)
