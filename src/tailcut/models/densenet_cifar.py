"""DenseNet for 32 x 32 images: Huang et al., "Densely Connected Convolutional Networks" (2017).

The variant without bottlenecks (and without compression between the blocks).
"""

import torch
from torch import Tensor, nn

from tailcut.models.arguments import check_channels
from tailcut.models.normalize import normalization
from tailcut.structure import register_model

NUM_LAYERS = 12  # in each of the three blocks


@register_model("densenet40", example_shape=(1, 3, 32, 32))
class DenseNet40(nn.Module):
    """DenseNet-40: three blocks of twelve 3 x 3 convolutions; 1,059,298 parameters, 282.92 M MACs at 32 x 32.

    Input: (batch, 3, height, width). Output: (batch, num_classes), logits. Each convolution sees all maps before
    it in its block and adds `growth` to them; the two transitions keep the number of channels and halve the size.

    1,040,578 of the parameters are weights and biases of convolutions and of the linear layer: the 1.04 M of
    papers on channel pruning. The stem has 2 `growth` channels as in those papers' code, not the 16 of the
    original.

    Args:
        num_classes: how many classes there are.
        growth: channels that each convolution adds.
        normalize: take off a mean and divide by a spread per channel first, where the weights expect that: "cifar10" or
            "imagenet" (or true).

    Raises:
        ArgumentError: a count is not from 1 to 65,536.
    """

    def __init__(self, *, num_classes: int = 10, growth: int = 12, normalize: bool | str = False) -> None:
        super().__init__()
        check_channels("densenet40", num_classes=num_classes, growth=growth)
        # No module where there is nothing to do: files know modules by their places.
        self.normalize = normalization("densenet40", normalize)
        channels = 2 * growth
        self.conv1 = nn.Conv2d(3, channels, 3, padding=1, bias=False)
        self.dense1 = _dense_block(channels, growth)
        channels += NUM_LAYERS * growth
        self.trans1 = Transition(channels)
        self.dense2 = _dense_block(channels, growth)
        channels += NUM_LAYERS * growth
        self.trans2 = Transition(channels)
        self.dense3 = _dense_block(channels, growth)
        channels += NUM_LAYERS * growth
        self.bn = nn.BatchNorm2d(channels)
        self.relu = nn.ReLU()
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(channels, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        """Logits (batch, num_classes) of images (batch, 3, height, width)."""
        x = x if self.normalize is None else self.normalize(x)
        x = self.trans1(self.dense1(self.conv1(x)))
        x = self.dense3(self.trans2(self.dense2(x)))
        logits: Tensor = self.fc(self.avgpool(self.relu(self.bn(x))).flatten(1))
        return logits


class DenseLayer(nn.Module):
    """Batch norm, ReLU, 3 x 3 convolution; (batch, channels, h, w) to (batch, channels + growth, h, w)."""

    def __init__(self, channels: int, growth: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(channels)
        self.relu = nn.ReLU()
        self.conv1 = nn.Conv2d(channels, growth, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Return the input and the new maps, concatenated."""
        return torch.cat([x, self.conv1(self.relu(self.bn1(x)))], dim=1)


class Transition(nn.Module):
    """Batch norm, ReLU, 1 x 1 convolution, mean over 2 x 2; (batch, channels, h, w) to half the size."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(channels)
        self.relu = nn.ReLU()
        self.conv1 = nn.Conv2d(channels, channels, 1, bias=False)
        self.avgpool = nn.AvgPool2d(2)

    def forward(self, x: Tensor) -> Tensor:
        """Return the feature maps of the next block."""
        y: Tensor = self.avgpool(self.conv1(self.relu(self.bn1(x))))
        return y


def _dense_block(channels: int, growth: int) -> nn.Sequential:
    return nn.Sequential(*(DenseLayer(channels + number * growth, growth) for number in range(NUM_LAYERS)))
