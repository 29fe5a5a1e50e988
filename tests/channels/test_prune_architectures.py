"""Every registered architecture can be pruned at random rates, and still runs forward and backward."""

from typing import Any

import pytest
import torch
from tests.channels.slim_networks import macs, random_scores

from tailcut.channels.pruning.prune import prune
from tailcut.structure import create_model, family

# Narrower than they are built, so that the tests are quick.
ARGUMENTS: dict[str, dict[str, Any]] = {
    "alexnet": {"num_classes": 5},
    "densenet40": {"growth": 4},
    "googlenet_cifar": {"width": 32},
    "lenet300": {},
    "lenet5": {},
    "mobilenetv1_cifar": {"width": 8},
    "mobilenetv2": {"width_multiplier": 0.25},
    "mobilenetv2_cifar": {"width_multiplier": 0.25},
    "resnet18": {"width": 8},
    "resnet34": {"width": 8},
    "resnet50": {"width": 8},
    "resnet20": {},
    "resnet56": {"width": 8},
    "resnet110": {"width": 4},
    "unet": {"widths": (4, 8, 12)},
    "vgg16": {"width": 8, "hidden": 16},
    "vgg16_bn_cifar": {"width": 8},
    "vgg19_bn_cifar": {"width": 8},
    "vit": {"width": 32, "depth": 2, "mlp_width": 32},
    "vae": {},
    "dcgan_generator": {},
    "dcgan_discriminator": {},
}


@pytest.mark.parametrize("name", sorted(ARGUMENTS))
def test_random_rates(name: str) -> None:
    chosen = family(name)
    arguments = {key: value for key, value in ARGUMENTS[name].items() if key in chosen.defaults}
    model = create_model(name, **arguments)
    x = torch.rand(chosen.example_shape(**arguments), generator=torch.Generator().manual_seed(0))
    generator = torch.Generator().manual_seed(len(name))
    first = prune(model, x, random_scores(model, 0), 0.0)
    locked = {part.name for part in first.skipped}
    groups = sorted({layer.group for layer in first.layers} - locked)
    rates = dict(zip(groups, (0.9 * torch.rand(len(groups), generator=generator)).tolist(), strict=True))
    report = prune(model, x, random_scores(model, 1), rates)
    assert report.macs_after == macs(model.eval(), x)
    assert report.macs_after < report.macs_before
    assert report.num_parameters_after == sum(p.numel() for p in {id(p): p for p in model.parameters()}.values())
    outputs = model.train()(torch.cat([x, x]))
    tensors = outputs if isinstance(outputs, tuple) else (outputs,)
    sum(tensor.sum() for tensor in tensors).backward()
    for parameter in model.parameters():
        assert parameter.grad is not None
        assert parameter.grad.shape == parameter.shape
