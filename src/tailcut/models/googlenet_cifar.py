"""GoogLeNet for 32 x 32 images: Szegedy et al., "Going Deeper with Convolutions" (2015).

The variant that papers on channel pruning report (from kuangliu/pytorch-cifar, whose tensor names it has): one
3 x 3 convolution as the stem, batch norm everywhere, two 3 x 3 convolutions for the 5 x 5 one, no auxiliary
classifiers.
"""

import torch
from torch import Tensor, nn

from tailcut.models.arguments import check_channels
from tailcut.models.normalize import normalization
from tailcut.structure import register_model

STANDARD_WIDTH = 64
# Channels at this width: of the stem; of each block's 1 x 1; before the 3 x 3, and the 3 x 3; before the 5 x 5, and the
# 5 x 5; after pooling.
STEM_CHANNELS = 192
INCEPTIONS = {
    "a3": (64, 96, 128, 16, 32, 32),
    "b3": (128, 128, 192, 32, 96, 64),
    "a4": (192, 96, 208, 16, 48, 64),
    "b4": (160, 112, 224, 24, 64, 64),
    "c4": (128, 128, 256, 24, 64, 64),
    "d4": (112, 144, 288, 32, 64, 64),
    "e4": (256, 160, 320, 32, 128, 128),
    "a5": (256, 160, 320, 32, 128, 128),
    "b5": (384, 192, 384, 48, 128, 128),
}


@register_model("googlenet_cifar", example_shape=(1, 3, 32, 32))
class GoogLeNetCIFAR(nn.Module):
    """A stem and nine inception blocks: 6,166,250 parameters, 1.52 G MACs at 32 x 32.

    Input: (batch, 3, height, width). Output: (batch, num_classes), logits. Max pooling after the second and
    the seventh block halves the size.

    6,150,442 of the parameters are weights and biases of convolutions and of the linear layer: the 6.15 M of
    papers on channel pruning.

    Args:
        num_classes: how many classes there are.
        width: channels of the 1 x 1 branch of the first block; all others change in proportion, rounded down, but
            not below 1.
        normalize: take off a mean and divide by a spread per channel first, where the weights expect that: "cifar10" or
            "imagenet" (or true).

    Raises:
        ArgumentError: a count is not from 1 to 65,536.
    """

    def __init__(self, *, num_classes: int = 10, width: int = STANDARD_WIDTH, normalize: bool | str = False) -> None:
        super().__init__()
        check_channels("googlenet_cifar", num_classes=num_classes, width=width)
        # No module where there is nothing to do: files know modules by their places.
        self.normalize = normalization("googlenet_cifar", normalize)
        stem = _scaled(STEM_CHANNELS, width)
        self.pre_layers = nn.Sequential(*_convolution(3, stem, 3))
        self.a3 = Inception(stem, INCEPTIONS["a3"], width)
        self.b3 = Inception(self.a3.out_channels, INCEPTIONS["b3"], width)
        self.a4 = Inception(self.b3.out_channels, INCEPTIONS["a4"], width)
        self.b4 = Inception(self.a4.out_channels, INCEPTIONS["b4"], width)
        self.c4 = Inception(self.b4.out_channels, INCEPTIONS["c4"], width)
        self.d4 = Inception(self.c4.out_channels, INCEPTIONS["d4"], width)
        self.e4 = Inception(self.d4.out_channels, INCEPTIONS["e4"], width)
        self.a5 = Inception(self.e4.out_channels, INCEPTIONS["a5"], width)
        self.b5 = Inception(self.a5.out_channels, INCEPTIONS["b5"], width)
        self.maxpool1 = nn.MaxPool2d(3, 2, padding=1)
        self.maxpool2 = nn.MaxPool2d(3, 2, padding=1)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.linear = nn.Linear(self.b5.out_channels, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (batch, num_classes) of images (batch, 3, height, width)."""
        x = x if self.normalize is None else self.normalize(x)
        x = self.pre_layers(x)
        x = self.maxpool1(self.b3(self.a3(x)))
        x = self.e4(self.d4(self.c4(self.b4(self.a4(x)))))
        x = self.b5(self.a5(self.maxpool2(x)))
        logits: Tensor = self.linear(self.avgpool(x).flatten(1))
        return logits


class Inception(nn.Module):
    """Four branches side by side: (batch, in_channels, h, w) to (batch, out_channels, h, w).

    Args:
        in_channels: of the input.
        channels: six numbers at the standard width, as in `INCEPTIONS`.
        width: of the network.
    """

    def __init__(self, in_channels: int, channels: tuple[int, ...], width: int) -> None:
        super().__init__()
        w1, before3, w3, before5, w5, pooled = (_scaled(number, width) for number in channels)
        self.b1 = nn.Sequential(*_convolution(in_channels, w1, 1))
        self.b2 = nn.Sequential(*_convolution(in_channels, before3, 1), *_convolution(before3, w3, 3))
        self.b3 = nn.Sequential(
            *_convolution(in_channels, before5, 1), *_convolution(before5, w5, 3), *_convolution(w5, w5, 3)
        )
        self.b4 = nn.Sequential(nn.MaxPool2d(3, 1, padding=1), *_convolution(in_channels, pooled, 1))
        self.out_channels = w1 + w3 + w5 + pooled

    def forward(self, x: Tensor) -> Tensor:
        """Return the branches' maps, concatenated."""
        return torch.cat([self.b1(x), self.b2(x), self.b3(x), self.b4(x)], dim=1)


def _scaled(channels: int, width: int) -> int:
    return max(1, channels * width // STANDARD_WIDTH)


def _convolution(in_channels: int, out_channels: int, kernel: int) -> list[nn.Module]:
    """Convolution of unchanged size, batch norm, ReLU."""
    convolution = nn.Conv2d(in_channels, out_channels, kernel, padding=kernel // 2)
    nn.init.kaiming_normal_(convolution.weight, mode="fan_out", nonlinearity="relu")
    return [convolution, nn.BatchNorm2d(out_channels), nn.ReLU()]
