"""JPEG files' stored DCT coefficients as the images of a data set, without decoding them to pixels."""

from collections.abc import Sequence
from typing import Any, get_args

import torch
from torch import Tensor

from tailcut.data import Dataset, FolderDataset, Source, StoredChannels
from tailcut.data.dataset import DatasetView, Indices, as_positions
from tailcut.data.datasets.imagefolder import MAX_KEPT_BYTES
from tailcut.data.framing import side_of
from tailcut.data.kept import KeptTensors
from tailcut.data.reading import current_reading, readable
from tailcut.errors import ArgumentError, DataError
from tailcut.inputs import BlockDCT, JpegCoefficients
from tailcut.inputs.jpeg.parts import check_part_size, resized_part
from tailcut.inputs.jpeg.reader import read_advising
from tailcut.inputs.transform.compiled import CompiledTransform
from tailcut.inputs.transform.input_transform import InputTransform
from tailcut.jpeg.limits import OtherKindError

SUFFIXES = (".jpg", ".jpeg")


class StoredDataset(DatasetView):
    """The photos of a folder as channels that are not normalised yet, straight from the coefficients of JPEG files.

    Where the name says a size, a part of each photo is shown at that size, by `resized_part`; else all photos have one
    size and are shown as they are. Channels stay in memory once they are read, up to 1 GiB; random parts do not.

    Args:
        dataset: JPEG files, one folder per class.
        transform: which channels, and in which form of chroma; its statistics are not used.

    Raises:
        ArgumentError: a file is no JPEG by its name, a side of the images is no multiple of 16, or damaged files are
            to be read too.
        DataError: not one file can be read.
        MissingExtraError: numba is not installed.
    """

    def __init__(self, dataset: FolderDataset, transform: BlockDCT) -> None:
        super().__init__(dataset)
        self.files, self.labels, self.framing = dataset.files, dataset.labels, dataset.framing
        if self.framing is not None:
            self.shorter_side = side_of(self.framing)  # as `resized_part` has it where that is a power of two smaller
        self.stored_channels = StoredChannels(transform.selection.indices, transform.chroma)
        self._size = self.image_shape[1:]
        self._reading = current_reading()
        self._check()
        self._compiled = CompiledTransform(BlockDCT(transform.selection, chroma=transform.chroma))
        self._kept = KeptTensors()
        kept, left_out = readable(self.files, self.__getitem__, f"{self.name}, split {self.split}")
        if left_out:
            self.skipped = {**self.skipped, **left_out}
            self._kept = self._kept.renumbered(kept)
            self.files, self.labels = [self.files[position] for position in kept], self.labels[kept]

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.files)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        """Return the channels of one image, float32 (n, height / 8, width / 8), and its class.

        Raises:
            IndexError: there is no such image.
            DataError: the file is damaged, has another size than the first, or is of a kind that is not read.
        """
        position = range(len(self))[index]
        # Copies, which callers may change.
        return self._kept.find(position, self._channels, MAX_KEPT_BYTES).clone(), self.labels[position].clone()

    def random_parts(self, indices: Indices, noises: Sequence[torch.Generator]) -> tuple[Tensor, Tensor]:
        """See `Dataset.random_parts`; parts begin at multiples of 16 pixels and are as large as `resized_part` says.

        Raises:
            ArgumentError: the name of the data set says no size.
        """
        if self.framing is None:
            return super().random_parts(indices, noises)
        positions = [range(len(self))[position] for position in as_positions(indices).tolist()]
        parts = [self._channels(place, noise) for place, noise in zip(positions, noises, strict=True)]
        return torch.stack(parts), self.labels[positions]

    def __getstate__(self) -> dict[str, Any]:
        """Return the state for other processes, which keep channels of their own."""
        return {**vars(self), "_kept": KeptTensors()}

    def _channels(self, position: int, noise: torch.Generator | None = None) -> Tensor:
        """Return the channels of a file: of the middle, or with `noise` of a random part."""
        path = self.files[position]
        try:
            stored = read_advising(path, max_pixels=self._reading.max_pixels, advice=self._reading.advice[1])
            image = self._shown(stored, noise)
        except OtherKindError as error:
            raise DataError(f"{error} (reading stored coefficients; as pixels more kinds are read)") from error
        if image.size != self._size:
            raise DataError(
                f"{self.name}, split {self.split}: stored coefficients of a batch must have one size, {self._size} as "
                f"the first image; {path} has {image.size}. Open the data as {self.name}@SIDE"
            )
        return self._compiled.from_coefficients(image)

    def _shown(self, image: JpegCoefficients, noise: torch.Generator | None) -> JpegCoefficients:
        if self.framing is None:
            return image
        return resized_part(image, (side_of(self.framing),) * 2, random=noise is not None, noise=noise)

    def _check(self) -> None:
        others = [path for path in self.files if path.suffix.lower() not in SUFFIXES]
        if others:
            raise ArgumentError(f"stored coefficients are those of JPEG files, which {others[0]} is not; read pixels")
        if not self._reading.strict:
            raise ArgumentError("stored coefficients are read from sound JPEG files only; read pixels, or strictly")
        try:
            check_part_size((self._size[0], self._size[1]))
        except ArgumentError as error:
            raise ArgumentError(f"{self.name}: {error}") from error


def read_as(source: Source, dataset: Dataset, transform: InputTransform | None) -> Dataset:
    """Return the data set with images read from this source for a network with this transform.

    Args:
        source: "pixels" leaves the data set as it is; "coefficients" makes it a `StoredDataset`.
        dataset: any data set for pixels; JPEG files in one folder per class for coefficients.
        transform: that of the network; None if it reads pixels.

    Raises:
        ArgumentError: unknown source; the network reads no frequency channels; or the data set is of another kind.
        DataError, MissingExtraError: as `StoredDataset`.
    """
    if source not in get_args(Source):
        raise ArgumentError(f"source must be {' or '.join(map(repr, get_args(Source)))}, got {source!r}")
    if source == "pixels":
        return dataset
    if not isinstance(transform, BlockDCT):
        raise ArgumentError("stored coefficients are for networks on frequency channels, and this one reads pixels")
    if not isinstance(dataset, FolderDataset):
        raise ArgumentError(
            f"{dataset.name}: stored coefficients are read from JPEG files in one folder per class (folder:NAME, "
            "imagenette, imagenet)"
        )
    return StoredDataset(dataset, transform)
