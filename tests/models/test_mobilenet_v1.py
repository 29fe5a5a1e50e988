from typing import Any

import pytest
import torch
from tests.models.by_hand import ByHand, image, on_meta, relu

from tailcut.counting import count_macs, count_parameters
from tailcut.errors import ArgumentError
from tailcut.models import mobilenetv1, mobilenetv1_cifar

STRIDES = (1, 2, 1, 2, 1, 2, 1, 1, 1, 1, 1, 2, 1)
WIDTHS = (64, 128, 128, 256, 256, 512, 512, 512, 512, 512, 512, 1024, 1024)


@pytest.mark.parametrize("size", [(32, 32), (17, 5)])
@pytest.mark.parametrize(("build", "first_stride"), [(mobilenetv1_cifar, 1), (mobilenetv1, 2)])
def test_forward(build: Any, first_stride: int, size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    model = build(num_classes=7, width=2)
    by, x = ByHand(model), image(2, 3, *size)
    maps = relu(by.norm(by.conv(x, "conv1", first_stride, 1), "bn1"))
    for block, (stride, width) in enumerate(zip(STRIDES, WIDTHS, strict=True)):
        name = f"layers.{block}"
        maps = by.conv(maps, f"{name}.conv1", stride, 1, groups=maps.shape[1])
        maps = by.conv(relu(by.norm(maps, f"{name}.bn1")), f"{name}.conv2")
        maps = relu(by.norm(maps, f"{name}.bn2"))
        assert maps.shape[1] == width // 16
    torch.testing.assert_close(model(x), by.linear(maps.mean((2, 3)), "linear"))


def test_counts_of_the_original() -> None:
    """Howard et al., table 4: 4.2 M parameters and 569 M multiply-adds."""
    model = on_meta(mobilenetv1)
    assert round(count_parameters(model) / 1e6, 1) == 4.2
    assert round(count_macs(model, torch.empty(1, 3, 224, 224)).total / 1e6) == 569


@pytest.mark.parametrize("arguments", [{"num_classes": 0}, {"width": 0}])
def test_wrong_arguments(arguments: dict[str, Any]) -> None:
    with pytest.raises(ArgumentError, match=f"mobilenetv1_cifar: {next(iter(arguments))} must be"):
        mobilenetv1_cifar(**arguments)
