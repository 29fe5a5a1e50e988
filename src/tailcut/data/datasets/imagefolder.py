"""Images in one folder per class, and Imagenette, ten classes of ImageNet, in that form."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tailcut.data.dataset import Dataset, Indices, as_positions
from tailcut.data.framing import Framing, check_framing, framed, named, random_part, shorter_side_of, side_of
from tailcut.data.images import image_file_size, read_image
from tailcut.data.kept import KeptTensors
from tailcut.data.reading import current_reading, readable, warn_of_misplaced, warn_of_other_files
from tailcut.data.roots import Roots, find_split, folders_of
from tailcut.errors import DataError
from tailcut.files import by_name, check_is_regular

NAME = "imagenette"
FOLDER = "imagenette224"
SPLITS = ("train", "val")
SUFFIXES = (".jpg", ".jpeg", ".png")
CLASS_NAMES = {
    "n01440764": "tench",
    "n02102040": "English springer",
    "n02979186": "cassette player",
    "n03000684": "chain saw",
    "n03028079": "church",
    "n03394916": "French horn",
    "n03417042": "garbage truck",
    "n03425413": "gas pump",
    "n03445777": "golf ball",
    "n03888257": "parachute",
}
# Decoded images are kept in memory, as bytes, up to so many together; the others are read each time.
MAX_KEPT_BYTES = 1 << 30


class FolderDataset(Dataset):
    """The images of `FOLDER/CLASS/*`, one class per folder, in the order of their paths.

    An image is decoded when it is first asked for, and its bytes stay in memory: as large as they are stored or, if
    that is smaller, as they are wanted.

    Args:
        folder: holds a folder for each class.
        name: the registered name.
        size: side in pixels to which every image is resized, ignoring its aspect (bilinear with antialiasing, rounded
            to whole grey levels); or a pair, for the middle of the image (see `tailcut.data.framing`); None leaves them
            as they are.
        class_names: names of the folders' classes; a folder that is not in it is called as it is.
        classes: names of the class folders, in the order of the class numbers, where not just those of `folder` count:
            one that is not there has no images. The folders that there are, sorted, when None.

    Attributes:
        files: the paths, in order.
        labels: their classes, int64 (images,).
        framing: `size`.

    Raises:
        ArgumentError: `size` is not 1 to 4096.
        DataError: there are no class folders, or one of them holds no images.
    """

    def __init__(
        self,
        folder: Path,
        *,
        name: str,
        size: Framing | None = None,
        class_names: Mapping[str, str] | None = None,
        classes: Sequence[str] | None = None,
    ) -> None:
        if size is not None:
            check_framing(size)
        self.name = name if size is None else f"{name}@{named(size)}"
        self.split = folder.name
        self.task = "classification"
        self.sorted_by_class = True
        there = folders_of(folder)
        if not there:
            raise DataError(f"{folder} holds no folders; there must be one for each class")
        names = [path.name for path in there] if classes is None else list(classes)
        self.class_names = tuple((class_names or {}).get(name, name) for name in names)
        self.num_classes = len(names)
        found = {path.name: _images_of(path) for path in there}
        images = {name: files for name, (files, _) in found.items()}
        warn_of_misplaced(folder, _misplaced(folder, there), "images count where they lie directly in a class's folder")
        warn_of_other_files(folder, [f"{name}/{other}" for name, (_, others) in found.items() for other in others])
        per_class = [images.get(name, []) for name in names]
        self.files = [path for files in per_class for path in files]
        self.labels = torch.tensor([label for label, files in enumerate(per_class) for _ in files])
        self.framing = size
        self.shorter_side = None if size is None else shorter_side_of(size)
        self._kept = KeptTensors()
        self._reading = current_reading()
        kept, self.skipped = readable(self.files, self._decoded, str(folder))
        if self.skipped:
            self._kept = self._kept.renumbered(kept)
            self.files, self.labels = [self.files[position] for position in kept], self.labels[kept]
        height, width = self[0][0].shape[1:]
        self.image_shape = (3, height, width)

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.files)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        """See `Dataset.__getitem__`.

        Raises:
            IndexError: there is no such image.
            DataError: the file is damaged.
        """
        pixels = self._resized(self._decoded(range(len(self))[index]))
        return pixels.float() / 255, self.labels[index].clone()

    def check_sizes(self) -> None:
        """See `Dataset.check_sizes`."""
        sizes: set[tuple[int, ...]] = set()
        for path in self.files if self.framing is None else ():
            sizes.add(image_file_size(path, max_pixels=self._reading.max_pixels))
            self.check_one_size(sizes)

    def random_parts(self, indices: Indices, noises: Sequence[torch.Generator]) -> tuple[Tensor, Tensor]:
        """See `Dataset.random_parts`. Files are decoded anew each time."""
        if self.framing is None:
            return super().random_parts(indices, noises)
        positions = [range(len(self))[position] for position in as_positions(indices).tolist()]
        side = side_of(self.framing)
        parts = [random_part(self._stored(place), side, noise) for place, noise in zip(positions, noises, strict=True)]
        return torch.stack(parts).float() / 255, self.labels[positions]

    def __getstate__(self) -> dict[str, Any]:
        """Return the state for other processes, which keep images of their own."""
        return {**vars(self), "_kept": KeptTensors()}

    def _stored(self, index: int) -> Tensor:
        """Return the bytes of an image, uint8 (3, height, width), of its own size."""
        strict, max_pixels = self._reading.strict, self._reading.max_pixels
        image = read_image(self.files[index], channels=3, strict=strict, max_pixels=max_pixels)[0]
        return (image * 255).round().to(torch.uint8)

    def _decoded(self, index: int) -> Tensor:
        """Return the pixels of an image, uint8 (3, height, width), at its own size or the requested one."""
        return self._kept.find(index, self._smaller, MAX_KEPT_BYTES)

    def _smaller(self, index: int) -> Tensor:
        """Return an image at its own size or the requested one, whichever is smaller.

        One of the wanted side is framed all the same: of a pair, its middle is another.
        """
        pixels = self._stored(index)
        resized = pixels if self.framing is None else framed(pixels[None], self.framing)[0]
        return resized if resized.numel() <= pixels.numel() else pixels

    def _resized(self, pixels: Tensor) -> Tensor:
        return pixels if self.framing is None or self._is_framed(pixels) else framed(pixels[None], self.framing)[0]

    def _is_framed(self, pixels: Tensor) -> bool:
        """Return whether they have their size already: what is kept has, if it is smaller so."""
        return self.framing is not None and pixels.shape[-2:] == (side_of(self.framing),) * 2


def open_imagenette(split: str, *, size: Framing | None = None, roots: Roots = None) -> FolderDataset:
    """Imagenette from `imagenette224/{train,val}/WNID/*.JPEG` under a data root: photos of 224 x 224 pixels.

    Args:
        split: `train` or `val`.
        size: side in pixels to resize to, or a pair for the middle; None leaves 224.
        roots: data roots to try first; see `data_roots`.

    Returns:
        Images of shape (3, size, size), RGB, and classes 0..9 in the order of their WordNet numbers.

    Raises:
        ArgumentError: `size` is not 1 to 4096.
        DataNotFoundError: no data root holds the split.
        DataError: the folder holds no images, or the first is damaged.
    """
    advice = "The photos are those of https://github.com/fastai/imagenette, squashed to 224 x 224 pixels."
    folder = find_split(FOLDER, split, title="Imagenette", advice=advice, roots=roots)
    return FolderDataset(folder, name=NAME, size=size, class_names=CLASS_NAMES)


def open_imagenet(split: str, *, size: Framing = 224, roots: Roots = None) -> FolderDataset:
    """ImageNet from `imagenet/{train,val}/WNID/*` under a data root, every image at one size.

    Arguments and errors are those of `open_imagenette`. In the evaluation of the paper on frequency inputs `size` is
    (512, 448).

    Returns:
        Images of shape (3, size, size), RGB, and classes 0..999 in the order of their WordNet numbers.
    """
    advice = "ImageNet is at https://image-net.org; sort its photos into one folder per WordNet number."
    folder = find_split("imagenet", split, title="ImageNet", advice=advice, roots=roots)
    return FolderDataset(folder, name="imagenet", size=size)


def _misplaced(folder: Path, classes: Sequence[Path]) -> list[str]:
    """Return the images beside the folders of the classes, and the folders within these, as within `folder`."""
    with os.scandir(folder) as entries:
        beside = [entry.name for entry in entries if entry.name[0] != "." and _is_image(entry) and _is_file(entry)]
    return sorted(beside) + [f"{path.name}/{inner.name}/" for path in classes for inner in folders_of(path)]


def _is_file(entry: "os.DirEntry[str]") -> bool:
    """Return whether it is a regular file; a link to itself is none."""
    try:
        return entry.is_file()
    except OSError:
        return False


def _is_image(entry: "os.DirEntry[str]") -> bool:
    return Path(entry.name).suffix.lower() in SUFFIXES and not _is_folder(entry)


def _is_folder(entry: "os.DirEntry[str]") -> bool:
    """Return whether it is a folder; a link to itself is none."""
    try:
        return entry.is_dir()
    except OSError:
        return False


def _images_of(folder: Path) -> tuple[list[Path], list[str]]:
    """Return the images of a folder, and the names of its other files, which are not hidden."""
    with os.scandir(folder) as entries:  # knows what regular files are without a look at each
        visible = [entry for entry in entries if entry.name[0] != "."]
    found = [entry for entry in visible if _is_image(entry)]
    others = [entry.name for entry in visible if not _is_image(entry) and _is_file(entry)]
    if not found:
        raise DataError(f"{folder} holds no images ({', '.join(SUFFIXES)})")
    for entry in found:
        if not _is_file(entry):  # which scandir knows
            check_is_regular(Path(entry.path))
    return sorted((Path(entry.path) for entry in found), key=by_name), sorted(others)
