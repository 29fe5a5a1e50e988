"""DCGAN: Radford et al., "Unsupervised Representation Learning with Deep Convolutional GANs" (2016).

The names and the order of the modules are those of PyTorch's example, so that its checkpoints fit tensor by
tensor. With the defaults, one channel, generator and discriminator are the GAN of Frequency Regularization's
Table 4: together 6,334,464 weights and 3,712 numbers of batch norm, 6,338,176 parameters.
"""

from torch import Tensor, nn

from tailcut.models.arguments import check_channels
from tailcut.structure import register_model

SIDE = 64
SLOPE = 0.2  # of the leaky ReLU
WEIGHT_STD = 0.02


def _latent_shape(*, latent_size: int, **_: object) -> tuple[int, ...]:
    return 1, latent_size


def _image_shape(*, in_channels: int, **_: object) -> tuple[int, ...]:
    return 1, in_channels, SIDE, SIDE


@register_model("dcgan_generator", example_shape=_latent_shape)
class DCGANGenerator(nn.Module):
    """Five transposed convolutions from a random vector to an image: 3,574,656 parameters, 102.53 M MACs.

    Input: (batch, latent_size), or (batch, latent_size, 1, 1), standard normal numbers. Output:
    (batch, out_channels, 64, 64), pixels in -1..1.

    Args:
        latent_size: length of the random vector.
        width: channels of the last maps before the image; those before them have 2, 4 and 8 times as many.
        out_channels: channels of the image.

    Raises:
        ArgumentError: a count is not from 1 to 65,536.
    """

    def __init__(self, *, latent_size: int = 100, width: int = 64, out_channels: int = 1) -> None:
        super().__init__()
        check_channels("dcgan_generator", latent_size=latent_size, width=width, out_channels=out_channels)
        self.main = nn.Sequential(
            nn.ConvTranspose2d(latent_size, 8 * width, 4, bias=False),
            nn.BatchNorm2d(8 * width),
            nn.ReLU(),
            *_enlarge(8 * width, 4 * width),
            *_enlarge(4 * width, 2 * width),
            *_enlarge(2 * width, width),
            nn.ConvTranspose2d(width, out_channels, 4, 2, padding=1, bias=False),
            nn.Tanh(),
        )
        _initialize(self)

    def forward(self, z: Tensor) -> Tensor:
        """Images (batch, out_channels, 64, 64) of random vectors (batch, latent_size)."""
        image: Tensor = self.main(z.flatten(1)[:, :, None, None])
        return image


@register_model("dcgan_discriminator", example_shape=_image_shape)
class DCGANDiscriminator(nn.Module):
    """Five convolutions from an image to whether it is real: 2,763,520 parameters, 101.72 M MACs.

    Input: (batch, in_channels, 64, 64), pixels in -1..1. Output: (batch, 1), logits, positive for real.

    Args:
        width: channels of the first maps; those after them have 2, 4 and 8 times as many.
        in_channels: channels of the image.

    Raises:
        ArgumentError: a count is not from 1 to 65,536.
    """

    def __init__(self, *, width: int = 64, in_channels: int = 1) -> None:
        super().__init__()
        check_channels("dcgan_discriminator", width=width, in_channels=in_channels)
        self.main = nn.Sequential(
            nn.Conv2d(in_channels, width, 4, 2, padding=1, bias=False),
            nn.LeakyReLU(SLOPE),
            *_reduce(width, 2 * width),
            *_reduce(2 * width, 4 * width),
            *_reduce(4 * width, 8 * width),
            nn.Conv2d(8 * width, 1, 4, bias=False),
        )
        _initialize(self)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (batch, 1) of images (batch, in_channels, 64, 64)."""
        logits: Tensor = self.main(x).flatten(1)
        return logits


def _enlarge(in_channels: int, out_channels: int) -> list[nn.Module]:
    """To twice the height and width."""
    convolution = nn.ConvTranspose2d(in_channels, out_channels, 4, 2, padding=1, bias=False)
    return [convolution, nn.BatchNorm2d(out_channels), nn.ReLU()]


def _reduce(in_channels: int, out_channels: int) -> list[nn.Module]:
    """To half the height and width."""
    convolution = nn.Conv2d(in_channels, out_channels, 4, 2, padding=1, bias=False)
    return [convolution, nn.BatchNorm2d(out_channels), nn.LeakyReLU(SLOPE)]


def _initialize(model: nn.Module) -> None:
    """Draw normal numbers with the paper's standard deviation: mean 0 for weights, mean 1 for batch norm's scales."""
    for module in model.modules():
        if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d)):
            nn.init.normal_(module.weight, 0.0, WEIGHT_STD)
        elif isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.weight, 1.0, WEIGHT_STD)
