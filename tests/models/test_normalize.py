from typing import Any

import numpy as np
import pytest
import torch

from tailcut.errors import ArgumentError
from tailcut.models.normalize import Normalize, normalization
from tailcut.structure import create_model

CONSTANTS = {
    "imagenet": ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]),
    "cifar10": ([0.4914, 0.4822, 0.4465], [0.2023, 0.1994, 0.2010]),
}
FAMILIES = {
    "resnet20": {"width": 2},
    "resnet18": {"width": 2, "small_input": True},
    "vgg16_bn_cifar": {"width": 2},
    "vgg19_bn_cifar": {"width": 2},
    "densenet40": {"growth": 2},
    "googlenet_cifar": {"width": 4},
    "mobilenetv1": {"width": 2},
    "mobilenetv1_cifar": {"width": 2},
    "mobilenetv2": {"width_multiplier": 0.1},
    "mobilenetv2_cifar": {"width_multiplier": 0.1},
}


@pytest.mark.parametrize("which", list(CONSTANTS))
def test_normalisation(which: str) -> None:
    x = torch.rand(2, 3, 4, 5, dtype=torch.float64)
    mean, spread = (np.array(values)[:, None, None] for values in CONSTANTS[which])
    np.testing.assert_allclose(Normalize(which)(x).numpy(), (x.numpy() - mean) / spread, rtol=1e-14)
    assert not list(Normalize(which).state_dict())


@pytest.mark.parametrize("name", list(FAMILIES))
@pytest.mark.parametrize(("choice", "which"), [("cifar10", "cifar10"), ("imagenet", "imagenet"), (True, "imagenet")])
def test_in_networks(name: str, choice: Any, which: str) -> None:
    torch.manual_seed(0)
    inside = create_model(name, **FAMILIES[name], normalize=choice).double().eval()  # type: ignore[arg-type]
    outside = create_model(name, **FAMILIES[name]).double().eval()  # type: ignore[arg-type]
    outside.load_state_dict(inside.state_dict())
    x = torch.rand(2, 3, 32, 32, dtype=torch.float64)
    mean, spread = (torch.tensor(values, dtype=torch.float64)[:, None, None] for values in CONSTANTS[which])
    torch.testing.assert_close(inside(x), outside((x - mean) / spread))
    assert not torch.equal(inside(x), outside(x))


def test_none() -> None:
    assert normalization("vgg16", False) is None
    with pytest.raises(ArgumentError, match="vgg16: normalize must be true, false, imagenet or cifar10, got 'cifar'"):
        normalization("vgg16", "cifar")


@pytest.mark.parametrize("count", [1, 4])
def test_images_of_other_channels_are_refused(count: int) -> None:
    model = create_model("resnet20", width=2, normalize=True).eval()
    assert model(torch.rand(2, 3, 32, 32)).shape == (2, 10)
    with pytest.raises(ArgumentError, match=f"expected images of 3 channels, got {count}"):
        model(torch.rand(2, count, 32, 32))
