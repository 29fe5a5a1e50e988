"""MobileNet: Howard et al., "MobileNets: Efficient Convolutional Neural Networks for Mobile Vision" (2017)."""

from torch import Tensor, nn

from tailcut.models.arguments import check_channels
from tailcut.models.normalize import normalization
from tailcut.structure import register_model

# Channels (in units of the stem's 32) and stride of each block.
BLOCKS = ((2, 1), (4, 2), (4, 1), (8, 2), (8, 1), (16, 2), *(((16, 1),) * 5), (32, 2), (32, 1))


class MobileNetV1(nn.Module):
    """The network of `mobilenetv1` and `mobilenetv1_cifar`.

    A 3 x 3 convolution, thirteen blocks of a depthwise 3 x 3 and a 1 x 1 convolution, each convolution with batch
    norm and ReLU, and a linear layer. The names of the tensors are those of kuangliu/pytorch-cifar.

    Input: (batch, 3, height, width). Output: (batch, num_classes), logits. The last maps have 1/32 of the size; with
    `small_input`, where the stem has stride 1 instead of 2, 1/16.

    Args:
        name: the family.
        small_input: for images of about 32 x 32.
        num_classes: how many classes there are.
        width: channels of the stem; all others follow.
        normalize: take off a mean and divide by a spread per channel first, where the weights expect that: "cifar10" or
            "imagenet" (or true).

    Raises:
        ArgumentError: a count is not from 1 to 65,536.
    """

    def __init__(self, name: str, small_input: bool, num_classes: int, width: int, normalize: bool | str) -> None:
        super().__init__()
        check_channels(name, num_classes=num_classes, width=width)
        # No module where there is nothing to do: files know modules by their places.
        self.normalize = normalization(name, normalize)
        self.conv1 = nn.Conv2d(3, width, 3, 1 if small_input else 2, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU()
        blocks = []
        channels = width
        for multiple, stride in BLOCKS:
            blocks.append(SeparableConv(channels, multiple * width, stride))
            channels = multiple * width
        self.layers = nn.Sequential(*blocks)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.linear = nn.Linear(channels, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        """Logits (batch, num_classes) of images (batch, 3, height, width)."""
        x = x if self.normalize is None else self.normalize(x)
        x = self.layers(self.relu(self.bn1(self.conv1(x))))
        logits: Tensor = self.linear(self.avgpool(x).flatten(1))
        return logits


class SeparableConv(nn.Module):
    """Depthwise 3 x 3, then 1 x 1: (batch, in_channels, h, w) to (batch, out_channels, h/stride, w/stride)."""

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, in_channels, 3, stride, padding=1, groups=in_channels, bias=False)
        self.bn1 = nn.BatchNorm2d(in_channels)
        self.relu1 = nn.ReLU()
        self.conv2 = nn.Conv2d(in_channels, out_channels, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.relu2 = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        """Return the feature maps of the next block."""
        x = self.relu1(self.bn1(self.conv1(x)))
        y: Tensor = self.relu2(self.bn2(self.conv2(x)))
        return y


@register_model("mobilenetv1", example_shape=(1, 3, 224, 224))
def mobilenetv1(*, num_classes: int = 1000, width: int = 32, normalize: bool | str = False) -> MobileNetV1:
    """MobileNet: 4,231,976 parameters, 568.74 M MACs at 224 x 224."""
    return MobileNetV1("mobilenetv1", False, num_classes, width, normalize)


@register_model("mobilenetv1_cifar", example_shape=(1, 3, 32, 32))
def mobilenetv1_cifar(*, num_classes: int = 10, width: int = 32, normalize: bool | str = False) -> MobileNetV1:
    """MobileNet with a stem of stride 1: 3,217,226 parameters, 46.35 M MACs at 32 x 32."""
    return MobileNetV1("mobilenetv1_cifar", True, num_classes, width, normalize)
