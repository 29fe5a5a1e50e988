"""VGG-16: Simonyan and Zisserman, "Very Deep Convolutional Networks for Large-Scale Image Recognition" (2015).

The names and the order of the modules are torchvision's, so that its checkpoints fit tensor by tensor.
"""

from torch import Tensor, nn

from tailcut.models.arguments import check_channels, check_dropout
from tailcut.structure import register_model

EXAMPLE_SHAPE = (1, 3, 224, 224)
POOLED_SIDE = 7

# Channels in units of the first stage's; each inner tuple is followed by max pooling.
VGG16 = ((1, 1), (2, 2), (4, 4, 4), (8, 8, 8), (8, 8, 8))
VGG19 = ((1, 1), (2, 2), (4, 4, 4, 4), (8, 8, 8, 8), (8, 8, 8, 8))


class VGG(nn.Module):
    """Thirteen 3 x 3 convolutions with ReLU in five stages, each closed by pooling, and three linear layers.

    Input: (batch, 3, height, width), from 32 x 32; the maps after the last stage are averaged to 7 x 7.
    Output: (batch, num_classes), logits.

    Args:
        name: the family.
        batch_norm: put batch norm between every convolution and its ReLU.
        num_classes: how many classes there are.
        width: channels of the first stage.
        hidden: neurons of each of the two hidden linear layers.
        dropout: share of hidden neurons that are dropped in training.

    Raises:
        ArgumentError: a count is not from 1 to 65,536, or `dropout` not from 0 to 1.
    """

    def __init__(self, name: str, batch_norm: bool, num_classes: int, width: int, hidden: int, dropout: float) -> None:
        super().__init__()
        check_channels(name, num_classes=num_classes, width=width, hidden=hidden)
        check_dropout(name, dropout=dropout)
        self.features = nn.Sequential(*convolutions(VGG16, width, batch_norm=batch_norm, bias=True))
        self.avgpool = nn.AdaptiveAvgPool2d(POOLED_SIDE)
        self.classifier = nn.Sequential(
            nn.Linear(8 * width * POOLED_SIDE**2, hidden),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Linear(hidden, hidden),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Linear(hidden, num_classes),
        )
        for layer in self.classifier:
            if isinstance(layer, nn.Linear):
                nn.init.normal_(layer.weight, std=0.01)
                nn.init.zeros_(layer.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (batch, num_classes) of images (batch, 3, height, width)."""
        logits: Tensor = self.classifier(self.avgpool(self.features(x)).flatten(1))
        return logits


def convolutions(stages: tuple[tuple[int, ...], ...], width: int, *, batch_norm: bool, bias: bool) -> list[nn.Module]:
    """Return the layers of `features`: convolution, (batch norm,) ReLU, and max pooling after each stage."""
    layers: list[nn.Module] = []
    in_channels = 3
    for stage in stages:
        for multiple in stage:
            channels = multiple * width
            convolution = nn.Conv2d(in_channels, channels, 3, padding=1, bias=bias)
            nn.init.kaiming_normal_(convolution.weight, mode="fan_out", nonlinearity="relu")
            if convolution.bias is not None:
                nn.init.zeros_(convolution.bias)
            layers += [convolution, nn.BatchNorm2d(channels)] if batch_norm else [convolution]
            layers.append(nn.ReLU())
            in_channels = channels
        layers.append(nn.MaxPool2d(2))
    return layers


@register_model("vgg16", example_shape=EXAMPLE_SHAPE)
def vgg16(*, num_classes: int = 1000, width: int = 64, hidden: int = 4096, dropout: float = 0.5) -> VGG:
    """VGG-16: 138,357,544 parameters, 15.47 G MACs at 224 x 224."""
    return VGG("vgg16", False, num_classes, width, hidden, dropout)


@register_model("vgg16_bn", example_shape=EXAMPLE_SHAPE)
def vgg16_bn(*, num_classes: int = 1000, width: int = 64, hidden: int = 4096, dropout: float = 0.5) -> VGG:
    """VGG-16 with batch norm: 138,365,992 parameters, 15.47 G MACs at 224 x 224."""
    return VGG("vgg16_bn", True, num_classes, width, hidden, dropout)
