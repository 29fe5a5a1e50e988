"""MobileNetV2: Sandler et al., "MobileNetV2: Inverted Residuals and Linear Bottlenecks" (2018).

The names and the order of the modules are torchvision's, so that its checkpoints fit tensor by tensor.
"""

import math

from torch import Tensor, nn

from tailcut.errors import ArgumentError
from tailcut.models.arguments import check_channels, check_dropout
from tailcut.models.normalize import normalization
from tailcut.structure import register_model

STEM_CHANNELS = 32
LAST_CHANNELS = 1280
CHANNEL_STEP = 8  # numbers of channels are rounded to its multiples
MAX_WIDTH_MULTIPLIER = 16.0
# Expansion, channels, number of blocks, stride of the first.
STAGES = (
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)


class MobileNetV2(nn.Module):
    """The network of `mobilenetv2` and `mobilenetv2_cifar`: a stem, 17 inverted residual blocks, a 1 x 1 convolution.

    Input: (batch, 3, height, width). Output: (batch, num_classes), logits. The last maps have 1/32 of the size;
    with `small_input`, where the stem and the second stage have stride 1 instead of 2, 1/8.

    Args:
        name: the family.
        small_input: for images of about 32 x 32.
        num_classes: how many classes there are.
        width_multiplier: of all numbers of channels, which are then rounded to multiples of 8 (by less than a
            tenth downwards); the last convolution is never narrower than 1,280.
        dropout: share of the last features that are dropped in training.
        normalize: take off a mean and divide by a spread per channel first, where the weights expect that: "cifar10" or
            "imagenet" (or true).

    Raises:
        ArgumentError: `num_classes` is not from 1 to 65,536, `width_multiplier` not above 0 and at most 16, or
            `dropout` not from 0 to 1.
    """

    def __init__(
        self,
        name: str,
        small_input: bool,
        num_classes: int,
        width_multiplier: float,
        dropout: float,
        normalize: bool | str,
    ) -> None:
        super().__init__()
        check_channels(name, num_classes=num_classes)
        check_dropout(name, dropout=dropout)
        _check_multiplier(name, width_multiplier)
        # No module where there is nothing to do: files know modules by their places.
        self.normalize = normalization(name, normalize)
        channels = _rounded(STEM_CHANNELS * width_multiplier)
        blocks: list[nn.Module] = [_convolution(3, channels, 3, 1 if small_input else 2)]
        for stage, (expansion, base, depth, first_stride) in enumerate(STAGES):
            out_channels = _rounded(base * width_multiplier)
            for number in range(depth):
                is_halved = number == 0 and not (small_input and stage == 1)
                blocks.append(InvertedResidual(channels, out_channels, first_stride if is_halved else 1, expansion))
                channels = out_channels
        last_channels = _rounded(LAST_CHANNELS * max(1.0, width_multiplier))
        blocks.append(_convolution(channels, last_channels, 1, 1))
        self.features = nn.Sequential(*blocks)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Sequential(nn.Dropout(dropout), nn.Linear(last_channels, num_classes))
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out")
            elif isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=0.01)
                nn.init.zeros_(module.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (batch, num_classes) of images (batch, 3, height, width)."""
        x = x if self.normalize is None else self.normalize(x)
        logits: Tensor = self.classifier(self.avgpool(self.features(x)).flatten(1))
        return logits


class InvertedResidual(nn.Module):
    """1 x 1 up, depthwise 3 x 3, 1 x 1 down without ReLU; beside the identity where shapes agree.

    (batch, in_channels, h, w) to (batch, out_channels, h/stride, w/stride).
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int, expansion: int) -> None:
        super().__init__()
        inner = in_channels * expansion
        layers: list[nn.Module] = [] if expansion == 1 else [_convolution(in_channels, inner, 1, 1)]
        layers += [
            _convolution(inner, inner, 3, stride, groups=inner),
            nn.Conv2d(inner, out_channels, 1, bias=False),
            nn.BatchNorm2d(out_channels),
        ]
        self.conv = nn.Sequential(*layers)
        self.has_shortcut = stride == 1 and in_channels == out_channels

    def forward(self, x: Tensor) -> Tensor:
        """Return the feature maps of the next block."""
        y: Tensor = self.conv(x)
        return x + y if self.has_shortcut else y


def _convolution(in_channels: int, out_channels: int, kernel: int, stride: int, *, groups: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, kernel, stride, padding=kernel // 2, groups=groups, bias=False),
        nn.BatchNorm2d(out_channels),
        nn.ReLU6(),
    )


def _rounded(channels: float) -> int:
    """Return the nearest multiple of 8, but at least nine tenths of `channels`."""
    nearest = max(CHANNEL_STEP, int(channels + CHANNEL_STEP / 2) // CHANNEL_STEP * CHANNEL_STEP)
    return nearest + CHANNEL_STEP if nearest < 0.9 * channels else nearest


def _check_multiplier(name: str, multiplier: float) -> None:
    is_number = isinstance(multiplier, (int, float)) and not isinstance(multiplier, bool)
    if not is_number or not math.isfinite(multiplier) or not 0 < multiplier <= MAX_WIDTH_MULTIPLIER:
        raise ArgumentError(
            f"{name}: width_multiplier must be above 0 and at most {MAX_WIDTH_MULTIPLIER:g}, got {multiplier!r}"
        )


@register_model("mobilenetv2", example_shape=(1, 3, 224, 224))
def mobilenetv2(
    *,
    num_classes: int = 1000,
    width_multiplier: float = 1.0,
    dropout: float = 0.2,
    normalize: bool | str = False,
) -> MobileNetV2:
    """MobileNetV2: 3,504,872 parameters, 300.77 M MACs at 224 x 224."""
    return MobileNetV2("mobilenetv2", False, num_classes, width_multiplier, dropout, normalize)


@register_model("mobilenetv2_cifar", example_shape=(1, 3, 32, 32))
def mobilenetv2_cifar(
    *,
    num_classes: int = 10,
    width_multiplier: float = 1.0,
    dropout: float = 0.2,
    normalize: bool | str = False,
) -> MobileNetV2:
    """MobileNetV2 for 32 x 32 images: 2,236,682 parameters, 87.98 M MACs at 32 x 32.

    Stem and second stage have stride 1, as in kuangliu/pytorch-cifar; but shortcuts are the identity as in the
    paper, where that code puts a convolution wherever the stride is 1.
    """
    return MobileNetV2("mobilenetv2_cifar", True, num_classes, width_multiplier, dropout, normalize)
