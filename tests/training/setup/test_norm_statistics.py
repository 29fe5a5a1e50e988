from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from torch import nn

from tailcut.errors import RecipeError
from tailcut.training.recipe.schema import Recipe
from tailcut.training.recipe.toml_files import parse_recipe
from tailcut.training.setup import norm_statistics
from tailcut.training.setup.norm_statistics import check_statistics, recalibration_batches
from tailcut.training.train import train

MakeRecipe = Callable[..., Recipe]


@pytest.mark.parametrize(
    ("overrides", "num_images", "expected"),
    [
        ((), 64 * 20, (64, 0)),  # twenty steps tell enough of themselves
        ((), 64 * 20 - 1, (64, 20)),  # nearly all images, in 20 batches of nearly 64
        (("data.batch_size=32",), 60, (30, 2)),
        (("data.batch_size=32",), 33, (17, 2)),
        (("data.batch_size=32",), 32, (32, 1)),
        (("optimizer.ema_decay=0.9",), 64 * 100, (64, 20)),
        (("training.statistics_images=100",), 64 * 100, (64, 2)),
        (("training.statistics_images=100000",), 64 * 100, (64, 100)),
        (("training.statistics_images=1", "data.batch_size=10"), 55, (10, 1)),
    ],
)
def test_how_many_images_are_measured(
    overrides: tuple[str, ...], num_images: int, expected: tuple[int, int], make_recipe: MakeRecipe
) -> None:
    recipe = make_recipe(*overrides)
    assert recalibration_batches(recipe, nn.Linear(1, 1), num_images)[1] == expected[1]
    assert expected[1] == 0 or recalibration_batches(recipe, nn.Linear(1, 1), num_images) == expected


def test_statistics_are_for_networks_that_keep_some(make_recipe: MakeRecipe) -> None:
    recipe = make_recipe("training.statistics_images=100")
    check_statistics(recipe, nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2)))
    for model in (nn.Linear(2, 2), nn.BatchNorm1d(2, track_running_stats=False)):
        check_statistics(make_recipe(), model)
        with pytest.raises(RecipeError, match=r"^training\.statistics_images: has no meaning for a network without"):
            check_statistics(recipe, model)


SMALL = """
name = "small-folder"
[model]
name = "resnet20"
arguments = { num_classes = 3 }
[data]
name = "folder:colours"
test_split = "val"
batch_size = 12
[optimizer]
lr = 0.01
lr_schedule = { name = "one_cycle", warmup = 0.2 }
[training]
epochs = 2
validate_every = 2
"""


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("measured", [True, False])
def test_a_small_folder_is_learnt(
    measured: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    rng = np.random.default_rng(0)
    for split, num in (("train", 20), ("val", 10)):
        for number in range(3):
            folder = tmp_path / "colours" / split / "rgb"[number]
            folder.mkdir(parents=True)
            for image in range(num):
                pixels = rng.integers(0, 160, (16, 16, 3), dtype=np.uint8)
                pixels[:, :, number] += 80
                Image.fromarray(pixels).save(folder / f"{image}.png")
    if not measured:
        monkeypatch.setattr(norm_statistics, "FEW_STEPS", 0)
    accuracy = train(parse_recipe(SMALL, source="small.toml"), tmp_path / "run", roots=tmp_path).metrics["accuracy"]
    assert "2 epochs of 5 steps are 10 steps in all" in caplog.text
    assert (accuracy > 0.9) is measured  # running averages over 10 steps are no statistics
