"""A run goes on only with the classes, the images and the teacher that it was begun with."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import tailcut
from tailcut.errors import DataError
from tailcut.runs import Run
from tailcut.training.checkpoint_digest import save_with_digest
from tailcut.training.checkpoints import read_checkpoint
from tailcut.training.recipe.schema import Recipe
from tailcut.training.recipe.toml_files import parse_recipe
from tailcut.training.train import train

pytestmark = pytest.mark.usefixtures("one_thread")

RECIPE = """
name = "photos"

[model]
name = "resnet20"
arguments = { num_classes = 3, width = 4 }

[data]
name = "folder:photos@16"
batch_size = 4

[optimizer]
lr = 0.001

[training]
epochs = 2
"""


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A data root with three classes of grey images, some for training and one of each for the test."""
    draw = np.random.default_rng(0)
    for split, count in (("train", 4), ("test", 1)):
        for name in ("cat", "dog", "elk"):
            folder = tmp_path / "photos" / split / name
            folder.mkdir(parents=True)
            for number in range(count):
                Image.fromarray(draw.integers(0, 256, (28, 28), dtype=np.uint8)).save(folder / f"{number}.png")
    return tmp_path


def trained(root: Path, *overrides: str, resume: bool = False) -> Run:
    recipe: Recipe = parse_recipe(RECIPE, source="photos", overrides=overrides)
    train(recipe, root / "run", resume=resume, roots=root)
    return Run(root / "run")


def rename_class(root: Path) -> None:
    for split in ("train", "test"):
        (root / "photos" / split / "dog").rename(root / "photos" / split / "doe")


def add_images(root: Path) -> None:
    folder = root / "photos" / "train" / "cat"
    for number in range(8):
        shutil.copy(folder / "0.png", folder / f"more{number}.png")


CHANGES: dict[str, tuple[Callable[[Path], None], str]] = {
    "renamed": (rename_class, "begun with 'dog' as class 1, which is 'doe' now"),
    "more images": (add_images, "begun with 12 training images, and there are 20 now"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_finished_run_keeps_its_files_when_its_data_have_changed(root: Path, change: str) -> None:
    run = trained(root)
    before = {path: path.read_bytes() for path in (run.model, run.result, run.metrics)}
    act, words = CHANGES[change]
    act(root)
    with pytest.raises(DataError, match=f"{words}: what it has learned does not fit; put back"):
        trained(root, resume=True)
    assert {path: path.read_bytes() for path in before} == before


def test_test_images_may_change(root: Path) -> None:
    trained(root)
    shutil.copy(root / "photos" / "test" / "cat" / "0.png", root / "photos" / "test" / "cat" / "1.png")
    assert trained(root, resume=True).read_result().split_sizes["test"] == 4


def test_another_teacher_is_refused(root: Path) -> None:
    def make_teacher(seed: int) -> None:
        torch.manual_seed(seed)
        model = tailcut.create_model("resnet20", num_classes=3, width=4)
        tailcut.set_class_names(model, ["cat", "dog", "elk"])
        tailcut.save(model, root / "teacher.tailcut")

    make_teacher(0)
    overrides = (f"distillation.teacher={str(root / 'teacher.tailcut')!r}",)
    run = trained(root, *overrides)
    assert trained(root, *overrides, resume=True).read_result() == run.read_result()
    make_teacher(1)
    with pytest.raises(DataError, match=r"begun with another teacher than distillation\.teacher is now"):
        trained(root, *overrides, resume=True)


def test_a_checkpoint_from_before_is_not_compared(root: Path) -> None:
    run = trained(root)
    state: dict[str, Any] = read_checkpoint(run.last_checkpoint)
    for key in ("num_train", "num_held_out", "teacher"):
        del state[key]
    with run.last_checkpoint.open("wb") as file:
        save_with_digest(state, file)
    trained(root, resume=True)
