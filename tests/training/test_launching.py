from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tailcut.errors import ArgumentError, RecipeError
from tailcut.runs import Run
from tailcut.training.launching import run_sessions
from tailcut.training.recipe import Recipe
from tailcut.training.recipe_files import parse_recipe

MakeRecipe = Callable[..., Recipe]
SETTINGS: dict[str, Any] = {"roots": "there", "download": True, "progress": False, "command": "tailcut train"}


class Noted:
    """A session that writes down what it is asked for."""

    calls: list[Any]

    def __init__(self, recipe: Recipe, run: Run, fabric: Any, **settings: Any) -> None:
        self.run = run
        Noted.calls = [settings]

    def train_epochs(self, *, progress: bool) -> None:
        Noted.calls.append(parse_recipe(self.run.recipe.read_text(), source="the run"))

    def finish(self, command: str) -> Any:
        Noted.calls.append(command)
        return "the result"


def launch(recipe: Recipe, out: Path, *, resume: bool = False) -> Any:
    return run_sessions(Noted, recipe, out, resume=resume, machines=None, **SETTINGS)


def test_the_recipe_stands_in_the_folder_before_the_training(make_recipe: MakeRecipe, tmp_path: Path) -> None:
    recipe = make_recipe()
    assert launch(recipe, tmp_path / "run") == "the result"
    assert Noted.calls == [{"roots": "there", "download": True}, recipe, "tailcut train"]


def test_a_run_is_taken_up_only_with_its_own_recipe(make_recipe: MakeRecipe, tmp_path: Path) -> None:
    launch(make_recipe(), tmp_path / "run")
    Run(tmp_path / "run").last_checkpoint.touch()
    with pytest.raises(ArgumentError, match="--resume"):
        launch(make_recipe(), tmp_path / "run")
    with pytest.raises(RecipeError, match="epochs"):
        launch(make_recipe("training.epochs=9"), tmp_path / "run", resume=True)
    assert launch(make_recipe(), tmp_path / "run", resume=True) == "the result"


def test_a_run_without_a_finished_epoch_takes_another_recipe(make_recipe: MakeRecipe, tmp_path: Path) -> None:
    run = Run(tmp_path / "run")
    launch(make_recipe(), run.path)
    run.start.touch()
    corrected = make_recipe("training.epochs=9")
    with pytest.raises(ArgumentError, match="has not finished an epoch"):
        launch(corrected, run.path)
    assert launch(corrected, run.path, resume=True) == "the result"
    assert parse_recipe(run.recipe.read_text(), source="the run") == corrected
    assert not run.start.exists()
