"""Normalisation of images as a layer, so that networks trained on normalised inputs take pixels in 0..1."""

import torch
from torch import Tensor, nn

# What the images of ImageNet have per channel; published checkpoints were trained on inputs normalised so.
MEAN = (0.485, 0.456, 0.406)
STANDARD_DEVIATION = (0.229, 0.224, 0.225)


class Normalize(nn.Module):
    """(x - `MEAN`) / `STANDARD_DEVIATION` for each of three channels. Shape (batch, 3, height, width) unchanged.

    The numbers are plain constants and no buffers: nothing is stored, and nothing is lost on the meta device.
    """

    def forward(self, x: Tensor) -> Tensor:
        """The normalised image."""
        planes = [(x[:, i] - MEAN[i]) / STANDARD_DEVIATION[i] for i in range(len(MEAN))]
        return torch.stack(planes, dim=1)
