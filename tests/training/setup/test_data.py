from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from tailcut.data import Dataset, open_dataset
from tailcut.errors import RecipeError
from tailcut.runs import Run
from tailcut.runtime.devices import Devices, make_fabric
from tailcut.training.recipe.schema import Recipe
from tailcut.training.setup.data import open_data
from tailcut.training.setup.job import Job

MakeRecipe = Callable[..., Recipe]


def job(recipe: Recipe, path: Path) -> Job:
    return Job(recipe, Run(path), make_fabric(Devices("cpu")))


def digest(dataset: Dataset) -> list[bytes]:
    images, _ = dataset.batch(torch.arange(len(dataset)))
    return [image.numpy().tobytes() for image in images]


def test_held_out_images_are_no_training_images(make_recipe: MakeRecipe, tmp_path: Path) -> None:
    data = open_data(job(make_recipe(), tmp_path))
    everything, test = open_dataset("digits", "train"), open_dataset("digits", "test")
    assert data.held_out is not None
    assert data.sizes == {"train": len(everything) - 200, "validation": 200, "test": len(test)}
    assert data.num_steps == (len(everything) - 200) // 64

    parts = [digest(data.train), digest(data.held_out)]
    assert sorted([*parts[0], *parts[1]]) == sorted(digest(everything))


def test_without_holdout_there_is_no_validation(make_recipe: MakeRecipe, tmp_path: Path) -> None:
    data = open_data(job(make_recipe("data.holdout=0"), tmp_path))
    assert data.held_out is None
    assert data.sizes["validation"] == 0


def test_a_batch_larger_than_the_data_is_refused(make_recipe: MakeRecipe, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"data\.batch_size"):
        open_data(job(make_recipe("data.batch_size=5000"), tmp_path))
