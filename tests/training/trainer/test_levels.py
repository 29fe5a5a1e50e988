from pathlib import Path
from typing import Any

import pytest

import tailcut
from tailcut.data import open_dataset
from tailcut.errors import RecipeError
from tailcut.runs import Run
from tailcut.training.recipe.toml_files import parse_recipe
from tailcut.training.train import train
from tailcut.training.trainer import base

pytestmark = pytest.mark.usefixtures("one_thread")

RECIPE = """
model = { name = "lenet5", arguments = { bias = false, convolutional = true, conv_relu = true } }
data = { name = "digits", batch_size = 64 }
start = { file = "zoo:lenet5-7668" }
regularization = {}
optimizer = { lr = 0.01 }
training = { epochs = 6 }
"""
LEVELS = "pack = { dtype = 'float16', levels = [0.25, 0.5] }"


class StopError(Exception):
    """Raised in the middle of a training."""


def run(folder: Path, text: str, **settings: Any) -> Path:
    train(parse_recipe(text, source="levels.toml"), folder, **settings)
    return Run(folder).model


def accuracy(file: Path, level: int) -> float:
    images, labels = open_dataset("digits", "test").batch(range(300))
    return float((tailcut.load(file, level=level)(images).argmax(1) == labels).float().mean())


def test_a_recipe_with_levels_packs_a_file_of_networks_that_work(tmp_path: Path) -> None:
    nested, plain = run(tmp_path / "nested", RECIPE + LEVELS), run(tmp_path / "plain", RECIPE)
    assert [entry.num_kept for entry in tailcut.inspect(nested).levels] == [1917, 3834, 7668]
    cut = tmp_path / "cut.tailcut"
    tailcut.save(tailcut.load(plain), cut, dtype="float16", levels=(0.25, 0.5))
    assert accuracy(nested, 1) > max(accuracy(cut, 1) + 0.1, 0.3)


def test_a_training_with_levels_goes_on_to_the_same_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, written, count = run(tmp_path / "whole", RECIPE + LEVELS), vars(base)["write_checkpoint"], 0

    def write_then_stop(*arguments: Any, **settings: Any) -> Any:
        nonlocal count
        found, count = written(*arguments, **settings), count + 1
        if count == 2:
            raise StopError
        return found

    monkeypatch.setattr(base, "write_checkpoint", write_then_stop)
    with pytest.raises(StopError):
        run(tmp_path / "part", RECIPE + LEVELS)
    assert run(tmp_path / "part", RECIPE + LEVELS, resume=True).read_bytes() == whole.read_bytes()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (RECIPE + "pack = { levels = [0.5, 0.2] }", "levels must rise"),
        (
            RECIPE.replace("regularization", "# regularization").replace("start", "# start") + LEVELS,
            "pack.levels is for networks",
        ),
    ],
)
def test_levels_that_mean_nothing_are_refused(text: str, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        parse_recipe(text, source="levels.toml")
