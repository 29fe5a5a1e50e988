"""MNIST: 60,000 + 10,000 handwritten digits, 28 x 28, from the four original idx files."""

import gzip
import math
import struct
import zlib
from pathlib import Path
from typing import BinaryIO, cast

import torch
from torch import Tensor

from tailcut.data.dataset import InMemoryDataset
from tailcut.data.roots import Layout, Roots, fetch, find
from tailcut.errors import DataError

SPLITS = ("train", "test")
CLASS_NAMES = tuple("0123456789")
SIDE = 28
URL = "https://ossci-datasets.s3.amazonaws.com/mnist/"
# SHA-256 of the four files as Yann LeCun published them (their MD5s are the official ones).
FILES = {
    "train-images-idx3-ubyte.gz": "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
    "train-labels-idx1-ubyte.gz": "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
    "t10k-images-idx3-ubyte.gz": "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
    "t10k-labels-idx1-ubyte.gz": "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
}
UNSIGNED_BYTES = 0x08  # the idx code of the element type


def open_mnist(split: str, *, roots: Roots = None, download: bool = False) -> InMemoryDataset:
    """MNIST from `mnist/*.gz` under a data root, read into memory.

    Args:
        split: `train` or `test`.
        roots: data roots to try first; see `data_roots`.
        download: fetch the four files into the user cache where no root has this split's.

    Returns:
        Images of shape (1, 28, 28), white on black, and classes 0..9.

    Raises:
        DataNotFoundError: no data root holds the files.
        DataError: a file is damaged.
    """
    prefix = {"train": "train", "test": "t10k"}[split]
    names = [f"mnist/{name}" for name in FILES if name.startswith(prefix)]
    layout = Layout(
        title=f"MNIST, split {split}",
        files=tuple(names),
        advice=f"The original four files are at {URL}",
        download=_download,
    )
    root = find(layout, roots=roots, download=download)
    images = read_idx(root / names[0], item_shape=(SIDE, SIDE))
    labels = read_idx(root / names[1], item_shape=())
    if len(images) != len(labels):
        raise DataError(f"{root / names[0]} holds {len(images)} images, but {root / names[1]} {len(labels)} labels")
    return InMemoryDataset("mnist", split, images[:, None], labels.long(), CLASS_NAMES)


def read_idx(path: Path, *, item_shape: tuple[int, ...]) -> Tensor:
    """Read a gzipped idx file of unsigned bytes.

    The header is two zero bytes, the element type (0x08), the number of axes, and a big-endian 32-bit size
    per axis; the elements follow.

    Args:
        path: the file.
        item_shape: the expected sizes of all axes but the first.

    Returns:
        uint8 (items, *item_shape).

    Raises:
        DataError: the file is no such file, is damaged, or has other sizes.
    """
    try:
        with gzip.open(path, "rb") as file:
            num_items = _read_header(path, cast(BinaryIO, file), item_shape)
            num_bytes = num_items * math.prod(item_shape)
            content = _read_at_most(cast(BinaryIO, file), num_bytes + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path}: cannot be read, {error}; get the file again") from error
    if len(content) != num_bytes:
        relation = "more" if len(content) > num_bytes else f"only {len(content):,}"
        raise DataError(f"{path}: its header announces {num_bytes:,} elements, it holds {relation}")
    return torch.frombuffer(content, dtype=torch.uint8).reshape(num_items, *item_shape)


def _read_header(path: Path, file: BinaryIO, item_shape: tuple[int, ...]) -> int:
    num_axes = 1 + len(item_shape)
    length = 4 + 4 * num_axes
    header = file.read(length)
    magic = bytes((0, 0, UNSIGNED_BYTES, num_axes))
    if header[:4] != magic:
        raise DataError(f"{path}: an idx file of {num_axes} axes begins with {magic!r}, found {header[:4]!r}")
    if len(header) < length:
        raise DataError(f"{path}: ends after {len(header)} bytes, within its header of {length}")
    num_items, *sizes = struct.unpack(f">{num_axes}I", header[4:])
    if tuple(sizes) != item_shape:
        raise DataError(f"{path}: its items must have shape {item_shape}, its header says {tuple(sizes)}")
    if num_items == 0:
        raise DataError(f"{path}: its header says that it holds nothing")
    return int(num_items)


def _read_at_most(file: BinaryIO, num_bytes: int) -> bytearray:
    """Read by parts, since a single `read` takes all the memory that a damaged header asks for."""
    content = bytearray()
    while part := file.read(min(1 << 20, num_bytes - len(content))):
        content += part
    return content


def _download(root: Path) -> None:
    for name, sha256 in FILES.items():
        fetch(URL + name, root / "mnist", f"sha256:{sha256}")
