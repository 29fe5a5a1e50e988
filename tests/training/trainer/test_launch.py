from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from PIL import Image

from tailcut.errors import ArgumentError, DataError, RecipeError
from tailcut.runs import Run
from tailcut.training.recipe.schema import Recipe
from tailcut.training.recipe.toml_files import parse_recipe, to_toml
from tailcut.training.setup.job import Job
from tailcut.training.train import train
from tailcut.training.trainer import launch as launching
from tailcut.training.trainer.launch import run_trainers

MakeRecipe = Callable[..., Recipe]
SETTINGS: dict[str, Any] = {"roots": "there", "download": True, "progress": False, "command": "tailcut train"}


class Noted:
    """A trainer that writes down what it is asked for."""

    calls: list[Any]
    meanwhile: Callable[[], None] = staticmethod(lambda: None)

    def __init__(self, job: Job) -> None:
        self.run = job.run
        Noted.calls = [{"roots": job.roots, "download": job.download}]
        Noted.meanwhile()

    def train_epochs(self, *, progress: bool) -> None:
        Noted.calls.append(parse_recipe(self.run.recipe.read_text(), source="the run"))

    def finish(self, command: str) -> Any:
        Noted.calls.append(command)
        return "the result"


def launch(recipe: Recipe, out: Path, *, resume: bool = False) -> Any:
    return run_trainers(lambda _: cast(Any, Noted), recipe, out, resume=resume, devices=None, **SETTINGS)


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


@pytest.mark.parametrize("resume", [False, True])
def test_a_second_training_in_the_folder_is_refused(
    resume: bool, make_recipe: MakeRecipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, recipe = Run(tmp_path / "run"), make_recipe()
    refused = []

    def begin_another() -> None:  # before the first has written its recipe
        with pytest.raises(ArgumentError, match=r"another training runs in .*run; wait until it ends") as caught:
            launch(make_recipe("training.epochs=9"), run.path, resume=resume)
        refused.append(caught)

    monkeypatch.setattr(Noted, "meanwhile", begin_another)
    assert launch(recipe, run.path) == "the result"
    assert len(refused) == 1
    assert parse_recipe(run.recipe.read_text(), source="the run") == recipe


def test_a_training_that_failed_leaves_the_folder_free(
    make_recipe: MakeRecipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail() -> None:
        raise RecipeError("it does not fit")

    with monkeypatch.context() as patch:
        patch.setattr(Noted, "meanwhile", fail)
        with pytest.raises(RecipeError, match="does not fit"):
            launch(make_recipe(), tmp_path / "run")
    assert launch(make_recipe(), tmp_path / "run") == "the result"


def test_only_the_first_process_of_a_training_locks(
    make_recipe: MakeRecipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(launching, "is_global_zero", lambda: False)
    with Run(tmp_path / "run").locked():
        assert launch(make_recipe(), tmp_path / "run") == "the result"


def test_a_finished_run_without_its_checkpoints_is_not_trained_anew(make_recipe: MakeRecipe, tmp_path: Path) -> None:
    run, recipe = Run(tmp_path / "run"), make_recipe()
    launch(recipe, run.path)
    for path in (run.model, run.result, run.previous_checkpoint):
        path.touch()
    assert launch(recipe, run.path, resume=True) == "the result"
    run.previous_checkpoint.unlink()
    run.checkpoints.rmdir()
    Noted.calls = []
    with pytest.raises(ArgumentError, match=r"finished run whose checkpoints are missing.*keep it as it is, or choose"):
        launch(recipe, run.path, resume=True)
    assert Noted.calls == []


def test_a_finished_run_without_epochs_needs_no_checkpoint(make_recipe: MakeRecipe, tmp_path: Path) -> None:
    run, recipe = Run(tmp_path / "run"), make_recipe("training.epochs=0")
    launch(recipe, run.path)
    for path in (run.model, run.result):
        path.touch()
    assert launch(recipe, run.path, resume=True) == "the result"


def test_a_recipe_of_the_users_own_in_the_folder_is_kept(make_recipe: MakeRecipe, tmp_path: Path) -> None:
    run, own = Run(tmp_path / "run"), "# a comment\n" + to_toml(make_recipe())
    run.path.mkdir()
    run.recipe.write_text(own)

    with pytest.raises(RecipeError, match="a recipe of your own"):
        launch(make_recipe("training.epochs=9"), run.path, resume=True)
    assert run.recipe.read_text() == own
    assert launch(make_recipe(), run.path, resume=True) == "the result"
    assert run.recipe.read_text() == own


def test_broken_images_are_counted_at_the_end(
    make_recipe: MakeRecipe, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """One of 16 training images and one of the test are broken: an error that names the key, or two left out."""
    for split in ("train", "val"):
        for number, name in enumerate(("rose", "tulip")):
            (tmp_path / "flowers" / split / name).mkdir(parents=True)
            for index in range(8):
                pixels = np.random.default_rng(16 * number + index).integers(0, 256, (28, 28, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(tmp_path / "flowers" / split / name / f"{index}.jpg")
        path = tmp_path / "flowers" / split / "rose" / "3.jpg"
        path.write_bytes(path.read_bytes()[:-100] + b"\xff\xd9")
    words = ["data.name='folder:flowers@28'", "data.test_split='val'", "data.holdout=0", "data.batch_size=4"]
    words += ["model={ name = 'resnet20', arguments = { num_classes = 2 } }", "schedule=", "regularization="]
    with pytest.raises(DataError, match=r"3\.jpg: .*set data\.strict = false in the recipe"):
        train(make_recipe(*words, "training.epochs=1"), tmp_path / "raised", roots=tmp_path)
    result = train(make_recipe(*words, "training.epochs=1", "data.on_error='skip'"), tmp_path / "run", roots=tmp_path)
    assert result.split_sizes == {"train": 15, "test": 15}
    last = caplog.messages[-1]
    assert last.startswith("left out 2 images that cannot be read: cannot use the image")
    assert last in Run(tmp_path / "run").log.read_text()
