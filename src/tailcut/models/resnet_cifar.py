"""Residual networks for 32 x 32 images: He et al., "Deep Residual Learning for Image Recognition" (2016), 4.2.

Three stages of basic blocks, 6 n + 2 layers deep, with shortcuts that have no parameters (the paper's option A).
The names and the order of the tensors are those of the common PyTorch implementation
(akamaster/pytorch_resnet_cifar10), so that its checkpoints fit once `module.` is taken off their keys.
"""

from torch import Tensor, nn
from torch.nn.functional import pad

from tailcut.errors import ArgumentError
from tailcut.models.arguments import check_channels
from tailcut.models.normalize import normalization
from tailcut.structure import register_model

BLOCKS_PER_STAGE = {"resnet20": 3, "resnet56": 9, "resnet110": 18}
EXAMPLE_SHAPE = (1, 3, 32, 32)
NUM_WIDTHS = 4


class ResNetCIFAR(nn.Module):
    """The network of `resnet20`, `resnet56` and `resnet110`.

    Input: (batch, 3, height, width), pixels in 0..1 (normalised ones with `normalize=False`, where the weights
    expect them). Output: (batch, num_classes), logits. The maps have width, 2 width and 4 width channels at 1,
    1/2 and 1/4 of the size.

    Args:
        name: the family, one of `BLOCKS_PER_STAGE`.
        num_classes: how many classes there are.
        width: channels of the first stage.
        normalize: take off ImageNet's mean and divide by its spread first (`Normalize`), so that a network trained
            on inputs normalised in that way takes pixels in 0..1; "cifar10" for CIFAR-10's own.
        channels: of the first convolution and of the three stages, where they do not follow from `width`, as in
            published pruned networks. A first stage narrower than the first convolution takes its middle channels in
            the first shortcut, as their code does.

    Raises:
        ArgumentError: a count is not from 1 to 65,536, or `channels` are not four, or grow narrower between stages.
    """

    def __init__(
        self, name: str, num_classes: int, width: int, normalize: bool | str, channels: tuple[int, ...]
    ) -> None:
        super().__init__()
        check_channels(name, num_classes=num_classes, width=width)
        stem, *stages = _checked_channels(name, channels, width)
        self.normalize = normalization(name, normalize) or nn.Identity()
        self.conv1 = nn.Conv2d(3, stem, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(stem)
        self.relu = nn.ReLU()
        num_blocks = BLOCKS_PER_STAGE[name]
        self.layer1 = _stage(num_blocks, stem, stages[0], 1)
        self.layer2 = _stage(num_blocks, stages[0], stages[1], 2)
        self.layer3 = _stage(num_blocks, stages[1], stages[2], 2)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.linear = nn.Linear(stages[2], num_classes)
        for module in self.modules():
            if isinstance(module, (nn.Conv2d, nn.Linear)):
                nn.init.kaiming_normal_(module.weight)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (batch, num_classes) of images (batch, 3, height, width)."""
        x = self.relu(self.bn1(self.conv1(self.normalize(x))))
        x = self.layer3(self.layer2(self.layer1(x)))
        logits: Tensor = self.linear(self.avgpool(x).flatten(1))
        return logits


class Block(nn.Module):
    """Two 3 x 3 convolutions beside a shortcut: (batch, in_channels, h, w) to (batch, channels, h/stride, w/stride)."""

    def __init__(self, in_channels: int, channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, channels, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.relu1 = nn.ReLU()
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.shortcut: nn.Module = nn.Identity()
        if channels < in_channels:
            self.shortcut = MiddleChannels((in_channels - channels + 1) // 2, channels)
        elif stride != 1 or channels != in_channels:
            before = (channels - in_channels) // 2
            self.shortcut = PadShortcut(stride, before, channels - in_channels - before)
        self.relu2 = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        """Return the feature maps of the next block."""
        y = self.relu1(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        out: Tensor = self.relu2(y + self.shortcut(x))
        return out


class PadShortcut(nn.Module):
    """Option A: every `stride`-th pixel, between channels of zeros. It has no parameters.

    (batch, channels, h, w) to (batch, pad_before + channels + pad_after, h/stride, w/stride), rounded up.

    Attributes:
        stride: of rows and of columns.
        pad_before: how many channels of zeros come first.
        pad_after: how many come last.
    """

    __constants__ = ("pad_after", "pad_before", "stride")  # compared when a network is saved

    def __init__(self, stride: int, pad_before: int, pad_after: int) -> None:
        super().__init__()
        self.stride = stride
        self.pad_before = pad_before
        self.pad_after = pad_after

    def forward(self, x: Tensor) -> Tensor:
        """Return the input's values at fewer pixels, in more channels."""
        return pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, self.pad_before, self.pad_after))

    def extra_repr(self) -> str:
        """Return the attributes, for printing."""
        return f"stride={self.stride}, pad_before={self.pad_before}, pad_after={self.pad_after}"


class MiddleChannels(nn.Module):
    """Some channels out of the middle: (batch, channels, h, w) to (batch, count, h, w). It has no parameters.

    Attributes:
        first: the first that is taken.
        count: how many are.
    """

    __constants__ = ("count", "first")  # compared when a network is saved

    def __init__(self, first: int, count: int) -> None:
        super().__init__()
        self.first = first
        self.count = count

    def forward(self, x: Tensor) -> Tensor:
        """Return the channels to keep."""
        return x[:, self.first : self.first + self.count]

    def extra_repr(self) -> str:
        """Return the attributes, for printing."""
        return f"first={self.first}, count={self.count}"


def _checked_channels(name: str, channels: tuple[int, ...], width: int) -> tuple[int, ...]:
    """Of the first convolution and the three stages."""
    if not channels:
        return (width, width, 2 * width, 4 * width)
    if len(channels) != NUM_WIDTHS or list(channels[1:]) != sorted(channels[1:]):
        raise ArgumentError(
            f"{name}: channels must be those of the first convolution and of three stages, none of which is narrower "
            f"than the one before it, got {channels}"
        )
    for count in channels:
        check_channels(name, channels=count)
    return channels


def _stage(num_blocks: int, in_channels: int, channels: int, stride: int) -> nn.Sequential:
    first = Block(in_channels, channels, stride)
    return nn.Sequential(first, *(Block(channels, channels, 1) for _ in range(num_blocks - 1)))


@register_model("resnet20", example_shape=EXAMPLE_SHAPE)
def resnet20(
    *, num_classes: int = 10, width: int = 16, normalize: bool | str = False, channels: tuple[int, ...] = ()
) -> ResNetCIFAR:
    """ResNet-20 for CIFAR: 269,722 parameters, 40.55 M MACs at 32 x 32."""
    return ResNetCIFAR("resnet20", num_classes, width, normalize, channels)


@register_model("resnet56", example_shape=EXAMPLE_SHAPE)
def resnet56(
    *, num_classes: int = 10, width: int = 16, normalize: bool | str = False, channels: tuple[int, ...] = ()
) -> ResNetCIFAR:
    """ResNet-56 for CIFAR: 853,018 parameters, 125.49 M MACs at 32 x 32."""
    return ResNetCIFAR("resnet56", num_classes, width, normalize, channels)


@register_model("resnet110", example_shape=EXAMPLE_SHAPE)
def resnet110(
    *, num_classes: int = 10, width: int = 16, normalize: bool | str = False, channels: tuple[int, ...] = ()
) -> ResNetCIFAR:
    """ResNet-110 for CIFAR: 1,727,962 parameters, 252.89 M MACs at 32 x 32."""
    return ResNetCIFAR("resnet110", num_classes, width, normalize, channels)
