"""Data sets resized to a given side length (`NAME@SIDE`), or cut to their middle (`NAME@SHORTER/SIDE`)."""

import torch
from torch import Tensor

from tailcut.data.dataset import Dataset, DatasetView, Indices
from tailcut.data.framing import Framing, check_framing, framed, named, shorter_side_of, side_of


class ResizedDataset(DatasetView):
    """A data set of classes whose images are resized to one size on access.

    Args:
        dataset: any data set for classification; its storage is shared.
        framing: see `tailcut.data.framing`.

    Raises:
        ArgumentError: a side is not 1 to 4096.
    """

    def __init__(self, dataset: Dataset, framing: Framing) -> None:
        check_framing(framing)
        super().__init__(dataset)
        self.name = f"{dataset.name}@{named(framing)}"
        self.image_shape = (dataset.image_shape[0], side_of(framing), side_of(framing))
        self.shorter_side = shorter_side_of(framing)
        self._framing = framing

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
        return ResizedDataset(self._dataset.part(start, stop), self._framing)

    def _resized(self, images: Tensor) -> Tensor:
        # By bytes, as stored images are, so that both kinds of data set give the same images.
        pixels = (images * 255).round().to(torch.uint8)
        return framed(pixels, self._framing).float() / 255
