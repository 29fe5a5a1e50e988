import errno
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import pytest

from tailcut import files
from tailcut.errors import ArgumentError, TrainingError
from tailcut.format import load
from tailcut.runs import Run
from tailcut.training.checkpoints import read_checkpoint, write_checkpoint
from tailcut.training.recipe.schema import Recipe
from tailcut.training.recipe.toml_files import load_recipe
from tailcut.training.train import train, trainer_of
from tailcut.training.trainer import base
from tailcut.training.trainer.classification import ClassificationTrainer
from tailcut.training.trainer.detection import DetectionTrainer
from tailcut.training.trainer.gan import GanTrainer

MakeRecipe = Callable[..., Recipe]

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize(
    ("name", "overrides", "kind"),
    [
        ("lenet5-776", [], ClassificationTrainer),
        ("vae-ref", [], ClassificationTrainer),
        ("gan-ref", [], GanTrainer),
        ("faster-rcnn-rgb", ["detection.backbone=runs/backbone"], DetectionTrainer),
    ],
)
def test_each_recipe_has_its_trainer(name: str, overrides: list[str], kind: type[Any]) -> None:
    assert trainer_of(load_recipe(name, overrides)) is kind


class Faults:
    """Counts what reaches the disk, and lets one of these calls fail.

    Counted are new files, renames, synchronisations, and the first, second and fiftieth write to each file.
    """

    def __init__(self, patch: pytest.MonkeyPatch, fail_at: int = -1) -> None:
        self.count, self.fail_at = 0, fail_at
        for module, name in ((files, "_make"), (os, "replace"), (os, "fsync")):
            patch.setattr(module, name, self._counting(getattr(module, name)))
        fdopen = os.fdopen
        patch.setattr(os, "fdopen", lambda *args, **settings: self._watched(fdopen(*args, **settings)))

    def tick(self) -> None:
        self.count += 1
        if self.count - 1 == self.fail_at:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def _counting(self, call: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*args: Any, **settings: Any) -> Any:
            self.tick()
            return call(*args, **settings)

        return counted

    def _watched(self, file: Any) -> Any:
        watched, write, written = MagicMock(wraps=file), file.write, 0

        def counted_write(data: Any) -> Any:
            nonlocal written
            written += 1
            if written in (1, 2, 50):
                self.tick()
            return write(data)

        watched.write = counted_write
        watched.__enter__.return_value = watched
        watched.__exit__.side_effect = lambda *args: file.close()
        return watched


@pytest.mark.slow
def test_a_write_that_fails_at_any_moment_leaves_nothing_half_done(
    make_recipe: MakeRecipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = make_recipe("training.epochs=2", "data.batch_size=1200", "data.holdout=10")
    with monkeypatch.context() as patch:
        faults = Faults(patch)
        train(recipe, tmp_path / "whole")
    expected = Run(tmp_path / "whole").model.read_bytes()
    assert faults.count > 40

    for number in range(faults.count):
        run = Run(tmp_path / str(number))
        with monkeypatch.context() as patch:
            Faults(patch, fail_at=number)
            with pytest.raises(TrainingError, match=rf"cannot write .*{number}.*No space left.*--resume"):
                train(recipe, run.path)
        assert_nothing_is_half_done(run)
        train(recipe, run.path, resume=True)
        assert run.model.read_bytes() == expected, number
        assert [line["epoch"] for line in run.read_metrics()] == [1, 2]
        assert run.read_result().metrics == Run(tmp_path / "whole").read_result().metrics


def assert_nothing_is_half_done(run: Run) -> None:
    """Each file that is there is whole."""
    assert not list(run.path.rglob("*.part"))
    for path in run.checkpoints.glob("*.pt"):
        read_checkpoint(path)
    if run.recipe.is_file():
        load_recipe(run.recipe)
    if run.model.is_file():
        load(run.model)
    if run.result.is_file():
        run.read_result()
    run.read_metrics()


def test_a_run_folder_that_is_deleted_is_reported(
    make_recipe: MakeRecipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:

    def deleting(run: Run, state: Any) -> None:
        write_checkpoint(run, state)
        if state["epoch"] == 2:
            shutil.rmtree(run.path)

    monkeypatch.setattr(base, "write_checkpoint", deleting)
    with pytest.raises(TrainingError, match=r"run folder .*run was deleted or moved while the training ran"):
        train(make_recipe("data.batch_size=600"), tmp_path / "run")


def test_a_lock_outlives_the_log(make_recipe: MakeRecipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []

    def begin_another(run: Run, state: Any) -> None:
        write_checkpoint(run, state)
        run.log.unlink()
        with pytest.raises(ArgumentError, match="another training runs in") as caught:
            train(recipe, run.path, resume=True)
        told.append(str(caught.value))

    monkeypatch.setattr(base, "write_checkpoint", begin_another)
    recipe = make_recipe("training.epochs=1", "data.batch_size=600")
    train(recipe, tmp_path / "run")
    assert len(told) == 1


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_a_log_that_cannot_be_written_ends_no_training(
    make_recipe: MakeRecipe, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = Run(tmp_path / "run")
    run.path.mkdir()
    run.log.symlink_to("/dev/full")
    train(make_recipe("training.epochs=1", "data.batch_size=600"), run.path)
    assert run.result.is_file()
    assert "Traceback" not in capsys.readouterr().err


def test_a_damaged_last_checkpoint_is_not_taken(
    make_recipe: MakeRecipe, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    recipe = make_recipe("training.epochs=2", "data.batch_size=600")
    train(recipe, tmp_path / "run")
    run = Run(tmp_path / "run")
    expected, content = run.model.read_bytes(), bytearray(run.last_checkpoint.read_bytes())
    content[len(content) // 2] ^= 16
    run.last_checkpoint.write_bytes(content)
    caplog.clear()
    train(recipe, run.path, resume=True)
    assert "last.pt is damaged" in caplog.text
    assert "the one before is taken, previous.pt after epoch 1" in caplog.text
    assert run.model.read_bytes() == expected
    assert run.damaged_checkpoint.read_bytes() == content
    assert read_checkpoint(run.previous_checkpoint)["epoch"] == 1
