from typing import Any

import pytest
import torch
from tests.models.by_hand import ByHand, image, on_meta, relu
from tests.models.test_vgg import features
from torch import nn

from tailcut.counting import count_macs, count_parameters
from tailcut.errors import ArgumentError
from tailcut.models import vgg16_bn_cifar, vgg19_bn_cifar


def parts(model: nn.Module) -> tuple[int, int]:
    """Weights, and all parameters that are not batch norm's."""
    layers = [module for module in model.modules() if isinstance(module, (nn.Conv2d, nn.Linear))]
    return sum(layer.weight.numel() for layer in layers), sum(count_parameters(layer) for layer in layers)


def test_counts_of_cfdp() -> None:
    """14.98 M parameters and 313.73 M MACs; digits beyond the second are cut off in the table, not rounded."""
    model = on_meta(vgg16_bn_cifar)
    assert parts(model)[1] == 14_982_474
    counted = count_macs(model, torch.empty(1, 3, 32, 32))
    linear = counted.layers["classifier.0"] + counted.layers["classifier.3"]
    assert linear == 512 * 512 + 512 * 10
    assert round((counted.total + linear) / 1e6, 2) == 313.73


def test_counts_of_frequency_regularization() -> None:
    """Table 2's "VGG16-ref": 20,040,522 in the first version of the paper, 20,024,000 in the published one."""
    model = on_meta(vgg19_bn_cifar)
    assert count_parameters(model) == 20_040_522
    assert parts(model)[0] == 20_024_000


@pytest.mark.parametrize("size", [(32, 32), (70, 41), (16, 16)])
def test_forward_of_vgg16(size: tuple[int, int]) -> None:
    """The last maps are averaged, where the other network takes their maximum."""
    torch.manual_seed(0)
    model = vgg16_bn_cifar(width=2, hidden=5)
    by, x = ByHand(model), image(2, 3, *size)
    maps = features(by, x, (2, 2, 3, 3), batch_norm=True)
    for conv, norm in ((34, 35), (37, 38), (40, 41)):
        maps = relu(by.norm(by.conv(maps, f"features.{conv}", 1, 1), f"features.{norm}"))
    hidden = relu(by.norm(by.linear(maps.mean((2, 3)), "classifier.0"), "classifier.1"))
    torch.testing.assert_close(model(x), by.linear(hidden, "classifier.3"))


@pytest.mark.parametrize("size", [(32, 32), (70, 41)])
def test_forward_of_vgg19(size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    model = vgg19_bn_cifar(width=2)
    by, x = ByHand(model), image(2, 3, *size)
    maps = features(by, x, (2, 2, 4, 4, 4), batch_norm=True)
    torch.testing.assert_close(model(x), by.linear(maps.mean((2, 3)), "classifier"))


def test_without_hidden_layer_and_biases() -> None:
    model = on_meta(vgg16_bn_cifar, hidden=0, bias=False)
    assert isinstance(model.classifier, nn.Linear)
    assert count_parameters(model) == 14_710_464 + 2 * 4_224 + 512 * 10 + 10


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_classes": 0}, "num_classes must be an integer from 1 to 65,536, got 0"),
        ({"width": -1}, "width must be an integer from 1"),
        ({"hidden": -1}, "hidden must be an integer from 0 to 65,536, got -1"),
    ],
)
def test_wrong_arguments(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ArgumentError, match=f"vgg16_bn_cifar: {message}"):
        vgg16_bn_cifar(**arguments)
