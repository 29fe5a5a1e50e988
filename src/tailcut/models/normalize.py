"""Normalisation of images as a layer, so that networks trained on normalised inputs take pixels in 0..1."""

import torch
from torch import Tensor, nn

from tailcut.errors import ArgumentError

# Mean and spread per channel of the images that published checkpoints were trained on.
STATISTICS = {
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "cifar10": ((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)),
}
MEAN, STANDARD_DEVIATION = STATISTICS["imagenet"]


class Normalize(nn.Module):
    """(x - mean) / spread for each of three channels. Shape (batch, 3, height, width) unchanged.

    The numbers are plain constants and no buffers: nothing is stored, and nothing is lost on the meta device.

    Args:
        which: "imagenet", or "cifar10" for the constants that most code for CIFAR-10 has (its spread is that of
            the images' own spreads, not of all pixels).
    """

    __constants__ = ("which",)  # compared when a network is saved

    def __init__(self, which: str = "imagenet") -> None:
        super().__init__()
        self.which = which
        self.mean, self.standard_deviation = STATISTICS[which]

    def forward(self, x: Tensor) -> Tensor:
        """Return the normalised image.

        Raises:
            ArgumentError: the image has another number of channels.
        """
        if isinstance(x, Tensor) and x.shape[1] != len(self.mean):  # torch.fx follows it with what is no tensor
            raise ArgumentError(f"expected images of {len(self.mean)} channels, got {x.shape[1]}")
        planes = [(x[:, i] - self.mean[i]) / self.standard_deviation[i] for i in range(len(self.mean))]
        return torch.stack(planes, dim=1)

    def extra_repr(self) -> str:
        """Return the constants' name, for printing."""
        return repr(self.which)


def normalization(model: str, choice: bool | str) -> Normalize | None:
    """Return the layer for a network's argument `normalize`: None for False, ImageNet's constants for True.

    Raises:
        ArgumentError: a string that names no constants.
    """
    if choice is False:
        return None
    which = "imagenet" if choice is True else choice
    if which not in STATISTICS:
        raise ArgumentError(f"{model}: normalize must be true, false, {' or '.join(STATISTICS)}, got {choice!r}")
    return Normalize(which)
