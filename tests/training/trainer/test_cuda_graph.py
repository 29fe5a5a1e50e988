"""Steps as CUDA graphs, as far as they go without a CUDA device; tests/cuda/test_training.py replays some."""

from pathlib import Path

import pytest
from tests.small_recipe import MakeRecipe

from tailcut.errors import RecipeError
from tailcut.runs import Run
from tailcut.runtime.devices import Devices
from tailcut.training.recipe.toml_files import load_recipe
from tailcut.training.train import train

CPU = Devices("cpu")
RECORDED = "training.cuda_graph=true"


@pytest.mark.usefixtures("one_thread")
def test_on_a_cpu_nothing_changes(make_recipe: MakeRecipe, tmp_path: Path) -> None:
    losses = []
    for name, overrides in (("plain", ()), ("recorded", (RECORDED,))):
        train(make_recipe("training.epochs=1", *overrides), tmp_path / name, devices=CPU)
        losses.append([line["loss"] for line in Run(tmp_path / name).read_metrics()])
    assert losses[0] == losses[1]


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("pack.levels=[0.5]", r"training\.cuda_graph: each step of pack\.levels trains another network"),
        ("training.precision=fp16", r"training\.cuda_graph: fp16 scales the loss step by step"),
        ("training.execution=fused", r"training\.cuda_graph records steps with dense weights"),
    ],
)
def test_steps_that_differ_are_refused(override: str, message: str, make_recipe: MakeRecipe) -> None:
    with pytest.raises(RecipeError, match=message):
        make_recipe(RECORDED, override)


@pytest.mark.parametrize("name", ["gan-64383", "lenet5-1000", "faster-rcnn-overfit"])
def test_other_trainings_refuse_it(name: str, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"training\.cuda_graph: has no meaning for"):
        train(load_recipe(name, [RECORDED]), tmp_path / "run", devices=CPU)
