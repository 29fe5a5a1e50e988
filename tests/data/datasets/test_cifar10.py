import hashlib
import io
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from tailcut.data.datasets import cifar10
from tailcut.data.datasets.cifar10 import open_cifar10
from tailcut.errors import DataError, DataNotFoundError

NAMES = [f"data_batch_{number}" for number in range(1, 6)] + ["test_batch"]


def make_records(seed: int) -> np.ndarray:
    """10,000 records whose class is their position modulo 10."""
    records = np.random.default_rng(seed).integers(0, 256, (10_000, 3073), dtype=np.uint8)
    records[:, 0] = np.arange(10_000) % 10
    return records


@pytest.fixture(scope="module")
def made_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data root with CIFAR-10 files of random pixels."""
    root = tmp_path_factory.mktemp("made")
    (root / "cifar-10-batches-bin").mkdir()
    for seed, name in enumerate(NAMES):
        make_records(seed).tofile(root / "cifar-10-batches-bin" / f"{name}.bin")
    return root


@pytest.mark.parametrize(("split", "num"), [("train", 50_000), ("test", 10_000)])
def test_real_files(cifar10_root: Path, split: str, num: int) -> None:
    dataset = open_cifar10(split, roots=cifar10_root)
    assert (dataset.name, dataset.split, dataset.image_shape) == ("cifar10", split, (3, 32, 32))
    assert torch.bincount(dataset.labels).tolist() == [num // 10] * 10
    if split == "train":
        means = dataset.images.double().mean(dim=(0, 2, 3)) / 255
        published = torch.tensor([0.4914, 0.4822, 0.4465], dtype=torch.float64)
        torch.testing.assert_close(means, published, atol=1e-4, rtol=0)
        first = [dataset.class_names[label] for label in dataset.labels[:3]]
        assert first == ["frog", "truck", "truck"]


def test_records_are_label_then_planes(made_root: Path) -> None:
    dataset = open_cifar10("train", roots=made_root)
    third = make_records(2)  # data_batch_3
    assert np.array_equal(dataset.images[20_007].numpy(), third[7, 1:].reshape(3, 32, 32))
    assert int(dataset.labels[20_007]) == third[7, 0] == 7


def test_wrong_size_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "cifar-10-batches-bin" / "test_batch.bin"
    path.parent.mkdir()
    whole = make_records(0).tobytes()
    for content in (whole[:-1], whole + b"x", b""):
        path.write_bytes(content)
        with pytest.raises(DataError, match=f"10,000 records .* 30,730,000 bytes; it has {len(content):,}"):
            open_cifar10("test", roots=tmp_path)


def test_wrong_class_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "cifar-10-batches-bin" / "test_batch.bin"
    path.parent.mkdir()
    records = make_records(0)
    records[1234, 0] = 10
    records.tofile(path)
    with pytest.raises(DataError, match=r"test_batch.bin: classes must be 0 to 9, found 10"):
        open_cifar10("test", roots=tmp_path)


def test_missing_files_are_named(cache: Path, tmp_path: Path) -> None:
    with pytest.raises(DataNotFoundError) as caught:
        open_cifar10("train", roots=tmp_path)
    for number in range(1, 6):
        assert f"  cifar-10-batches-bin/data_batch_{number}.bin\n" in str(caught.value)
    assert "test_batch" not in str(caught.value)


@pytest.fixture
def archive_site(made_root: Path, tmp_path: Path) -> Path:
    """A folder with an archive of the made files, laid out like the official one."""
    site = tmp_path / "site"
    site.mkdir()
    with tarfile.open(site / "cifar-10-binary.tar.gz", "w:gz", compresslevel=0) as tar:
        tar.addfile(tarfile.TarInfo("cifar-10-batches-bin/readme.html"), io.BytesIO())
        for name in NAMES:
            tar.add(made_root / "cifar-10-batches-bin" / f"{name}.bin", f"cifar-10-batches-bin/{name}.bin")
    return site


def test_download_unpacks_the_archive(
    archive_site: Path, cache: Path, serve: Callable[[Path], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    archive = archive_site / "cifar-10-binary.tar.gz"
    monkeypatch.setattr(cifar10, "URL", serve(archive_site) + archive.name)
    monkeypatch.setattr(cifar10, "MD5", hashlib.md5(archive.read_bytes()).hexdigest())
    dataset = open_cifar10("test", download=True)
    assert np.array_equal(dataset.images[0].numpy().ravel(), make_records(5)[0, 1:])
    assert sorted(path.name for path in cache.iterdir()) == ["cifar-10-batches-bin"], "the archive is gone"
    assert len(open_cifar10("train")) == 50_000, "found in the cache"


def test_download_of_other_content_is_refused(
    archive_site: Path, cache: Path, serve: Callable[[Path], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cifar10, "URL", serve(archive_site) + "cifar-10-binary.tar.gz")
    with pytest.raises(DataNotFoundError, match="download to the user cache failed: ValueError: MD5 hash"):
        open_cifar10("test", download=True)
    assert not list(cache.iterdir())
