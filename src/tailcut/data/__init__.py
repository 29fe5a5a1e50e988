"""Data sets and where they lie: `open_dataset(name, split)` finds, checks and opens them."""

from collections.abc import Callable
from dataclasses import dataclass

from tailcut.data import cifar10, digits, mnist
from tailcut.data.carvana import open_carvana
from tailcut.data.dataset import Dataset as Dataset
from tailcut.data.dataset import InMemoryDataset as InMemoryDataset
from tailcut.data.dataset import split_off as split_off
from tailcut.data.pictures import picture_size as picture_size
from tailcut.data.pictures import read_mask as read_mask
from tailcut.data.pictures import read_picture as read_picture
from tailcut.data.pictures import write_mask as write_mask
from tailcut.data.roots import Roots as Roots
from tailcut.data.roots import data_roots as data_roots
from tailcut.errors import ArgumentError


@dataclass(frozen=True)
class _Kind:
    """One known data set: how to open a split, which there are (None: any folder), which is the default."""

    open: Callable[[str, Roots, bool], Dataset]
    splits: tuple[str, ...] | None
    default_split: str


_KINDS = {
    "carvana": _Kind(lambda split, roots, download: open_carvana(split, roots=roots), None, "val"),
    "cifar10": _Kind(
        lambda split, roots, download: cifar10.open_cifar10(split, roots=roots, download=download),
        cifar10.SPLITS,
        "test",
    ),
    "digits": _Kind(lambda split, roots, download: digits.open_digits(split), digits.SPLITS, "test"),
    "mnist": _Kind(
        lambda split, roots, download: mnist.open_mnist(split, roots=roots, download=download),
        mnist.SPLITS,
        "test",
    ),
}


def dataset_names() -> list[str]:
    """The names that `open_dataset` knows, sorted."""
    return sorted(_KINDS)


def open_dataset(name: str, split: str | None = None, *, roots: Roots = None, download: bool = False) -> Dataset:
    """Open a data set by its name.

    Args:
        name: one of `dataset_names()`.
        split: the part to open; None is `test`, for carvana `val`. The splits of carvana are the folders
            that lie in `carvana/`.
        roots: data roots to try before those of TAILCUT_DATA and the user cache.
        download: fetch MNIST or CIFAR-10 into the user cache, with their hashes checked, where no root has
            them.

    Returns:
        The data set; its items and batches are described in `Dataset`.

    Raises:
        ArgumentError: there is no such data set or split.
        DataNotFoundError: no data root holds it.
        DataError: a file is damaged or does not match the others.
        MissingExtraError: `digits` without scikit-learn.
    """
    if name not in _KINDS:
        raise ArgumentError(f"unknown data set {name!r}; known are {', '.join(dataset_names())}")
    kind = _KINDS[name]
    split = kind.default_split if split is None else split
    if kind.splits is not None and split not in kind.splits:
        raise ArgumentError(f"{name} has no split {split!r}; it has {', '.join(kind.splits)}")
    return kind.open(split, roots, download)
