from typing import Any

import pytest
import torch
from tests.models.by_hand import ByHand, image, on_meta, relu
from torch.nn import functional as f

from tailcut.counting import count_macs, count_parameters
from tailcut.errors import ArgumentError
from tailcut.models import AlexNet


def test_counts_of_frequency_regularization() -> None:
    """Table 2's AlexNet-ref: 57,044,810 in the first version of the paper, 57,035,456 in the published one."""
    model = on_meta(AlexNet, num_classes=10)
    assert count_parameters(model) == 57_044_810
    assert sum(parameter.numel() for parameter in model.parameters() if parameter.ndim > 1) == 57_035_456


@pytest.mark.parametrize("size", [(224, 224), (63, 80)])
def test_forward(size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    model = AlexNet(num_classes=7, width=2, hidden=5)
    by, x = ByHand(model), image(2, 3, *size)
    maps = f.max_pool2d(relu(by.conv(x, "features.0", 4, 2)), 3, 2)
    maps = f.max_pool2d(relu(by.conv(maps, "features.3", 1, 2)), 3, 2)
    for place in (6, 8, 10):
        maps = relu(by.conv(maps, f"features.{place}", 1, 1))
    maps = f.adaptive_avg_pool2d(f.max_pool2d(maps, 3, 2), 6).flatten(1)
    hidden = relu(by.linear(relu(by.linear(maps, "classifier.1")), "classifier.4"))
    torch.testing.assert_close(model(x), by.linear(hidden, "classifier.6"))


@pytest.mark.parametrize("resize", [63, 64, 224])
def test_resize(resize: int) -> None:
    torch.manual_seed(0)
    model = AlexNet(num_classes=7, width=1, hidden=5, resize=resize).eval()
    plain = AlexNet(num_classes=7, width=1, hidden=5).eval()
    plain.load_state_dict(model.state_dict())
    x = torch.rand(2, 3, 32, 32)
    enlarged = f.interpolate(x, (resize, resize), mode="bilinear", align_corners=False)
    torch.testing.assert_close(model(x), plain(enlarged))


def test_enlarging_costs() -> None:
    """What the docstring says of `resize=64`."""
    costs = {side: count_macs(on_meta(AlexNet, resize=side), torch.empty(1, 3, 32, 32)).total for side in (64, 224)}
    assert 6 < costs[224] / costs[64] < 8


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_classes": 0}, "num_classes must be"),
        ({"width": 0}, "width must be"),
        ({"hidden": 0}, "hidden must be"),
        ({"dropout": 1}, "dropout must be"),
        ({"resize": 62}, "resize must be an integer from 63 to 65,536, got 62"),
        ({"resize": -1}, "resize must be"),
    ],
)
def test_wrong_arguments(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ArgumentError, match=f"alexnet: {message}"):
        AlexNet(**arguments)
