"""Residual networks: He et al., "Deep Residual Learning for Image Recognition" (2016).

The names and the order of the modules are torchvision's, so that its checkpoints fit tensor by tensor. As
there, a bottleneck block takes its stride in the 3 x 3 convolution ("v1.5") and not in the first one.
"""

from torch import Tensor, nn

from tailcut.models.arguments import check_channels
from tailcut.models.normalize import normalization
from tailcut.structure import register_model

DEPTHS = {"resnet18": (2, 2, 2, 2), "resnet34": (3, 4, 6, 3), "resnet50": (3, 4, 6, 3), "resnet101": (3, 4, 23, 3)}


def _example_shape(*, small_input: bool, **_: object) -> tuple[int, ...]:
    return (1, 3, 32, 32) if small_input else (1, 3, 224, 224)


class ResNet(nn.Module):
    """The network of all `resnet` families: a stem, four stages of residual blocks, one linear layer.

    Input: (batch, 3, height, width), pixels in 0..1 where `normalize` is. Output: (batch, num_classes), logits. The
    maps have width, 2 width, 4 width and 8 width channels (four times as many with bottleneck blocks) at 1/4, 1/8,
    1/16 and 1/32 of the size; with `small_input` at 1, 1/2, 1/4 and 1/8.

    Args:
        name: the family, one of `DEPTHS`.
        num_classes: how many classes there are.
        width: channels of the first stage.
        small_input: the stem for images of about 32 x 32: a 3 x 3 convolution of stride 1, no pooling.
        normalize: take off ImageNet's mean and divide by its spread first (`Normalize`), so that torchvision's
            checkpoints, trained on inputs normalised in that way, take pixels in 0..1; "cifar10" for CIFAR-10's.

    Raises:
        ArgumentError: a count is not from 1 to 65,536.
    """

    def __init__(self, name: str, num_classes: int, width: int, small_input: bool, normalize: bool | str) -> None:
        super().__init__()
        check_channels(name, num_classes=num_classes, width=width)
        block: type[BasicBlock | Bottleneck] = BasicBlock if name in ("resnet18", "resnet34") else Bottleneck
        kernel, stride = (3, 1) if small_input else (7, 2)
        # No module where there is nothing to do: files know modules by their places.
        self.normalize = normalization(name, normalize)
        self.conv1 = nn.Conv2d(3, width, kernel, stride, padding=kernel // 2, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU()
        self.maxpool = nn.Identity() if small_input else nn.MaxPool2d(3, 2, padding=1)
        depths = DEPTHS[name]
        self.layer1 = _stage(block, depths[0], width, width, 1)
        self.layer2 = _stage(block, depths[1], width * block.expansion, 2 * width, 2)
        self.layer3 = _stage(block, depths[2], 2 * width * block.expansion, 4 * width, 2)
        self.layer4 = _stage(block, depths[3], 4 * width * block.expansion, 8 * width, 2)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(8 * width * block.expansion, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        """Logits (batch, num_classes) of images (batch, 3, height, width)."""
        x = x if self.normalize is None else self.normalize(x)
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        logits: Tensor = self.fc(self.avgpool(x).flatten(1))
        return logits


class BasicBlock(nn.Module):
    """Two 3 x 3 convolutions beside a shortcut: (batch, in_channels, h, w) to (batch, channels, h/stride, w/stride)."""

    expansion = 1

    def __init__(self, in_channels: int, channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, channels, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.relu1 = nn.ReLU()
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.downsample = _shortcut(in_channels, channels, stride)
        self.relu2 = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        """Return the feature maps of the next block."""
        y = self.relu1(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        out: Tensor = self.relu2(y + self.downsample(x))
        return out


class Bottleneck(nn.Module):
    """1 x 1, 3 x 3 and 1 x 1 convolution beside a shortcut, to four times `channels`; see `BasicBlock`."""

    expansion = 4

    def __init__(self, in_channels: int, channels: int, stride: int) -> None:
        super().__init__()
        out_channels = channels * self.expansion
        self.conv1 = nn.Conv2d(in_channels, channels, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.relu1 = nn.ReLU()
        self.conv2 = nn.Conv2d(channels, channels, 3, stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.relu2 = nn.ReLU()
        self.conv3 = nn.Conv2d(channels, out_channels, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(out_channels)
        self.downsample = _shortcut(in_channels, out_channels, stride)
        self.relu3 = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        """Return the feature maps of the next block."""
        y = self.relu1(self.bn1(self.conv1(x)))
        y = self.relu2(self.bn2(self.conv2(y)))
        y = self.bn3(self.conv3(y))
        out: Tensor = self.relu3(y + self.downsample(x))
        return out


def _stage(
    block: type[BasicBlock | Bottleneck], depth: int, in_channels: int, channels: int, stride: int
) -> nn.Sequential:
    """`depth` blocks; the first has the stride and the change of channels."""
    first = block(in_channels, channels, stride)
    return nn.Sequential(first, *(block(channels * block.expansion, channels, 1) for _ in range(depth - 1)))


def _shortcut(in_channels: int, out_channels: int, stride: int) -> nn.Module:
    """Return the identity where shapes agree, else a 1 x 1 convolution with batch norm."""
    if stride == 1 and in_channels == out_channels:
        return nn.Identity()
    convolution = nn.Conv2d(in_channels, out_channels, 1, stride, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(out_channels))


@register_model("resnet18", example_shape=_example_shape)
def resnet18(
    *, num_classes: int = 1000, width: int = 64, small_input: bool = False, normalize: bool | str = False
) -> ResNet:
    """ResNet-18: 11,689,512 parameters, 1.81 G MACs at 224 x 224.

    With `small_input=True, num_classes=10` it is the network of CIFAR-10 results: 11,173,962 parameters, of
    them 11,164,352 weights. (The 11,162,624 of Frequency Regularization's Table 2 leave out the stem's 1,728.)
    """
    return ResNet("resnet18", num_classes, width, small_input, normalize)


@register_model("resnet34", example_shape=_example_shape)
def resnet34(
    *, num_classes: int = 1000, width: int = 64, small_input: bool = False, normalize: bool | str = False
) -> ResNet:
    """ResNet-34: 21,797,672 parameters, 3.66 G MACs at 224 x 224."""
    return ResNet("resnet34", num_classes, width, small_input, normalize)


@register_model("resnet50", example_shape=_example_shape)
def resnet50(
    *, num_classes: int = 1000, width: int = 64, small_input: bool = False, normalize: bool | str = False
) -> ResNet:
    """ResNet-50: 25,557,032 parameters, 4.09 G MACs at 224 x 224; 25.50 M of them are not batch norm's."""
    return ResNet("resnet50", num_classes, width, small_input, normalize)


@register_model("resnet101", example_shape=_example_shape)
def resnet101(
    *, num_classes: int = 1000, width: int = 64, small_input: bool = False, normalize: bool | str = False
) -> ResNet:
    """ResNet-101: 44,549,160 parameters, 7.80 G MACs at 224 x 224."""
    return ResNet("resnet101", num_classes, width, small_input, normalize)
