"""Networks behind their transform as one layer, beside the transform itself."""

import pytest
import torch
from torch import nn

from tailcut.inputs.stem.ycbcr import YCbCrPixels
from tailcut.inputs.transform.block_dct import BlockDCT
from tailcut.inputs.transform.input_transform import InputTransform
from tailcut.inputs.transform.pixel_network import PixelNetwork


@pytest.mark.parametrize("size", [(16, 24), (13, 30)], ids=["whole blocks", "parts of blocks"])
@pytest.mark.parametrize(
    "transform",
    [BlockDCT(24), BlockDCT(192, chroma="full"), BlockDCT([3, 5]), YCbCrPixels()],
    ids=["two scales", "full", "luma", "ycbcr"],
)
def test_channels_are_those_of_the_transform(transform: InputTransform, size: tuple[int, int]) -> None:
    transform = transform.double().fit([torch.rand(2, 3, 32, 32, dtype=torch.float64)])
    images = torch.rand(2, 3, *size, dtype=torch.float64)
    network = PixelNetwork(nn.Identity(), transform)
    torch.testing.assert_close(network(images), transform(images))
