"""CIFAR-10: 50,000 + 10,000 colour images, 32 x 32, from the official binary version."""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from tailcut.data.dataset import InMemoryDataset
from tailcut.data.roots import Layout, Roots, fetch, find, unpack_members
from tailcut.errors import DataError

SPLITS = ("train", "test")
CLASS_NAMES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
FOLDER = "cifar-10-batches-bin"
BATCHES = {"train": tuple(f"data_batch_{number}" for number in range(1, 6)), "test": ("test_batch",)}
SIDE = 32
RECORD_BYTES = 1 + 3 * SIDE * SIDE  # the class, then the red, green and blue planes
RECORDS_PER_FILE = 10_000
URL = "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz"
MD5 = "c32a1d4ab5d03f1284b67883e8d87530"  # the official one


def open_cifar10(split: str, *, roots: Roots = None, download: bool = False) -> InMemoryDataset:
    """CIFAR-10 from `cifar-10-batches-bin/*.bin` under a data root, read into memory.

    Args:
        split: `train` or `test`.
        roots: data roots to try first; see `data_roots`.
        download: fetch and unpack the official archive into the user cache where no root has this split's
            files.

    Returns:
        Images of shape (3, 32, 32), RGB, and classes 0..9.

    Raises:
        DataNotFoundError: no data root holds the files.
        DataError: a file is damaged.
    """
    names = _files(split)
    layout = Layout(
        title=f"CIFAR-10, split {split}",
        files=names,
        advice=f"The archive of the binary version is at {URL}",
        download=_download,
    )
    root = find(layout, roots=roots, download=download)
    parts = [_read_records(root / name) for name in names]
    images = torch.cat([images for images, _ in parts])
    labels = torch.cat([labels for _, labels in parts])
    return InMemoryDataset("cifar10", split, images, labels, CLASS_NAMES)


def _read_records(path: Path) -> tuple[Tensor, Tensor]:
    expected = RECORDS_PER_FILE * RECORD_BYTES
    try:
        size = path.stat().st_size
        if size != expected:
            raise DataError(
                f"{path}: must hold {RECORDS_PER_FILE:,} records of {RECORD_BYTES:,} bytes, that is "
                f"{expected:,} bytes; it has {size:,}; get the file again"
            )
        records = np.fromfile(path, dtype=np.uint8).reshape(RECORDS_PER_FILE, RECORD_BYTES)
    except OSError as error:
        raise DataError(f"{path}: cannot be read, {error}") from error
    labels = torch.from_numpy(records[:, 0].astype(np.int64))
    if int(labels.max()) >= len(CLASS_NAMES):
        raise DataError(f"{path}: classes must be 0 to 9, found {int(labels.max())}; get the file again")
    return torch.from_numpy(records[:, 1:]).reshape(-1, 3, SIDE, SIDE), labels


def _files(split: str) -> tuple[str, ...]:
    return tuple(f"{FOLDER}/{name}.bin" for name in BATCHES[split])


def _download(root: Path) -> None:
    archive = fetch(URL, root, f"md5:{MD5}")
    unpack_members(archive, root, _files("train") + _files("test"))
    archive.unlink()
