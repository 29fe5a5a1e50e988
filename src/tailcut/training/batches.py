"""Training batches, whose order and augmentation are pure functions of the seed and the position in the run.

So a run that was killed continues with the very batches it would have had, and any number of processes sees
together what one process sees.
"""

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d

from tailcut.data import Dataset
from tailcut.data.workers import Workers
from tailcut.training.recipe.sections import AugmentationSection


def generator(*key: int) -> torch.Generator:
    """Return a random number generator that depends on nothing but the key, on the CPU.

    Args:
        key: integers such as seed, epoch and step; generators of different keys are independent.
    """
    digest = hashlib.sha256(repr(key).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)


def batches(
    dataset: Dataset,
    *,
    batch_size: int,
    seed: int,
    epoch: int,
    augmentation: AugmentationSection,
    coarse: int = 1,
    rank: int = 0,
    num_processes: int = 1,
    workers: Workers | None = None,
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Yield the augmented batches of one epoch, of one process; an incomplete last batch is left out.

    Args:
        dataset: the training images.
        batch_size: images per step, of all processes together.
        seed: the run's seed.
        epoch: number of the epoch.
        augmentation: what is changed at random.
        coarse: how many times smaller the images become after that, along each side; see `coarsen`.
        rank: number of this process, which takes every `num_processes`-th image of each batch.
        num_processes: how many processes share a batch.
        workers: processes that make batches ahead for this one, and stay for the next epoch; the batches are the same.

    Yields:
        Images (batch_size / num_processes, channels, height, width), targets, and the images' places in the data
        set, int64 (batch_size / num_processes,).
    """
    made = TrainingBatches(dataset, batch_size, seed, augmentation, coarse, rank, num_processes)
    yield from (workers or Workers(0)).items(made, steps_of(epoch, len(dataset) // batch_size))


def steps_of(epoch: int, num_steps: int) -> list[tuple[int, int]]:
    """Return epoch and step of each step of an epoch."""
    return [(epoch, step) for step in range(num_steps)]


@dataclass(frozen=True)
class TrainingBatches(torch.utils.data.Dataset[tuple[Tensor, Tensor, Tensor]]):
    """The batch of each epoch and step; see `batches`."""

    dataset: Dataset
    batch_size: int
    seed: int
    augmentation: AugmentationSection
    coarse: int
    rank: int
    num_processes: int

    def __getitem__(self, index: tuple[int, int]) -> tuple[Tensor, Tensor, Tensor]:
        """Return images, targets and places of an epoch and step."""
        epoch, step = index
        mine, places = self.places(epoch, step), self._shares()
        if self.augmentation.crop:
            noises = [generator(self.seed, epoch, step, place) for place in places.tolist()]
            images, targets = self.dataset.random_parts(mine, noises)
        else:
            images, targets = self.dataset.batch(mine)
        noise = generator(self.seed, epoch, step)
        stored = self.dataset.stored_channels
        mirrored = None if stored is None else stored.flipped
        images, targets = augment(images, targets, self.augmentation, noise, self.batch_size, places, mirrored)
        return *coarsen(images, targets, self.coarse), mine

    def places(self, epoch: int, step: int) -> Tensor:
        """Return the places in the data set of this process's images of a step, int64 (images,)."""
        order = _order(len(self.dataset), self.seed, epoch)
        return order[step * self.batch_size + self._shares()]

    def _shares(self) -> Tensor:
        return torch.arange(self.batch_size)[self.rank :: self.num_processes]


@lru_cache(maxsize=2)
def _order(num_images: int, seed: int, epoch: int) -> Tensor:
    return torch.randperm(num_images, generator=generator(seed, epoch))


def augment(
    images: Tensor,
    targets: Tensor,
    augmentation: AugmentationSection,
    noise: torch.Generator,
    batch_size: int,
    places: Tensor,
    mirrored: Callable[[Tensor], Tensor] | None = None,
) -> tuple[Tensor, Tensor]:
    """Images and masks changed at random; classes stay.

    Args:
        images: (n, channels, height, width).
        targets: classes (n,) or masks (n, height, width).
        augmentation: what to do.
        noise: gives the random numbers of the whole batch, on the CPU, so that they are the same on every device.
        batch_size: images in the whole batch.
        places: int64 (n,), the places of these images in the whole batch.
        mirrored: mirrors images left to right; `mirror` when None.

    Returns:
        Images and targets of the same shapes.
    """
    has_masks = targets.ndim == 3
    if augmentation.shift:
        reach = augmentation.shift
        moves = torch.randint(-reach, reach + 1, (batch_size, 2), generator=noise)[places].to(images.device)
        images = shift(images, moves)
        targets = shift(targets[:, None], moves)[:, 0] if has_masks else targets
    if augmentation.flip:
        flipped = (torch.rand(batch_size, generator=noise) < 0.5)[places].to(images.device)
        images = torch.where(flipped[:, None, None, None], (mirrored or mirror)(images), images)
        targets = torch.where(flipped[:, None, None], targets.flip(2), targets) if has_masks else targets
    if augmentation.cutout:
        height, width = images.shape[-2:]
        # Drawn last: without it, the batches of a seed are those of before.
        shares = torch.rand(batch_size, 2, generator=noise, dtype=torch.float64)[places]
        centers = (shares * torch.tensor([height, width])).long().to(images.device)
        images = cutout(images, centers, augmentation.cutout)
    return images, targets


def cutout(images: Tensor, centers: Tensor, side: int) -> Tensor:
    """Return each image with a square hidden behind the mean of each of its channels.

    Source: T. DeVries and G. W. Taylor, "Improved Regularization of Convolutional Neural Networks with Cutout" (2017).
    What of a square lies outside the image hides nothing.

    Args:
        images: (n, channels, height, width).
        centers: int64 (n, 2), row and column of each square's middle, on the same device.
        side: the square's rows and columns; of an even number, one more lies before the middle than after it.

    Returns:
        (n, channels, height, width).
    """
    first = centers - side // 2
    height, width = images.shape[-2:]
    rows = torch.arange(height, device=centers.device) - first[:, :1]
    columns = torch.arange(width, device=centers.device) - first[:, 1:]
    return torch.where(_within(rows, side, columns, side), images.mean((2, 3), keepdim=True), images)


def mirror(images: Tensor) -> Tensor:
    """Return images (..., height, width) mirrored left to right."""
    return images.flip(-1)


def coarsen(images: Tensor, targets: Tensor, factor: int) -> tuple[Tensor, Tensor]:
    """Images and masks that are `factor` times smaller along each side; classes stay.

    Args:
        images: (n, channels, height, width).
        targets: classes (n,) or masks (n, height, width).
        factor: a square of so many pixels a side becomes their mean, or the pixel in the middle of a mask.

    Returns:
        Images (n, channels, height // factor, width // factor) and their targets.
    """
    if factor == 1:
        return images, targets
    smaller = avg_pool2d(images, factor)
    if targets.ndim == 3:
        height, width = smaller.shape[-2:]
        targets = targets[:, factor // 2 :: factor, factor // 2 :: factor][:, :height, :width]
    return smaller, targets


def shift(images: Tensor, moves: Tensor) -> Tensor:
    """Return each image shifted by its own number of pixels, padded with zeros.

    Args:
        images: (n, channels, height, width).
        moves: int64 (n, 2), pixels down and to the right, on the same device.

    Returns:
        (n, channels, height, width).
    """
    num, channels, height, width = images.shape
    rows = torch.arange(height, device=moves.device) - moves[:, :1]  # (n, height): the row that comes from there
    columns = torch.arange(width, device=moves.device) - moves[:, 1:]
    index = rows.clamp(0, height - 1)[:, :, None] * width + columns.clamp(0, width - 1)[:, None, :]
    index = index.view(num, 1, height * width).expand(-1, channels, -1)
    moved = images.reshape(num, channels, height * width).gather(2, index).view(images.shape)
    return torch.where(_within(rows, height, columns, width), moved, torch.zeros_like(moved))


def _within(rows: Tensor, height: int, columns: Tensor, width: int) -> Tensor:
    """Whether rows (n, h) are in 0..height-1 and columns (n, w) in 0..width-1: bool (n, 1, h, w)."""
    inside_rows, inside_columns = (rows >= 0) & (rows < height), (columns >= 0) & (columns < width)
    return inside_rows[:, None, :, None] & inside_columns[:, None, None, :]
