"""LeNet-300-100: the fully connected digit classifier of LeCun et al. (1998)."""

from torch import Tensor, nn
from torch.nn.functional import relu

from tailcut.models.arguments import check_channels
from tailcut.structure import register_model


@register_model("lenet300", example_shape=(1, 1, 28, 28))
class LeNet300(nn.Module):
    """784 - 300 - 100 - classes, with ReLU between: 266,200 weights for 10 classes.

    Input: (batch, 1, 28, 28), pixels in 0..1. Output: (batch, num_classes), logits.

    Args:
        bias: give each layer a bias (410 numbers for 10 classes).
        num_classes: how many classes there are.
        convolutional: make the first layer a convolution whose kernel is the whole image. The map is the
            same and so are the parameters' names; but the first weight has shape (300, 1, 28, 28) instead of
            (300, 784), so that its transform sees the two axes of the image.

    Raises:
        ArgumentError: `num_classes` is not positive.
    """

    def __init__(self, *, bias: bool = True, num_classes: int = 10, convolutional: bool = False) -> None:
        super().__init__()
        check_channels("lenet300", num_classes=num_classes)
        self.fc1 = nn.Conv2d(1, 300, 28, bias=bias) if convolutional else nn.Linear(784, 300, bias=bias)
        self.fc2 = nn.Linear(300, 100, bias=bias)
        self.fc3 = nn.Linear(100, num_classes, bias=bias)
        self.convolutional = convolutional

    def forward(self, x: Tensor) -> Tensor:
        """Logits (batch, num_classes) of images (batch, 1, 28, 28)."""
        x = self.fc1(x).flatten(1) if self.convolutional else self.fc1(x.flatten(1))
        x = relu(self.fc2(relu(x)))
        logits: Tensor = self.fc3(x)
        return logits
