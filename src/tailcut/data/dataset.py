"""Data set classes: images as float tensors in 0..1 with one class or one mask each."""

from abc import ABC, abstractmethod
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

import torch
from torch import Tensor

from tailcut.data.reading import read_ahead
from tailcut.errors import ArgumentError, DataError

Task = Literal["classification", "segmentation", "detection"]
Source = Literal["pixels", "coefficients"]
Indices = Sequence[int] | range | Tensor

MAX_SHOWN_SIZES = 5


@dataclass(frozen=True)
class StoredChannels:
    """Frequency channels, not normalised, that the items of a data set hold in place of pixels.

    Attributes:
        indices: 64 c + 8 v + u is frequency (v, u) of component c.
        chroma: `two_scale` or `full`; see `tailcut.inputs.BlockDCT`.
    """

    indices: tuple[int, ...]
    chroma: str

    def flipped(self, channels: Tensor) -> Tensor:
        """Return channels (..., n, blocks_h, blocks_w) of the images mirrored left to right.

        Blocks in reverse, odd horizontal frequencies negated: exact where blocks are whole.
        """
        signs = torch.tensor([-1.0 if index % 2 else 1.0 for index in self.indices], dtype=channels.dtype)
        return channels.flip(-1) * signs.to(channels.device)[:, None, None]


