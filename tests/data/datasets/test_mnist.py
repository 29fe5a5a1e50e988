import gzip
import hashlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from tailcut.data.datasets import mnist
from tailcut.data.datasets.mnist import open_mnist, read_idx
from tailcut.errors import DataError, DataNotFoundError

HISTOGRAMS = {
    "train": [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949],
    "test": [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009],
}
OFFICIAL_MD5 = {
    "train-images-idx3-ubyte.gz": "f68b3c2dcbeaaa9fbdd348bbdeb94873",
    "train-labels-idx1-ubyte.gz": "d53e105ee54ea40749a09fcbcd1e9432",
    "t10k-images-idx3-ubyte.gz": "9fb629c4189551a2d022fa330f9573f3",
    "t10k-labels-idx1-ubyte.gz": "ec29112dd5afa0611ce80d1b7f02629c",
}
ITEMS = np.arange(3 * 2 * 4, dtype=np.uint8).reshape(3, 2, 4)


@pytest.mark.parametrize("split", ["train", "test"])
def test_real_files(mnist_root: Path, split: str) -> None:
    dataset = open_mnist(split, roots=mnist_root)
    assert (dataset.name, dataset.split, dataset.image_shape) == ("mnist", split, (1, 28, 28))
    assert dataset.class_names == tuple("0123456789")
    assert torch.bincount(dataset.labels).tolist() == HISTOGRAMS[split]
    if split == "train":
        mean = dataset.images.double().mean().item() / 255
        assert mean == pytest.approx(0.1307, abs=5e-5), "the published mean of the training pixels"
        assert dataset.labels[:6].tolist() == [5, 0, 4, 1, 9, 2]
    else:
        assert dataset.labels[:6].tolist() == [7, 2, 1, 0, 4, 1]


def test_real_hashes(mnist_root: Path) -> None:
    for name, sha256 in mnist.FILES.items():
        content = (mnist_root / "mnist" / name).read_bytes()
        assert hashlib.md5(content).hexdigest() == OFFICIAL_MD5[name]
        assert hashlib.sha256(content).hexdigest() == sha256


def test_download_of_the_real_files(
    mnist_root: Path, cache: Path, serve: Callable[[Path], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mnist, "URL", serve(mnist_root / "mnist"))
    assert len(open_mnist("test", download=True)) == 10_000
    assert sorted(path.name for path in (cache / "mnist").iterdir()) == sorted(mnist.FILES)


def test_download_of_other_content_is_refused(
    small_mnist: Path, cache: Path, serve: Callable[[Path], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mnist, "URL", serve(small_mnist / "mnist"))
    with pytest.raises(DataNotFoundError, match="download to the user cache failed: ValueError: SHA256 hash"):
        open_mnist("test", download=True)
    assert not list((cache / "mnist").iterdir())


def test_download_without_a_network(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mnist, "URL", "http://127.0.0.1:1/")
    with pytest.raises(DataNotFoundError, match="download to the user cache failed: ConnectionError"):
        open_mnist("test", download=True)


def test_missing_files_are_named(cache: Path, small_mnist: Path) -> None:
    (small_mnist / "mnist" / "t10k-labels-idx1-ubyte.gz").unlink()
    assert len(open_mnist("train", roots=small_mnist)) == 12, "the other split needs no test files"
    with pytest.raises(DataNotFoundError) as caught:
        open_mnist("test", roots=small_mnist)
    message = str(caught.value)
    assert "  mnist/t10k-images-idx3-ubyte.gz\n  mnist/t10k-labels-idx1-ubyte.gz\n" in message
    assert f"  {small_mnist} (lacks mnist/t10k-labels-idx1-ubyte.gz)" in message
    assert mnist.URL in message


def test_images_and_labels_must_have_one_number(small_mnist: Path, idx_bytes: Callable[..., bytes]) -> None:
    path = small_mnist / "mnist" / "t10k-labels-idx1-ubyte.gz"
    path.write_bytes(gzip.compress(idx_bytes(np.zeros(4, np.uint8))))
    with pytest.raises(DataError, match=r"images.* holds 5 images, but .*labels.* 4 labels"):
        open_mnist("test", roots=small_mnist)


def test_labels_above_nine_are_refused(small_mnist: Path, idx_bytes: Callable[..., bytes]) -> None:
    path = small_mnist / "mnist" / "t10k-labels-idx1-ubyte.gz"
    path.write_bytes(gzip.compress(idx_bytes(np.full(5, 10, np.uint8))))
    with pytest.raises(DataError, match="labels must be 0 to 9, found 10 to 10"):
        open_mnist("test", roots=small_mnist)


def test_read_idx(tmp_path: Path, idx_bytes: Callable[..., bytes]) -> None:
    path = tmp_path / "x.gz"
    path.write_bytes(gzip.compress(idx_bytes(ITEMS)))
    items = read_idx(path, item_shape=(2, 4))
    assert items.dtype == torch.uint8
    assert np.array_equal(items.numpy(), ITEMS)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"magic": b"\x01\x00\x08\x03"}, "begins with"),
        ({"magic": b"\x00\x01\x08\x03"}, "begins with"),
        ({"magic": b"\x00\x00\x0d\x03"}, "begins with"),
        ({"magic": b"\x00\x00\x08\x02"}, "begins with"),
        ({"shape": (3, 4, 2)}, r"must have shape \(2, 4\), its header says \(4, 2\)"),
        ({"shape": (4, 2, 4)}, "announces 32 elements, it holds only 24"),
        ({"shape": (2, 2, 4)}, "announces 16 elements, it holds more"),
        ({"shape": (0, 2, 4)}, "holds nothing"),
        ({"shape": (2**32 - 1, 2, 4)}, "announces 34,359,738,360 elements"),
    ],
)
def test_wrong_headers(
    tmp_path: Path, idx_bytes: Callable[..., bytes], changes: dict[str, object], message: str
) -> None:
    path = tmp_path / "x.gz"
    path.write_bytes(gzip.compress(idx_bytes(ITEMS, **changes)))
    with pytest.raises(DataError, match=message) as caught:
        read_idx(path, item_shape=(2, 4))
    assert str(path) in str(caught.value)


def test_every_truncation_and_every_damage(tmp_path: Path, idx_bytes: Callable[..., bytes]) -> None:
    path = tmp_path / "x.gz"
    whole = gzip.compress(idx_bytes(ITEMS))
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        with pytest.raises(DataError):
            read_idx(path, item_shape=(2, 4))
    for position in range(10, len(whole)):  # the ten bytes before are gzip's header, which has no checksum
        damaged = bytearray(whole)
        damaged[position] ^= 0x55
        path.write_bytes(damaged)
        with pytest.raises(DataError):
            read_idx(path, item_shape=(2, 4))


def test_header_alone_and_half_of_it(tmp_path: Path, idx_bytes: Callable[..., bytes]) -> None:
    path = tmp_path / "x.gz"
    path.write_bytes(gzip.compress(idx_bytes(ITEMS)[:9]))
    with pytest.raises(DataError, match="ends after 9 bytes, within its header of 16"):
        read_idx(path, item_shape=(2, 4))
