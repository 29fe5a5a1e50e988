import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tailcut.data import open_dataset
from tailcut.data import roots as data_roots
from tailcut.data.datasets.imagefolder import CLASS_NAMES, FolderDataset, open_imagenette
from tailcut.data.framing import framed
from tailcut.data.images import read_image
from tailcut.errors import ArgumentError, DataError, DataNotFoundError


def write(path: Path, height: int = 6, width: int = 6, seed: int = 0) -> np.ndarray:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return pixels


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three images of `n02102040`, two of `n01440764`, one of a class that has no other name."""
    folder = tmp_path / "imagenette224" / "train"
    for number, name in enumerate(("n02102040/b", "n02102040/a", "n02102040/C", "n01440764/x", "n01440764/y", "z/z")):
        write(folder / f"{name}.png", seed=number)
    return folder


@pytest.fixture
def imagenette_root() -> Path:
    """A data root that holds imagenette224/; skipped without it, failing in CI."""
    for root in data_roots.data_roots():
        if (root / "imagenette224").exists():
            return root
    reason = "needs real data: set TAILCUT_DATA to a folder that holds imagenette224/"
    if os.environ.get("CI"):
        pytest.fail(reason)
    pytest.skip(reason)


@pytest.mark.parametrize(("split", "num"), [("train", 2000), ("val", 600)])
def test_real_images(imagenette_root: Path, split: str, num: int) -> None:
    dataset = open_imagenette(split, roots=imagenette_root)
    assert (len(dataset), dataset.task, dataset.num_classes, dataset.name) == (num, "classification", 10, "imagenette")
    assert dataset.image_shape == (3, 224, 224)
    assert dataset.class_names == tuple(CLASS_NAMES.values())
    images, labels = dataset.batch([0, num // 10, num - 1])
    assert (images.dtype, images.shape) == (torch.float32, (3, 3, 224, 224))
    assert labels.tolist() == [0, 1, 9]
    assert 0.1 < images.mean() < 0.9
    path = dataset.files[num // 10]
    assert path.parent.name == "n02102040"
    decoded = np.asarray(Image.open(path).convert("RGB")).transpose(2, 0, 1)
    assert np.array_equal(images[1].numpy(), decoded.astype(np.float32) / 255)


@pytest.mark.parametrize("side", [112, 448])
def test_real_images_of_another_size(imagenette_root: Path, side: int) -> None:
    dataset = open_dataset(f"imagenette@{side}", roots=imagenette_root)
    assert (dataset.name, dataset.split, dataset.image_shape) == (f"imagenette@{side}", "val", (3, side, side))
    assert isinstance(dataset, FolderDataset)
    image = dataset[3][0]
    expected = read_image(dataset.files[3], channels=3, size=(side, side))[0]
    assert (image - expected).abs().max() <= 1.01 / 255, "rounded to whole grey levels, and not more"


def test_order_and_labels(folder: Path) -> None:
    dataset = FolderDataset(folder, name="mine", class_names=CLASS_NAMES)
    assert [path.stem for path in dataset.files] == ["x", "y", "C", "a", "b", "z"]
    assert [int(dataset[index][1]) for index in range(6)] == [0, 0, 1, 1, 1, 2]
    assert dataset.class_names == ("tench", "English springer", "z")
    assert (dataset.split, dataset.image_shape, dataset.num_classes) == ("train", (3, 6, 6), 3)
    assert dataset[4][1].dtype == torch.int64


def test_images_are_exact_and_kept(folder: Path) -> None:
    expected = write(folder / "z" / "z.png", 4, 9, seed=9).transpose(2, 0, 1).astype(np.float32) / 255
    dataset = FolderDataset(folder, name="mine")
    assert np.array_equal(dataset[5][0].numpy(), expected)
    shutil.rmtree(folder / "z")
    first = dataset[-1][0]
    assert np.array_equal(first.numpy(), expected), "it was kept in memory"
    first.zero_()
    assert np.array_equal(dataset[5][0].numpy(), expected), "and nobody can change it there"


@pytest.mark.parametrize(("size", "num_bytes"), [(None, 3 * 36), (2, 3 * 4), (12, 3 * 36)])
def test_the_smaller_form_is_kept(folder: Path, size: int | None, num_bytes: int) -> None:
    dataset = FolderDataset(folder, name="mine", size=size)
    for index in range(6):
        side = size or 6
        assert dataset[index][0].shape == (3, side, side)
    assert [pixels.numel() for pixels in dataset._kept.values()] == [num_bytes] * 6
    again = FolderDataset(folder, name="mine", size=size)
    assert torch.equal(dataset[2][0], again[2][0])


def test_memory_is_bounded(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tailcut.data.datasets.imagefolder.MAX_KEPT_BYTES", 3 * 36 * 2)
    dataset = FolderDataset(folder, name="mine")
    images = [dataset[index][0] for index in range(6)]
    assert len(dataset._kept) == 2
    assert all(torch.equal(dataset[index][0], image) for index, image in enumerate(images))


def test_resizing_is_that_of_images(folder: Path) -> None:
    write(folder / "z" / "z.png", 30, 50)
    small = FolderDataset(folder, name="mine", size=10)[5][0]
    expected = read_image(folder / "z" / "z.png", channels=3, size=(10, 10))[0]
    assert (small - expected).abs().max() <= 1.01 / 255
    assert torch.equal(small * 255, (small * 255).round())


def test_files_of_other_kinds_are_passed_over(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    (folder / "n01440764" / "notes.txt").write_text("x")
    (folder / "n01440764" / "._x.png").write_text("x")
    (folder / "readme.md").write_text("x")
    (folder / ".cache").mkdir()
    assert len(FolderDataset(folder, name="mine")) == 6
    [warning] = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert warning == f"left out 1 file of {folder} that is not called .jpg, .jpeg or .png: n01440764/notes.txt"
    for number in range(3):
        (folder / "z" / f"{number}.webp").write_text("x")
    (folder / "z" / "more").mkdir()
    caplog.clear()
    FolderDataset(folder, name="mine")
    assert f"left out 4 files of {folder} that are not called" in caplog.text
    assert caplog.text.rstrip().endswith(": n01440764/notes.txt, z/0.webp, z/1.webp, ...")


def test_images_in_other_places_are_told(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    """As photos sorted into folders within a class, or not sorted yet."""
    write(folder / "z" / "2019" / "a.png")
    write(folder / "unsorted.png")
    (folder / "z" / ".cache").mkdir()
    (folder / "z" / "old.png").mkdir()
    assert len(FolderDataset(folder, name="mine")) == 6
    [warning] = [record.getMessage() for record in caplog.records]
    assert warning == (
        f"left out unsorted.png, z/2019/, z/old.png/ of {folder}: "
        "images count where they lie directly in a class's folder"
    )


def test_the_middle_of_an_image_that_has_its_size(tmp_path: Path) -> None:
    """It is enlarged as the others are, and not taken for a middle."""
    pixels = write(tmp_path / "a" / "a.png", 8, 8)
    expected = framed(torch.from_numpy(pixels).permute(2, 0, 1)[None], (12, 8))[0]
    dataset = FolderDataset(tmp_path, name="mine", size=(12, 8))
    for _ in range(2):  # read, and kept
        assert torch.equal((dataset[0][0] * 255).round(), expected.float())


def test_nothing_is_said_of_images_alone(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    FolderDataset(folder, name="mine")
    assert not caplog.records


def test_damaged_image(folder: Path) -> None:
    path = folder / "z" / "z.png"
    path.write_bytes(path.read_bytes()[:-9])
    dataset = FolderDataset(folder, name="mine")
    with pytest.raises(DataError, match=str(path)):
        dataset[5]
    with pytest.raises(IndexError):
        dataset[6]


def test_class_without_images(folder: Path) -> None:
    (folder / "y").mkdir()
    with pytest.raises(DataError, match=r"y holds no images \(\.jpg, \.jpeg, \.png\)"):
        FolderDataset(folder, name="mine")


def test_no_classes(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="holds no folders; there must be one for each class"):
        FolderDataset(tmp_path, name="mine")


@pytest.mark.parametrize("size", [0, -3, 4097])
def test_sizes_are_bounded(folder: Path, size: int) -> None:
    with pytest.raises(ArgumentError, match=f"must be 1 to 4096, got {size}"):
        FolderDataset(folder, name="mine", size=size)


def test_by_name(folder: Path) -> None:
    root = folder.parent.parent
    assert open_dataset("imagenette", "train", roots=root).image_shape == (3, 6, 6)
    assert open_dataset("imagenette@4", "train", roots=root).image_shape == (3, 4, 4)
    with pytest.raises(ArgumentError, match="imagenette@4 has no split 'test'; it has train, val"):
        open_dataset("imagenette@4", "test", roots=root)
    with pytest.raises(ArgumentError, match="must be 1 to 4096"):
        open_dataset("imagenette@9999", "train", roots=root)


def test_missing_split(cache: Path, folder: Path) -> None:
    with pytest.raises(DataNotFoundError, match="imagenette224/val"):
        open_imagenette("val", roots=folder.parent.parent)


def test_imagenet_is_squashed_to_one_size(tmp_path: Path) -> None:
    for number, name in enumerate(("n01440764/a", "n01443537/b")):
        write(tmp_path / "imagenet" / "val" / f"{name}.png", height=20 + number, width=30, seed=number)
    dataset = open_dataset("imagenet", roots=tmp_path)
    assert (dataset.image_shape, dataset.class_names) == ((3, 224, 224), ("n01440764", "n01443537"))
    assert open_dataset("imagenet@16", "val", roots=tmp_path).batch([0, 1])[0].shape == (2, 3, 16, 16)
    with pytest.raises(DataNotFoundError, match="ImageNet, split train"):
        open_dataset("imagenet", "train", roots=tmp_path)


def test_links_to_themselves_are_no_files(tmp_path: Path) -> None:
    for name in ("a", "b"):
        folder = tmp_path / "photos" / "val" / name
        folder.mkdir(parents=True)
        Image.new("RGB", (8, 8)).save(folder / "0.png")
    (tmp_path / "photos" / "val" / "a" / "self").symlink_to("self")
    (tmp_path / "photos" / "val" / "x.png").symlink_to("x.png")
    dataset = open_dataset("folder:photos", "val", roots=tmp_path)
    assert len(dataset) == 2
    label = dataset[1][1]
    label += 5
    assert int(dataset[1][1]) == 1
