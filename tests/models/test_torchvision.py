"""The peer library: torchvision's networks load our state_dicts and give the same."""

from typing import Any

import pytest
import torch
from tests import torchvision_operators
from tests.models.by_hand import ByHand, names_and_shapes, on_meta

from tailcut.structure import create_model, family

models: Any = pytest.importorskip(
    "torchvision.models", reason="needs torchvision: pip install '.[detection]' in the clone"
)
operators = torchvision_operators.supplied  # torchvision imports with them

PEERS = {
    "resnet18": "resnet18",
    "resnet34": "resnet34",
    "resnet50": "resnet50",
    "resnet101": "resnet101",
    "vgg16": "vgg16",
    "vgg16_bn": "vgg16_bn",
    "alexnet": "alexnet",
    "mobilenetv2": "mobilenet_v2",
}


@pytest.mark.parametrize(("name", "peer"), PEERS.items())
def test_names_and_shapes(name: str, peer: str) -> None:
    assert names_and_shapes(on_meta(family(name).build)) == names_and_shapes(on_meta(getattr(models, peer)))


@pytest.mark.parametrize("name", ["resnet18", "resnet50", "mobilenetv2"])
def test_outputs(name: str) -> None:
    torch.manual_seed(0)
    model = create_model(name, num_classes=10)
    ByHand(model)
    peer = getattr(models, PEERS[name])(num_classes=10).double().eval()
    peer.load_state_dict(model.state_dict())
    x = torch.rand(2, 3, 65, 48, dtype=torch.float64)
    with torch.inference_mode():
        torch.testing.assert_close(model(x), peer(x), rtol=1e-12, atol=0)


@pytest.mark.parametrize("multiplier", [0.1, 0.35, 0.5, 0.75, 1.3, 1.4, 2.0])
def test_rounded_widths_of_mobilenetv2(multiplier: float) -> None:
    ours = on_meta(family("mobilenetv2").build, width_multiplier=multiplier)
    assert names_and_shapes(ours) == names_and_shapes(on_meta(models.mobilenet_v2, width_mult=multiplier))