class Dataset(ABC, torch.utils.data.Dataset[tuple[Tensor, Tensor]]):
    """Images with targets, in a fixed order; a `torch.utils.data.DataLoader` takes it as it is.

    Attributes:
        name: the registered name, `mnist`.
        split: the part of the data set, `test`.
        task: `classification` (a target is a class), `segmentation` (a target is a mask) or `detection` (a target
            is a table of objects, see `CocoDataset`).
        num_classes: how many classes there are; 2 for masks of foreground and background.
        class_names: one name per class.
        image_shape: (channels, height, width) of an image; where images differ, that of the first. Where items are
            channels, that of the image which they show.
        shorter_side: what the shorter side of an image is resized to before its middle is shown; None: images are as
            they are, or squashed to one size.
        sorted_by_class: whether all images of a class come one after another.
        skipped: the files that were left out since they cannot be read, and why; see `open_dataset`.
        stored_channels: which frequency channels an item holds in place of pixels; None: pixels.
    """

    name: str
    split: str
    task: Task
    num_classes: int
    class_names: tuple[str, ...]
    image_shape: tuple[int, int, int]
    shorter_side: int | None = None
    sorted_by_class: bool = False
    skipped: Mapping[str, str] = MappingProxyType({})
    stored_channels: StoredChannels | None = None

    @abstractmethod
    def __len__(self) -> int:
        """Return the number of images."""

    @abstractmethod
    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        """Return one image and its target.

        Returns:
            The image, float32 (channels, height, width) in 0..1 (pixels / 255), and its target: an int64
            class, shape (), or an int64 mask of 0 and 1, shape (height, width).

        Raises:
            IndexError: there is no such image.
        """

    def batch(self, indices: Indices) -> tuple[Tensor, Tensor]:
        """Several images and their targets, stacked along a new first axis.

        Args:
            indices: positions in the data set, at least one.

        Returns:
            Images (batch, channels, height, width) and targets (batch,) or (batch, height, width).

        Raises:
            ArgumentError: there are no indices, or they are not integers.
            IndexError: there is no such image.
            DataError: the images differ in size.
        """
        positions = as_positions(indices).tolist()
        images, targets = zip(*(self[position] for position in positions), strict=True)
        self.check_one_size({tuple(image.shape[1:]) for image in images})
        return torch.stack(images), torch.stack(targets)

    def check_one_size(self, sizes: Collection[tuple[int, ...]]) -> None:
        """Raise `DataError` if these sizes, (height, width), are several: images of a batch have one."""
        if len(sizes) < 2:
            return
        some = ", ".join(map(str, sorted(sizes)[:MAX_SHOWN_SIZES])) + (" ..." if len(sizes) > MAX_SHOWN_SIZES else "")
        resizing = f"open the data as {self.name}@SIDE, which resizes them all to SIDE x SIDE pixels, or "
        raise DataError(
            f"{self.name}, split {self.split}: the images of a batch must have one size, these have (height, "
            f"width) {some}; {resizing if self.task == 'classification' else ''}"
            "use batches of one image"
        )

    def check_sizes(self) -> None:
        """Raise `DataError` if images that are yet to be read differ in size, where their files' headers tell."""

    def in_order(self, batch_size: int) -> list[range]:
        """Return the positions of batches of all images, in order; the last one may be smaller.

        Raises:
            ArgumentError: the size is not positive.
        """
        if batch_size < 1:
            raise ArgumentError(f"batch_size must be at least 1, got {batch_size}")
        whole = range(len(self))
        return [whole[start : start + batch_size] for start in whole[::batch_size]]

    def batches(self, positions: Sequence[Indices], workers: int | None = None) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield one batch after another, read ahead by worker processes; the same for any number of them.

        Args:
            positions: those of each batch.
            workers: 0 to 256; as the enclosing `tailcut.data.reading` says when None, 0 without one. A single batch is
                read in this process.

        Raises:
            ArgumentError, IndexError, DataError: as `batch`.
        """
        yield from read_ahead(_Batches(self, positions), len(positions), workers)

    def random_parts(self, indices: Indices, noises: Sequence[torch.Generator]) -> tuple[Tensor, Tensor]:
        """Return random parts of several images to train on, and their targets: see `tailcut.data.framing.random_part`.

        Args:
            indices: as for `batch`.
            noises: for each image what gives its random numbers.

        Returns:
            As `batch`.

        Raises:
            ArgumentError: the images have no size to which parts could be resized, or no files behind them.
        """
        raise ArgumentError(
            f"{self.name}: random parts (data.augmentation.crop) are of photos of classes in folders, at a size that "
            "the name says (imagenet@512/448, folder:NAME@256/224)"
        )

    def part(self, start: int, stop: int) -> "Dataset":
        """Return the images from `start` up to `stop` (not included), as a data set.

        It shares this one's storage. Its split is named like a Python slice: `train[0:55000]`.

        Raises:
            ArgumentError: not 0 <= start < stop <= len(self).
        """
        self._check_part(start, stop)
        return DatasetPart(self, range(start, stop), f"{self.split}[{start}:{stop}]")

    def _check_part(self, start: int, stop: int) -> None:
        if not 0 <= start < stop <= len(self):
            raise ArgumentError(
                f"{self.name}, split {self.split}: a part needs 0 <= start < stop <= {len(self)}, "
                f"got start={start}, stop={stop}"
            )


@dataclass(frozen=True)
class _Batches(torch.utils.data.Dataset[tuple[Tensor, Tensor]]):
    """The batches of a data set at these positions."""

    dataset: Dataset
    positions: Sequence[Indices]

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return self.dataset.batch(self.positions[index])


class InMemoryDataset(Dataset):
    """A classification data set held in memory as bytes; batches are made without a loop.

    Args:
        name: the registered name.
        split: the part of the data set.
        images: uint8 (images, channels, height, width).
        labels: int64 (images,), each in 0..len(class_names) - 1.
        class_names: one name per class.

    Raises:
        DataError: shapes, types or labels do not fit together.
    """

    def __init__(self, name: str, split: str, images: Tensor, labels: Tensor, class_names: Sequence[str]) -> None:
        _check_tensors(f"{name}, split {split}", images, labels, len(class_names))
        self.name = name
        self.split = split
        self.task = "classification"
        self.num_classes = len(class_names)
        self.class_names = tuple(class_names)
        self.images = images
        self.labels = labels
        channels, height, width = images.shape[1:]
        self.image_shape = (channels, height, width)

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        """See `Dataset.__getitem__`."""
        return self.images[index].float() / 255, self.labels[index].clone()

    def batch(self, indices: Indices) -> tuple[Tensor, Tensor]:
        """See `Dataset.batch`."""
        positions = as_positions(indices).to(self.labels.device)
        return self.images[positions].float() / 255, self.labels[positions]

    def to(self, device: torch.device) -> "InMemoryDataset":
        """Return these images on another device, where batches of them are then made."""
        return InMemoryDataset(self.name, self.split, self.images.to(device), self.labels.to(device), self.class_names)

    def batches(self, positions: Sequence[Indices], workers: int | None = None) -> Iterator[tuple[Tensor, Tensor]]:
        """See `Dataset.batches`. Nothing is to be read, so that workers are not asked, which would copy everything."""
        return super().batches(positions, 0)

    def part(self, start: int, stop: int) -> "InMemoryDataset":
        """See `Dataset.part`."""
        self._check_part(start, stop)
        split = f"{self.split}[{start}:{stop}]"
        return InMemoryDataset(self.name, split, self.images[start:stop], self.labels[start:stop], self.class_names)


class DatasetView(Dataset):
    """Base of data sets that are made of another one, whose storage they share."""

    def __init__(self, dataset: Dataset) -> None:
        self.name = dataset.name
        self.split = dataset.split
        self.task = dataset.task
        self.num_classes = dataset.num_classes
        self.class_names = dataset.class_names
        self.image_shape = dataset.image_shape
        self.shorter_side = dataset.shorter_side
        self.sorted_by_class = dataset.sorted_by_class
        self.skipped = dict(dataset.skipped)  # workers get a copy of the view, and a mapping proxy has none
        self.stored_channels = dataset.stored_channels
        self._dataset = dataset

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self._dataset)


class DatasetPart(DatasetView):
    """The images at some positions of any data set.

    Args:
        dataset: the whole; its storage is shared.
        positions: in it, ascending.
        split: what the part is called.
    """

    def __init__(self, dataset: Dataset, positions: Sequence[int], split: str) -> None:
        super().__init__(dataset)
        self.split = split
        self._positions = positions

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self._positions)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        """See `Dataset.__getitem__`."""
        return self._dataset[self._positions[index]]

    def random_parts(self, indices: Indices, noises: Sequence[torch.Generator]) -> tuple[Tensor, Tensor]:
        """See `Dataset.random_parts`."""
        return self._dataset.random_parts([self._positions[i] for i in as_positions(indices).tolist()], noises)


def split_off(dataset: Dataset, num_held_out: int) -> tuple[Dataset, Dataset]:
    """Hold out images of a data set, for validation: the last ones; of one sorted by class, evenly spaced ones.

    Args:
        dataset: any data set; it is not changed.
        num_held_out: how many images go to the second part, 1 to len(dataset) - 1.

    Returns:
        The other images and those held out, in their order; both share the storage.

    Raises:
        ArgumentError: `num_held_out` does not leave at least one image on each side.
    """
    total = len(dataset)
    if not 1 <= num_held_out < total:
        raise ArgumentError(
            f"the number of images to hold out must be 1 to {total - 1} for {dataset.name}, split {dataset.split} "
            f"({total} images), got {num_held_out}"
        )
    if not dataset.sorted_by_class:
        border = total - num_held_out
        return dataset.part(0, border), dataset.part(border, total)
    # The last ones would be whole classes. In the middle of equal intervals, each class gives its share.
    held_out = [(2 * number + 1) * total // (2 * num_held_out) for number in range(num_held_out)]
    others = sorted(set(range(total)) - set(held_out))
    return (
        DatasetPart(dataset, others, f"{dataset.split}[{len(others)} not held out]"),
        DatasetPart(dataset, held_out, f"{dataset.split}[{num_held_out} held out]"),
    )


def as_positions(indices: Indices) -> Tensor:
    """Return positions in a data set as int64 (n,).

    Raises:
        ArgumentError: there are none, or they are not integers.
    """
    positions = indices if isinstance(indices, Tensor) else torch.tensor(list(indices))
    if positions.ndim != 1 or positions.numel() == 0:
        raise ArgumentError(f"a batch needs a list of at least one index, got shape {tuple(positions.shape)}")
    if positions.dtype == torch.bool or positions.is_floating_point():
        raise ArgumentError(f"the indices of a batch must be integers, got {positions.dtype}")
    return positions.long()


def _check_tensors(where: str, images: Tensor, labels: Tensor, num_classes: int) -> None:
    if images.ndim != 4 or images.dtype != torch.uint8:
        raise DataError(
            f"{where}: images must be uint8 (images, channels, height, width), got {images.dtype} {tuple(images.shape)}"
        )
    if labels.ndim != 1 or labels.dtype != torch.int64:
        raise DataError(f"{where}: labels must be int64 (images,), got {labels.dtype} {tuple(labels.shape)}")
    if len(images) != len(labels):
        raise DataError(f"{where}: {len(images)} images but {len(labels)} labels")
    if len(labels) == 0:
        raise DataError(f"{where}: there are no images")
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high >= num_classes:
        raise DataError(f"{where}: labels must be 0 to {num_classes - 1}, found {low} to {high}")
