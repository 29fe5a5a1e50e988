"""VGG networks with batch norm for 32 x 32 images, as papers on compression report them; see `vgg`.

`vgg16_bn_cifar` has its tensors in the order and the shapes of lmbxmu/HRank's code (under other names),
`vgg19_bn_cifar` also the names of kuangliu/pytorch-cifar.
"""

from torch import Tensor, nn

from tailcut.models.arguments import check_channels
from tailcut.models.normalize import normalization
from tailcut.models.vgg import VGG16, VGG19, convolutions
from tailcut.structure import register_model

EXAMPLE_SHAPE = (1, 3, 32, 32)


class VGGCIFAR(nn.Module):
    """The convolutions of VGG with batch norm, the mean over the rest of the map, and one or two linear layers.

    Input: (batch, 3, height, width), from 32 x 32 (16 x 16 without `last_pooling`). Output: (batch, num_classes),
    logits.

    Args:
        name: the family.
        stages: channels in units of `width`; max pooling lies between the inner tuples.
        last_pooling: max pooling after the last stage too, before the mean over the rest of the map.
        num_classes: how many classes there are.
        width: channels of the first stage.
        hidden: neurons of the hidden linear layer; 0 for none.
        bias: give the convolutions a bias, which batch norm cancels, but which the papers' networks have.
        normalize: take off a mean and divide by a spread per channel first, where the weights expect that: "cifar10" or
            "imagenet" (or true).

    Raises:
        ArgumentError: a count is not from 1 (`hidden`: 0) to 65,536.
    """

    def __init__(
        self,
        name: str,
        stages: tuple[tuple[int, ...], ...],
        last_pooling: bool,
        num_classes: int,
        width: int,
        hidden: int,
        bias: bool,
        normalize: bool | str,
    ) -> None:
        super().__init__()
        check_channels(name, num_classes=num_classes, width=width)
        check_channels(name, at_least=0, hidden=hidden)
        # No module where there is nothing to do: files know modules by their places.
        self.normalize = normalization(name, normalize)
        layers = convolutions(stages, width, batch_norm=True, bias=bias)
        self.features = nn.Sequential(*(layers if last_pooling else layers[:-1]))
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        in_channels = 8 * width
        self.classifier: nn.Module = nn.Linear(in_channels, num_classes)
        if hidden > 0:
            self.classifier = nn.Sequential(
                nn.Linear(in_channels, hidden), nn.BatchNorm1d(hidden), nn.ReLU(), nn.Linear(hidden, num_classes)
            )

    def forward(self, x: Tensor) -> Tensor:
        """Logits (batch, num_classes) of images (batch, 3, height, width)."""
        x = x if self.normalize is None else self.normalize(x)
        logits: Tensor = self.classifier(self.avgpool(self.features(x)).flatten(1))
        return logits


@register_model("vgg16_bn_cifar", example_shape=EXAMPLE_SHAPE)
def vgg16_bn_cifar(
    *,
    num_classes: int = 10,
    width: int = 64,
    hidden: int = 512,
    bias: bool = True,
    normalize: bool | str = False,
) -> VGGCIFAR:
    """VGG-16-BN of CFDP and HRank: thirteen convolutions, 512 - 512 - 10; 313.46 M MACs at 32 x 32.

    14,991,946 parameters: 14,982,474 weights and biases of convolutions and linear layers, which are the
    papers' 14.98 M, and 9,472 of batch norm. The papers' 313.73 M come out if the two linear layers' 267,264 are
    counted twice, as multiplications and as additions. The last maps, 2 x 2, are averaged.
    """
    return VGGCIFAR("vgg16_bn_cifar", VGG16, False, num_classes, width, hidden, bias, normalize)


@register_model("vgg19_bn_cifar", example_shape=EXAMPLE_SHAPE)
def vgg19_bn_cifar(
    *, num_classes: int = 10, width: int = 64, bias: bool = True, normalize: bool | str = False
) -> VGGCIFAR:
    """VGG-19-BN, sixteen convolutions and 512 - 10: the "VGG16" of Frequency Regularization's Table 2.

    20,040,522 parameters, which is what the paper's first version counts: 20,024,000 weights, which is what the
    published version counts, 5,514 biases and 11,008 of batch norm. 398.14 M MACs at 32 x 32.
    """
    return VGGCIFAR("vgg19_bn_cifar", VGG19, True, num_classes, width, 0, bias, normalize)
