"""LeNet-5 in the form of Caffe's MNIST example, on which compression papers report."""

from torch import Tensor, nn
from torch.nn.functional import max_pool2d, relu

from tailcut.models.arguments import check_channels
from tailcut.structure import register_model


@register_model("lenet5", example_shape=(1, 1, 28, 28))
class LeNet5(nn.Module):
    """Two convolutions with pooling and two fully connected layers: 430,500 weights for 10 classes.

    20 filters 5 x 5, max pooling 2, 50 filters 5 x 5, max pooling 2, 800 - 500, ReLU, 500 - classes. As in
    Caffe, the only ReLU is the one between the fully connected layers.

    Input: (batch, 1, 28, 28), pixels in 0..1. Output: (batch, num_classes), logits.

    Args:
        bias: give each layer a bias (580 numbers for 10 classes).
        num_classes: how many classes there are.
        convolutional: make the first fully connected layer a convolution whose kernel is its whole input.
            The map is the same and so are the parameters' names; but its weight has shape (500, 50, 4, 4)
            instead of (500, 800), so that its transform sees the two axes of the image.
        conv_relu: put a ReLU after each of the two convolutions too, which Caffe's network lacks.

    Raises:
        ArgumentError: `num_classes` is not positive.
    """

    def __init__(
        self,
        *,
        bias: bool = True,
        num_classes: int = 10,
        convolutional: bool = False,
        conv_relu: bool = False,
    ) -> None:
        super().__init__()
        check_channels("lenet5", num_classes=num_classes)
        self.conv1 = nn.Conv2d(1, 20, 5, bias=bias)
        self.conv2 = nn.Conv2d(20, 50, 5, bias=bias)
        self.fc1 = nn.Conv2d(50, 500, 4, bias=bias) if convolutional else nn.Linear(800, 500, bias=bias)
        self.fc2 = nn.Linear(500, num_classes, bias=bias)
        self.convolutional = convolutional
        self.conv_relu = conv_relu

    def forward(self, x: Tensor) -> Tensor:
        """Logits (batch, num_classes) of images (batch, 1, 28, 28)."""
        x = max_pool2d(self.conv1(x), 2)  # (batch, 20, 12, 12)
        x = relu(x) if self.conv_relu else x
        x = max_pool2d(self.conv2(x), 2)  # (batch, 50, 4, 4)
        x = relu(x) if self.conv_relu else x
        x = self.fc1(x).flatten(1) if self.convolutional else self.fc1(x.flatten(1))
        logits: Tensor = self.fc2(relu(x))
        return logits
