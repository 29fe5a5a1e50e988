"""AlexNet: Krizhevsky, "One weird trick for parallelizing convolutional neural networks" (2014).

The names and the order of the modules are torchvision's, so that its checkpoints fit tensor by tensor.
"""

from torch import Tensor, nn

from tailcut.models.arguments import check_channels, check_dropout
from tailcut.structure import register_model

POOLED_SIDE = 6
SMALLEST_SIDE = 63


def _example_shape(*, resize: int, **_: object) -> tuple[int, ...]:
    return (1, 3, 32, 32) if resize else (1, 3, 224, 224)


@register_model("alexnet", example_shape=_example_shape)
class AlexNet(nn.Module):
    """Five convolutions and three linear layers: 61,100,840 parameters, 714.19 M MACs at 224 x 224.

    Input: (batch, 3, height, width), from 63 x 63; with `resize` of any size. Output: (batch, num_classes),
    logits. The last maps are averaged to 6 x 6, which they have at 224 x 224.

    With 10 classes it is the network of Frequency Regularization's Table 2: 57,035,456 weights and 9,354 biases.
    The convolutions are too coarse for CIFAR's 32 x 32 images, so `resize` enlarges them; the paper does not
    say to what. `resize=224` gives the network its own geometry; `resize=64` is the smallest power of two it
    takes, at about a seventh of the MACs (the last maps are then one pixel).

    Args:
        num_classes: how many classes there are.
        width: channels of the first convolution; the others have 3, 6, 4 and 4 times as many.
        hidden: neurons of each of the two hidden linear layers.
        dropout: share of the inputs of the hidden linear layers that are dropped in training.
        resize: height and width to which images are first brought by bilinear interpolation; 0 takes them as
            they are.

    Raises:
        ArgumentError: a count is not from 1 to 65,536, `dropout` not from 0 to 1, or `resize` neither 0 nor
            from 63 to 65,536.
    """

    def __init__(
        self,
        *,
        num_classes: int = 1000,
        width: int = 64,
        hidden: int = 4096,
        dropout: float = 0.5,
        resize: int = 0,
    ) -> None:
        super().__init__()
        check_channels("alexnet", num_classes=num_classes, width=width, hidden=hidden)
        check_dropout("alexnet", dropout=dropout)
        if resize != 0:
            check_channels("alexnet", at_least=SMALLEST_SIDE, resize=resize)
        self.resize = nn.Upsample((resize, resize), mode="bilinear") if resize else nn.Identity()
        self.features = nn.Sequential(
            nn.Conv2d(3, width, 11, stride=4, padding=2),
            nn.ReLU(),
            nn.MaxPool2d(3, 2),
            nn.Conv2d(width, 3 * width, 5, padding=2),
            nn.ReLU(),
            nn.MaxPool2d(3, 2),
            nn.Conv2d(3 * width, 6 * width, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(6 * width, 4 * width, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(4 * width, 4 * width, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(3, 2),
        )
        self.avgpool = nn.AdaptiveAvgPool2d(POOLED_SIDE)
        self.classifier = nn.Sequential(
            nn.Dropout(dropout),
            nn.Linear(4 * width * POOLED_SIDE**2, hidden),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Linear(hidden, hidden),
            nn.ReLU(),
            nn.Linear(hidden, num_classes),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Logits (batch, num_classes) of images (batch, 3, height, width)."""
        x = self.avgpool(self.features(self.resize(x)))
        logits: Tensor = self.classifier(x.flatten(1))
        return logits
