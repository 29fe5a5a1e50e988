from typing import Any

import pytest
import torch
from tests.models.by_hand import ByHand, image, relu
from torch import Tensor
from torch.nn import functional as f

from tailcut.errors import ArgumentError
from tailcut.models import vgg16, vgg16_bn
from tailcut.models.vgg import VGG16, convolutions


def features(by: ByHand, x: Tensor, depths: tuple[int, ...], *, batch_norm: bool) -> Tensor:
    """The oracle of the convolutions: as many as `depths` says before each pooling."""
    place = 0
    for depth in depths:
        for _ in range(depth):
            x = by.conv(x, f"features.{place}", 1, 1)
            place += 1
            if batch_norm:
                x = by.norm(x, f"features.{place}")
                place += 1
            x = relu(x)
            place += 1
        x = f.max_pool2d(x, 2)
        place += 1
    return x


@pytest.mark.parametrize(("build", "batch_norm"), [(vgg16, False), (vgg16_bn, True)])
@pytest.mark.parametrize("size", [(32, 32), (224, 224), (40, 70)])
def test_forward(build: Any, batch_norm: bool, size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    model = build(num_classes=6, width=1, hidden=4)
    by, x = ByHand(model), image(2, 3, *size)
    maps = f.adaptive_avg_pool2d(features(by, x, (2, 2, 3, 3, 3), batch_norm=batch_norm), 7).flatten(1)
    hidden = relu(by.linear(relu(by.linear(maps, "classifier.0")), "classifier.3"))
    torch.testing.assert_close(model(x), by.linear(hidden, "classifier.6"))


def test_dropout_is_drawn_in_training_only() -> None:
    torch.manual_seed(0)
    model = vgg16_bn(width=1, hidden=64)
    assert [module.p for module in model.modules() if isinstance(module, torch.nn.Dropout)] == [0.5, 0.5]
    x = torch.rand(2, 3, 32, 32)
    assert not torch.equal(model(x), model(x))
    model.eval()
    assert torch.equal(model(x), model(x))


@pytest.mark.parametrize(("batch_norm", "bias", "per_layer"), [(False, True, 2), (True, True, 3), (True, False, 3)])
def test_convolutions(batch_norm: bool, bias: bool, per_layer: int) -> None:
    layers = convolutions(VGG16, 2, batch_norm=batch_norm, bias=bias)
    assert len(layers) == 13 * per_layer + 5
    widths = [layer.out_channels for layer in layers if isinstance(layer, torch.nn.Conv2d)]
    assert widths == [2, 2, 4, 4, 8, 8, 8, 16, 16, 16, 16, 16, 16]
    assert all((layer.bias is not None) == bias for layer in layers if isinstance(layer, torch.nn.Conv2d))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_classes": 0}, "num_classes must be an integer from 1 to 65,536, got 0"),
        ({"width": -1}, "width must be"),
        ({"hidden": 0}, "hidden must be"),
        ({"dropout": 1.0}, "dropout must be a number from 0 up to 1, not included, got 1.0"),
        ({"dropout": -0.1}, "dropout must be"),
    ],
)
def test_wrong_arguments(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ArgumentError, match=f"vgg16: {message}"):
        vgg16(**arguments)
