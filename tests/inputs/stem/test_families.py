from typing import Any

import pytest
from tests.inputs import networks
from torch import nn

from tailcut import models as models
from tailcut.errors import ArgumentError
from tailcut.inputs.stem.edit import Setting
from tailcut.inputs.stem.replace import first_kept_module, stride_settings
from tailcut.structure import create_model

WIDTHS: dict[str, dict[str, Any]] = {
    "vgg16": {"width": 1, "hidden": 1},
    "vgg16_bn": {"width": 1, "hidden": 1},
    "mobilenetv2": {"width_multiplier": 0.25},
}


@pytest.mark.parametrize(
    ("name", "first"),
    [
        ("resnet18", "layer1"),
        ("resnet50", "layer1"),
        ("resnet20", "layer1"),
        ("mobilenetv2", "features.1"),
        ("vgg16", "features.10"),
        ("vgg16_bn", "features.14"),
        ("alexnet", None),
        ("densenet40", None),
        ("lenet5", None),
    ],
)
def test_the_first_kept_module_of_a_family(name: str, first: str | None) -> None:
    arguments = WIDTHS.get(name, {"width": 1} if "resnet" in name else {})
    model = create_model(name, **arguments)
    assert first_kept_module(model) == first


def test_own_networks_are_not_known() -> None:
    assert first_kept_module(networks.sequence()) is None
    assert first_kept_module(nn.Identity()) is None


def test_the_published_strides_are_those_of_the_second_stage() -> None:
    deep, shallow = create_model("resnet50", width=1), create_model("resnet18", width=1)
    assert stride_settings(deep, "paper") == ()
    assert stride_settings(deep, "published") == (
        Setting("layer2.0.conv2", "stride", 1),
        Setting("layer2.0.downsample.0", "stride", 1),
    )
    assert stride_settings(shallow, "published") == (
        Setting("layer2.0.conv1", "stride", 1),
        Setting("layer2.0.downsample.0", "stride", 1),
    )
    assert stride_settings(networks.sequence(), {"0": 1, "2": 3}) == (
        Setting("0", "stride", 1),
        Setting("2", "stride", 3),
    )


def test_bad_strides() -> None:
    with pytest.raises(ArgumentError, match="paper or published or a dict"):
        stride_settings(networks.sequence(), "fast")
    with pytest.raises(ArgumentError, match="is for ResNets"):
        stride_settings(create_model("mobilenetv2", width_multiplier=0.25), "published")
    with pytest.raises(ArgumentError, match="no convolution '1'"):
        stride_settings(networks.sequence(), {"1": 2})
    for stride in (0, 65, True, 1.5):
        with pytest.raises(ArgumentError, match="0 needs a stride of 1 to 64"):
            stride_settings(networks.sequence(), {"0": stride})  # type: ignore[dict-item]
