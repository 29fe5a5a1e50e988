from typing import Any

import pytest
import torch
from tests.models.by_hand import ByHand, image, on_meta, relu
from torch import nn

from tailcut.counting import count_parameters
from tailcut.errors import ArgumentError
from tailcut.models import DCGANDiscriminator, DCGANGenerator


def test_counts_of_frequency_regularization() -> None:
    """Table 4's GAN-ref: 6,338,176 for both networks together."""
    both = [on_meta(DCGANGenerator), on_meta(DCGANDiscriminator)]
    layers = [module for model in both for module in model.modules()]
    weights = sum(layer.weight.numel() for layer in layers if isinstance(layer, (nn.Conv2d, nn.ConvTranspose2d)))
    norms = sum(count_parameters(layer) for layer in layers if isinstance(layer, nn.BatchNorm2d))
    assert (weights, norms) == (6_334_464, 3_712)
    assert sum(map(count_parameters, both)) == 6_338_176


def test_forward_of_the_generator() -> None:
    torch.manual_seed(0)
    model = DCGANGenerator(latent_size=5, width=3, out_channels=2)
    by, z = ByHand(model), image(2, 5)
    maps = relu(by.norm(by.transposed(z[:, :, None, None], "main.0", 1, 0), "main.1"))
    for place in (3, 6, 9):
        maps = relu(by.norm(by.transposed(maps, f"main.{place}", 2, 1), f"main.{place + 1}"))
    expected = by.transposed(maps, "main.12", 2, 1).tanh()
    assert expected.shape == (2, 2, 64, 64)
    torch.testing.assert_close(model(z), expected)
    assert torch.equal(model(z[:, :, None, None]), model(z)), "the vector may have two axes of one number"


def test_forward_of_the_discriminator() -> None:
    torch.manual_seed(0)
    model = DCGANDiscriminator(width=3, in_channels=2)
    by, x = ByHand(model), image(2, 2, 64, 64) * 2 - 1

    def leaky(x: torch.Tensor) -> torch.Tensor:
        return torch.where(x > 0, x, 0.2 * x)

    maps = leaky(by.conv(x, "main.0", 2, 1))
    for place in (2, 5, 8):
        maps = leaky(by.norm(by.conv(maps, f"main.{place}", 2, 1), f"main.{place + 1}"))
    expected = by.conv(maps, "main.11")
    assert expected.shape == (2, 1, 1, 1)
    torch.testing.assert_close(model(x), expected.view(2, 1))


@pytest.mark.parametrize("build", [DCGANGenerator, DCGANDiscriminator])
def test_initialisation_of_the_paper(build: Any) -> None:
    torch.manual_seed(0)
    for layer in build(width=16).main[3:]:
        if isinstance(layer, (nn.Conv2d, nn.ConvTranspose2d)) and layer.weight.numel() > 10_000:
            assert layer.weight.std().item() == pytest.approx(0.02, rel=0.03)
        elif isinstance(layer, nn.BatchNorm2d):
            assert 0 < layer.weight.sub(1).abs().max().item() < 0.1
            assert layer.bias.abs().max().item() == 0


@pytest.mark.parametrize(
    ("build", "arguments", "message"),
    [
        (DCGANGenerator, {"latent_size": 0}, "dcgan_generator: latent_size must be"),
        (DCGANGenerator, {"width": 0}, "dcgan_generator: width must be"),
        (DCGANGenerator, {"out_channels": 0}, "dcgan_generator: out_channels must be"),
        (DCGANDiscriminator, {"width": 0}, "dcgan_discriminator: width must be"),
        (DCGANDiscriminator, {"in_channels": 0}, "dcgan_discriminator: in_channels must be"),
    ],
)
def test_wrong_arguments(build: Any, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        build(**arguments)
