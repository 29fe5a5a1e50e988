from typing import Any

import pytest
import torch
from tests.models.by_hand import ByHand, image, relu

from tailcut.errors import ArgumentError
from tailcut.models import MobileNetV1CIFAR

STRIDES = (1, 2, 1, 2, 1, 2, 1, 1, 1, 1, 1, 2, 1)
WIDTHS = (64, 128, 128, 256, 256, 512, 512, 512, 512, 512, 512, 1024, 1024)


@pytest.mark.parametrize("size", [(32, 32), (17, 5)])
def test_forward(size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    model = MobileNetV1CIFAR(num_classes=7, width=2)
    by, x = ByHand(model), image(2, 3, *size)
    maps = relu(by.norm(by.conv(x, "conv1", 1, 1), "bn1"))
    for block, (stride, width) in enumerate(zip(STRIDES, WIDTHS, strict=True)):
        name = f"layers.{block}"
        maps = by.conv(maps, f"{name}.conv1", stride, 1, groups=maps.shape[1])
        maps = by.conv(relu(by.norm(maps, f"{name}.bn1")), f"{name}.conv2")
        maps = relu(by.norm(maps, f"{name}.bn2"))
        assert maps.shape[1] == width // 16
    torch.testing.assert_close(model(x), by.linear(maps.mean((2, 3)), "linear"))


@pytest.mark.parametrize("arguments", [{"num_classes": 0}, {"width": 0}])
def test_wrong_arguments(arguments: dict[str, Any]) -> None:
    with pytest.raises(ArgumentError, match=f"mobilenetv1_cifar: {next(iter(arguments))} must be"):
        MobileNetV1CIFAR(**arguments)
