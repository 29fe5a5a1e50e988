"""Training batches of detectors: images with objects, and their horizontal flips."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from tailcut.data import CocoDataset, Dataset
from tailcut.data.dataset import Indices
from tailcut.training.batches import TrainingBatches, generator

Example = tuple[Tensor, dict[str, Tensor]]


class ImageNumbers(Dataset):
    """Placeholder for a data set in the training loop: image and target are the index of the image.

    Images with objects have no common size and cannot be stacked; indices can. A step reads their images.
    """

    def __init__(self, dataset: Dataset) -> None:
        self.name, self.split, self.task = dataset.name, dataset.split, dataset.task
        self.num_classes, self.class_names = dataset.num_classes, dataset.class_names
        self.image_shape = dataset.image_shape
        self._num_images = len(dataset)

    def __len__(self) -> int:
        """Return the number of images."""
        return self._num_images

    def batches(self, positions: Sequence[Indices], workers: int | None = None) -> Iterator[tuple[Tensor, Tensor]]:
        """See `Dataset.batches`. Numbers are not read, so that workers are not asked."""
        return super().batches(positions, 0)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        """Return the index as image and as target, int64, shape ()."""
        if not 0 <= index < self._num_images:
            raise IndexError(f"{self.name}, split {self.split}: there is no image {index}")
        return torch.tensor(index), torch.tensor(index)


@dataclass(frozen=True)
class ExampleBatches(torch.utils.data.Dataset[list[Example]]):
    """The images and objects of each epoch and step, a pure function of the seed and the position in the run.

    Attributes:
        dataset: the data set.
        numbers: the batches of an `ImageNumbers`.
        masks: with masks.
        flip: probability that an image is flipped.
    """

    dataset: CocoDataset
    numbers: TrainingBatches
    masks: bool
    flip: float

    def __getitem__(self, index: tuple[int, int]) -> list[Example]:
        """Return the examples of an epoch and step."""
        return [self._example(index[0], number) for number in self.numbers.places(*index).tolist()]

    def _example(self, epoch: int, index: int) -> Example:
        mirrored = is_mirrored(self.flip, seed=self.numbers.seed, epoch=epoch, index=index)
        return training_example(self.dataset, index, masks=self.masks, mirrored=mirrored)


def training_example(dataset: CocoDataset, index: int, *, masks: bool, mirrored: bool) -> Example:
    """Return one image (3, height, width) with its objects, as a detector takes them; flipped if `mirrored`."""
    image = dataset.image(index)  # first: it shows a size in the annotations that is not the image's
    objects = dataset.objects(index, masks=masks)
    target = {"boxes": objects.boxes, "labels": objects.labels}
    if objects.masks is not None:
        target["masks"] = objects.masks
    example = image, target
    return mirror(*example) if mirrored else example


def mirror(image: Tensor, target: dict[str, Tensor]) -> Example:
    """Return an image (3, height, width) and its objects, flipped horizontally."""
    width = image.shape[2]
    left, top, right, bottom = target["boxes"].unbind(1)
    turned = {**target, "boxes": torch.stack([width - right, top, width - left, bottom], dim=1)}
    if "masks" in target:
        turned["masks"] = target["masks"].flip(2)
    return image.flip(2), turned


def is_mirrored(probability: float, *, seed: int, epoch: int, index: int) -> bool:
    """Return whether this image is flipped in this epoch, a pure function of seed, epoch and index."""
    return float(torch.rand((), generator=generator(seed, epoch, index, 0))) < probability
