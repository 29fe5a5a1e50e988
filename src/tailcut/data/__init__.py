"""Data sets and data roots: `open_dataset(name, split)` finds, checks and opens a data set."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tailcut.data.checking import CheckReport as CheckReport
from tailcut.data.checking import check_folder as check_folder
from tailcut.data.dataset import Dataset as Dataset
from tailcut.data.dataset import InMemoryDataset as InMemoryDataset
from tailcut.data.dataset import Source as Source
from tailcut.data.dataset import StoredChannels as StoredChannels
from tailcut.data.dataset import split_off as split_off
from tailcut.data.datasets import cifar10, digits, imagefolder, mnist
from tailcut.data.datasets.coco import CocoDataset as CocoDataset
from tailcut.data.datasets.coco import Objects as Objects
from tailcut.data.datasets.coco import open_coco
from tailcut.data.datasets.imagefolder import FolderDataset as FolderDataset
from tailcut.data.datasets.imagefolder import open_imagenet, open_imagenette
from tailcut.data.datasets.masks import MaskDataset as MaskDataset
from tailcut.data.datasets.masks import open_carvana
from tailcut.data.datasets.own import framing_of, open_own
from tailcut.data.images import image_file_size as image_file_size
from tailcut.data.images import read_image as read_image
from tailcut.data.images import read_mask as read_mask
from tailcut.data.images import write_mask as write_mask
from tailcut.data.reading import OnError as OnError
from tailcut.data.reading import current_reading as current_reading
from tailcut.data.reading import leave_out as leave_out
from tailcut.data.reading import reading as reading
from tailcut.data.reading import resolve_reading
from tailcut.data.resized import ResizedDataset as ResizedDataset
from tailcut.data.roots import Roots as Roots
from tailcut.data.roots import data_roots as data_roots
from tailcut.data.roots import find_file as find_file
from tailcut.data.workers import in_order as in_order
from tailcut.errors import ArgumentError


@dataclass(frozen=True)
class _Kind:
    """One known data set: what opens a split, which splits there are (None: any folder), and which is the default.

    `takes` are the further arguments of `open`, by name. One that takes a `size` opens images of a wanted side
    (`NAME@SIDE`); others of classes are resized as they are asked for; masks and boxes have the pixels of their photos.
    """

    open: Callable[..., Dataset]
    splits: tuple[str, ...] | None
    default_split: str
    takes: tuple[str, ...]


_KINDS = {
    "carvana": _Kind(open_carvana, None, "val", ("roots",)),
    "cifar10": _Kind(cifar10.open_cifar10, cifar10.SPLITS, "test", ("roots", "download")),
    "coco": _Kind(open_coco, None, "val2017", ("roots",)),
    "digits": _Kind(digits.open_digits, digits.SPLITS, "test", ()),
    "imagenet": _Kind(open_imagenet, imagefolder.SPLITS, "val", ("roots", "size")),
    "imagenette": _Kind(open_imagenette, imagefolder.SPLITS, "val", ("roots", "size")),
    "mnist": _Kind(mnist.open_mnist, mnist.SPLITS, "test", ("roots", "download")),
}


def dataset_names() -> list[str]:
    """Return the sorted names that `open_dataset` knows; `folder:NAME` and `masks:NAME` open your own data sets."""
    return sorted(_KINDS)


def default_split(name: str) -> str | None:
    """Return the split that a data set is evaluated on if none is given.

    `test`; for carvana, imagenet and imagenette `val`, for coco `val2017`. None for your own (and for names that are
    not known): `test` if it has such a folder, else `val`.
    """
    kind = _KINDS.get(name.partition("@")[0])
    return None if kind is None else kind.default_split


def open_dataset(
    name: str,
    split: str | None = None,
    *,
    roots: Roots = None,
    download: bool = False,
    on_error: OnError | None = None,
    strict: bool | None = None,
    max_pixels: int | None = None,
) -> Dataset:
    """Open a data set by its name.

    Args:
        name: one of `dataset_names()`; for those with classes also `NAME@SIDE`, with images that are resized to
            SIDE x SIDE pixels, and `NAME@SHORTER/SIDE`, with the middle, SIDE x SIDE, of images whose shorter side is
            resized to SHORTER: `imagenet@256/224`. Or your own, `folder:NAME`, `folder:NAME@SIDE` or `masks:NAME`: see
            `open_own`.
        split: the part to open; None is `default_split(name)`. The splits of carvana, coco and your own are the folders
            that lie in theirs.
        roots: data roots to try before those of TAILCUT_DATA and the user cache.
        download: fetch MNIST or CIFAR-10 into the user cache, with their hashes checked, where no root has
            them.
        on_error: "skip" reads every image once now and leaves out those that cannot be read, which `skipped` of the
            data set then names; "raise" ends in an error when such an image is asked for. As the enclosing `reading`
            says when None; "raise" without one.
        strict: whether JPEG files must be whole and sound; see `read_image`.
        max_pixels: the most pixels of an image; see `read_image`.

    Returns:
        The data set; its items and batches are described in `Dataset`.

    Raises:
        ArgumentError: there is no such data set or split.
        DataNotFoundError: no data root holds it.
        DataError: a file is damaged or does not match the others.
        MissingExtraError: `digits` without scikit-learn.
    """
    with reading(**vars(resolve_reading(strict, max_pixels, on_error))):
        return _open(name, split, roots, download=download)


def _open(name: str, split: str | None, roots: Roots, *, download: bool) -> Dataset:
    if ":" in name:
        return open_own(name, split, roots=roots)
    kind_name, has_size, size = name.partition("@")
    if kind_name not in _KINDS:
        raise ArgumentError(
            f"unknown data set {name!r}; known are {', '.join(dataset_names())}, and your own as "
            "folder:NAME (classes) or masks:NAME"
        )
    kind = _KINDS[kind_name]
    split = kind.default_split if split is None else split
    if kind.splits is not None and split not in kind.splits:
        raise ArgumentError(f"{name} has no split {split!r}; it has {', '.join(kind.splits)}")
    settings: dict[str, Any] = {"roots": roots, "download": download}
    if has_size:
        settings["size"] = framing_of(size, kind_name)
    dataset = kind.open(split, **{name: value for name, value in settings.items() if name in kind.takes})
    if not has_size or "size" in kind.takes:
        return dataset
    if dataset.task != "classification":
        raise ArgumentError(
            f"the images of {kind_name} keep their size, with their targets: ask for {kind_name!r}, not for {name!r}"
        )
    return ResizedDataset(dataset, settings["size"])
