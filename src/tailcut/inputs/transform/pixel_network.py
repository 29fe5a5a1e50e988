"""A network behind its input transform, written as a layer: for exports that take images."""

from typing import Any

from torch import Tensor, nn
from torch.nn.functional import conv2d, pad

from tailcut.inputs.transform.input_transform import InputTransform


class PixelNetwork(nn.Module):
    """Network on frequency channels or YCbCr that takes RGB images: one convolution, then the network.

    Args:
        network: what takes the channels.
        transform: the transform that makes them, with its statistics.
    """

    weight: Tensor
    bias: Tensor

    def __init__(self, network: nn.Module, transform: InputTransform) -> None:
        super().__init__()
        self.network = network
        self.stride, self.sides = transform.block_size, transform.sides
        weight, bias = transform.convolution()
        self.register_buffer("weight", weight)
        self.register_buffer("bias", bias)

    def forward(self, images: Tensor) -> Any:
        """Return the network's outputs for images (batch, 3, height, width) of 0 to 1."""
        sides = self.sides(*images.shape[-2:])
        padded = pad(images, sides, mode="replicate") if any(sides) else images
        return self.network(conv2d(padded, self.weight, self.bias, self.stride))
