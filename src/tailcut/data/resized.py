"""Data sets resized to a given side length (`NAME@SIDE`)."""

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from tailcut.data.dataset import Dataset, DatasetView, Indices
from tailcut.errors import ArgumentError

MAX_SIDE = 4096


def check_side(side: int) -> None:
    """Check a wanted side of images, in pixels.

    Raises:
        ArgumentError: it is not 1 to 4096.
    """
    if not 1 <= side <= MAX_SIDE:
        raise ArgumentError(f"the size of images must be 1 to {MAX_SIDE}, got {side}")


def resize(images: Tensor, side: int) -> Tensor:
    """Images (n, channels, height, width) squashed to (n, channels, side, side), bilinear with antialiasing.

    Bytes are rounded to whole grey levels.
    """
    if images.shape[-2:] == (side, side):
        return images
    resized: Tensor = interpolate(images, (side, side), mode="bilinear", antialias=True)
    return resized


class ResizedDataset(DatasetView):
    """A data set of classes with all images squashed to side x side pixels, when they are asked for.

    Args:
        dataset: any data set for classification; its storage is shared.
        side: in pixels.

    Raises:
        ArgumentError: `side` is not 1 to 4096.
    """

    def __init__(self, dataset: Dataset, side: int) -> None:
        check_side(side)
        super().__init__(dataset)
        self.name = f"{dataset.name}@{side}"
        self.image_shape = (dataset.image_shape[0], side, side)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        """See `Dataset.__getitem__`."""
        image, target = self._dataset[index]
        return self._resized(image[None])[0], target

    def batch(self, indices: Indices) -> tuple[Tensor, Tensor]:
        """See `Dataset.batch`."""
        images, targets = self._dataset.batch(indices)
        return self._resized(images), targets

    def part(self, start: int, stop: int) -> "ResizedDataset":
        """See `Dataset.part`."""
        return ResizedDataset(self._dataset.part(start, stop), self.image_shape[1])

    def _resized(self, images: Tensor) -> Tensor:
        # By bytes, as stored images are, so that both kinds of data set give the same images.
        pixels = (images * 255).round().to(torch.uint8)
        return resize(pixels, self.image_shape[1]).float() / 255
