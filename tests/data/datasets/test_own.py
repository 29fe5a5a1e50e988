"""Folders of one's own: classes and masks, trained and evaluated from the command line's names."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tailcut.data import FolderDataset, MaskDataset, default_split, open_dataset, split_off
from tailcut.errors import ArgumentError, DataError, DataNotFoundError
from tailcut.evaluation.evaluate import evaluate
from tailcut.training.recipe.sections import DataSection
from tailcut.training.recipe.toml_files import parse_recipe
from tailcut.training.train import train


def write(path: Path, value: int, side: int = 12, kind: str = "RGB") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((side, side), value, dtype=np.uint8)).convert(kind).save(path)


@pytest.fixture
def flowers(tmp_path: Path) -> Path:
    """A data root: dark roses and light tulips of two sizes; the test split has no roses."""
    for number in range(8):
        write(tmp_path / "my" / "flowers" / "train" / "rose" / f"{number}.jpg", number * 5, side=10 + number)
        write(tmp_path / "my" / "flowers" / "train" / "tulip" / f"{number}.png", 255 - number * 5, side=12)
        write(tmp_path / "my" / "flowers" / "val" / "tulip" / f"{number}.png", 230 + number)
    return tmp_path


def test_classes_are_those_of_all_splits(flowers: Path) -> None:
    train_part, test_part = (open_dataset("folder:my/flowers@8", split, roots=flowers) for split in ("train", None))
    assert isinstance(test_part, FolderDataset)
    assert train_part.class_names == test_part.class_names == ("rose", "tulip")
    assert (train_part.name, train_part.split, test_part.split) == ("folder:my/flowers@8", "train", "val")
    assert train_part.batch(range(16))[0].shape == (16, 3, 8, 8)
    assert test_part.batch(range(8))[1].tolist() == [1] * 8


def test_figures_are_of_test_where_there_is_one(flowers: Path) -> None:
    """A recipe that names no split and an evaluation that names none take the same images."""
    recipe = {"name": "folder:my/flowers@8"}
    for expected in ("val", "test"):
        if expected == "test":
            write(flowers / "my" / "flowers" / "test" / "rose" / "0.png", 3)
        section = DataSection.model_validate(recipe)
        for split in (None, section.test_split):
            assert open_dataset(section.name, split, roots=flowers).split == expected
    assert open_dataset(recipe["name"], "val", roots=flowers).split == "val"


@pytest.mark.parametrize(
    ("name", "split"), [("mnist", "test"), ("cifar10@16", "test"), ("imagenette@32", "val"), ("coco", "val2017")]
)
def test_known_data_have_their_split(name: str, split: str) -> None:
    assert default_split(name) == DataSection.model_validate({"name": name}).test_split == split
    assert DataSection.model_validate({"name": name, "test_split": "train"}).test_split == "train"


def test_images_of_several_sizes_need_a_side(flowers: Path) -> None:
    dataset = open_dataset("folder:my/flowers", "train", roots=flowers)
    with pytest.raises(DataError, match=r"must have one size.*open the data as folder:my/flowers@SIDE, which resizes"):
        dataset.batch(range(16))


def test_all_classes_are_held_out(flowers: Path) -> None:
    for part in split_off(open_dataset("folder:my/flowers@8", "train", roots=flowers), 4):
        assert part.batch(range(len(part)))[1].bincount().tolist() == [len(part) // 2] * 2


def test_own_classes_train_and_evaluate(flowers: Path, tmp_path: Path) -> None:
    text = """
        [model]
        name = "resnet20"
        arguments = { num_classes = 2 }
        [data]
        name = "folder:my/flowers@16"
        test_split = "val"
        batch_size = 8
        [regularization]
        keep_ratio = 0.2
        [optimizer]
        name = "adam"
        lr = 0.01
        [training]
        epochs = 6
    """
    result = train(parse_recipe(text, source="text"), tmp_path / "run", roots=flowers, progress=False)
    assert result.metrics["accuracy"] == 1.0


def test_own_masks_are_opened(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write(tmp_path / "leaves" / "val" / "images" / f"{name}.jpg", 100)
        write(tmp_path / "leaves" / "val" / "masks" / f"{name}.png", 255, kind="L")
    dataset = open_dataset("masks:leaves", roots=tmp_path)
    assert isinstance(dataset, MaskDataset)
    assert (dataset.name, dataset.task, dataset.class_names) == (
        "masks:leaves",
        "segmentation",
        ("background", "foreground"),
    )
    assert dataset.batch([0, 1])[1].unique().tolist() == [1]

    class All(torch.nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return torch.stack([torch.zeros_like(images[:, 0]), torch.ones_like(images[:, 0])], dim=1)

    assert evaluate(All(), dataset) == {"dice": 1.0}


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("folders:a", "your own are folder:NAME or masks:NAME"),
        ("folder:", "named by a folder under a data root"),
        ("folder:../a", "named by a folder under a data root"),
        ("folder:/a", "named by a folder under a data root"),
        ("masks:a\\b", "named by a folder under a data root"),
        ("masks:my/leaves@64", "ask for 'masks:my/leaves', not for 'masks:my/leaves@64'"),
        ("folder:a@big", "as in folder:a@112, .*; got 'folder:a@big'"),
        ("folder:my/flowers@9999", "must be 1 to 4096"),
        ("flowers", "and your own as folder:NAME"),
    ],
)
def test_names_that_cannot_be(name: str, message: str, flowers: Path) -> None:
    with pytest.raises(ArgumentError, match=message):
        open_dataset(name, "train", roots=flowers)


def test_what_is_missing_is_said_with_what_is_there(cache: Path, flowers: Path) -> None:
    with pytest.raises(ArgumentError, match="a split of my/flowers is the name of a folder"):
        open_dataset("folder:my/flowers", "../train", roots=flowers)
    with pytest.raises(
        DataNotFoundError, match=r"(?s)folder:my/flowers, split test.*Splits found: train, val. Put ima"
    ):
        open_dataset("folder:my/flowers", "test", roots=flowers)
    with pytest.raises(DataNotFoundError, match=r"(?s)masks:my/flowers, split val.*my/flowers/val/images and a mask"):
        open_dataset("masks:my/flowers", roots=flowers)


def test_a_pipe_among_the_images_is_refused(tmp_path: Path) -> None:
    for split in ("train", "test"):
        folder = tmp_path / "pipes" / split / "a"
        folder.mkdir(parents=True)
        os.mkfifo(folder / "x.jpg")
    with pytest.raises(DataError, match=r"x.jpg is no regular file, but a pipe"):
        open_dataset("folder:pipes", "test", roots=tmp_path)


def test_a_test_image_of_another_size_is_told_before_the_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(8):
        for split in ("train", "val"):
            write(tmp_path / "pots" / split / "red" / f"{number}.png", number * 5)
            write(tmp_path / "pots" / split / "blue" / f"{number}.png", 255 - number * 5)
    opened = open_dataset("folder:pots", "val", roots=tmp_path)
    opened.check_sizes()
    write(tmp_path / "pots" / "val" / "red" / "7.png", 3, side=11)
    with pytest.raises(DataError, match=r"split val: .* one size, these have \(height, width\) \(11, 11\), \(12, 12\)"):
        open_dataset("folder:pots", "val", roots=tmp_path).check_sizes()
    open_dataset("folder:pots@9", "val", roots=tmp_path).check_sizes()
    monkeypatch.setattr("tailcut.training.trainer.base.Trainer.train_epochs", None)
    recipe = parse_recipe(OWN_SIZES, source="pots.toml")
    with pytest.raises(DataError, match="split val"):
        train(recipe, tmp_path / "run", roots=tmp_path)


OWN_SIZES = """
name = "pots"
model = { name = "resnet20", arguments = { num_classes = 2 } }
data = { name = "folder:pots", test_split = "val", batch_size = 4 }
optimizer = { lr = 0.01 }
training = { epochs = 1 }
"""
