import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tailcut.data.datasets.masks import open_carvana
from tailcut.errors import ArgumentError, DataError, DataNotFoundError


def write(path: Path, height: int = 6, width: int = 9, *, channels: int = 3) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    generator = np.random.default_rng(len(path.name))
    shape = (height, width, 3) if channels == 3 else (height, width)
    pixels = generator.integers(0, 2 if channels == 1 else 256, shape, dtype=np.uint8)
    Image.fromarray(pixels).save(path)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A data root with a split `mine` of a .jpg, a .png and a published pair of names."""
    folder = tmp_path / "root" / "carvana" / "mine"
    for name in ("b.png", "a.jpg", "in0003.png", "inside.png"):
        write(folder / "images" / name)
    for name in ("a.png", "b.png", "gt0003.png", "inside.png"):
        write(folder / "masks" / name, channels=1)
    return tmp_path / "root"


@pytest.mark.parametrize(("split", "num"), [("train", 240), ("val", 48), ("published", 8)])
def test_real_images(carvana_root: Path, split: str, num: int) -> None:
    dataset = open_carvana(split, roots=carvana_root)
    assert len(dataset) == num
    assert (dataset.task, dataset.num_classes, dataset.image_shape) == ("segmentation", 2, (3, 640, 959))
    images, masks = dataset.batch([0, num - 1])
    assert (images.dtype, images.shape) == (torch.float32, (2, 3, 640, 959))
    assert (masks.dtype, masks.shape) == (torch.int64, (2, 640, 959))
    assert set(masks.flatten().tolist()) == {0, 1}
    share = masks.float().mean().item()
    assert 0.05 < share < 0.6, "a car fills a part of the photo"


def test_published_pairs(carvana_root: Path) -> None:
    dataset = open_carvana("published", roots=carvana_root)
    names = [(image.name, mask.name) for image, mask in dataset.files]
    assert names == [(f"in000{number}.png", f"gt000{number}.png") for number in range(8)]


def test_names_are_matched_and_sorted(root: Path) -> None:
    dataset = open_carvana("mine", roots=root)
    names = [(image.name, mask.name) for image, mask in dataset.files]
    assert names == [
        ("a.jpg", "a.png"),
        ("b.png", "b.png"),
        ("in0003.png", "gt0003.png"),
        ("inside.png", "inside.png"),
    ]
    assert dataset.split == "mine"


def test_items_are_images_and_masks(root: Path) -> None:
    image, mask = open_carvana("mine", roots=root)[1]
    folder = root / "carvana" / "mine"
    colours = np.asarray(Image.open(folder / "images" / "b.png"))
    assert np.array_equal(image.numpy(), colours.transpose(2, 0, 1).astype(np.float32) / 255)
    assert np.array_equal(mask.numpy(), np.asarray(Image.open(folder / "masks" / "b.png")) > 0)


def test_files_of_other_kinds_are_passed_over(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = root / "carvana" / "mine" / "images"
    (folder / "notes.txt").write_text("x")
    (folder / "._a.jpg").write_text("x")
    (folder.parent / "masks" / "a.tif").write_text("x")
    assert len(open_carvana("mine", roots=root)) == 4
    assert (
        f"left out 2 files of {folder.parent} that are not called .jpg, .jpeg or .png: images/notes.txt, masks/a.tif"
        in (caplog.text)
    )


def test_folders_within_are_told(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = root / "carvana" / "mine"
    (folder / "images" / "more").mkdir()
    assert len(open_carvana("mine", roots=root)) == 4
    assert f"left out images/more/ of {folder}: photos and masks count where they lie directly" in caplog.text


def test_image_without_mask(root: Path) -> None:
    (root / "carvana" / "mine" / "masks" / "gt0003.png").unlink()
    with pytest.raises(DataError, match=r"masks lacks the masks of in0003\.png$"):
        open_carvana("mine", roots=root)


def test_mask_without_image(root: Path) -> None:
    for name in "vwxyz":
        write(root / "carvana" / "mine" / "masks" / f"{name}.png", channels=1)
    with pytest.raises(DataError, match=r"images of the masks v\.png, w\.png, x\.png and 2 more"):
        open_carvana("mine", roots=root)


def test_two_images_of_one_name(root: Path) -> None:
    write(root / "carvana" / "mine" / "images" / "b.jpg")
    with pytest.raises(DataError, match=r"holds both b\.jpg and b\.png"):
        open_carvana("mine", roots=root)


def test_no_images(root: Path) -> None:
    shutil.rmtree(root / "carvana" / "mine" / "images")
    (root / "carvana" / "mine" / "images").mkdir()
    with pytest.raises(DataError, match="holds no images"):
        open_carvana("mine", roots=root)


def test_sizes_must_agree(root: Path) -> None:
    write(root / "carvana" / "mine" / "masks" / "b.png", 6, 8, channels=1)
    dataset = open_carvana("mine", roots=root)
    assert dataset[0][0].shape == (3, 6, 9)
    with pytest.raises(DataError, match=r"b\.png.*\(6, 9\); this one has \(6, 8\)"):
        dataset[1]


def test_damaged_image(root: Path) -> None:
    path = root / "carvana" / "mine" / "images" / "b.png"
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(DataError, match=str(path)):
        open_carvana("mine", roots=root)[1]


def test_missing_split_names_those_found(cache: Path, root: Path) -> None:
    with pytest.raises(DataNotFoundError) as caught:
        open_carvana("val", roots=root)
    message = str(caught.value)
    assert "  carvana/val/images\n  carvana/val/masks\n" in message
    assert "Splits found: mine. The photos are those of the Carvana" in message
    assert "download" not in message


def test_root_that_cannot_be_read(cache: Path, root: Path) -> None:
    impossible = root / ("x" * 300)
    assert len(open_carvana("mine", roots=[impossible, root])) == 4
    with pytest.raises(DataNotFoundError, match="cannot be read"):
        open_carvana("mine", roots=impossible)


@pytest.mark.parametrize("split", ["", ".", "..", "a/b", "../mine", "a\\b"])
def test_split_is_one_folder(root: Path, split: str) -> None:
    with pytest.raises(ArgumentError, match="name of a folder"):
        open_carvana(split, roots=root)
