"""Recipes with stages: one training is bit by bit that of separate recipes, however often it is stopped."""

import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from tailcut.errors import ArgumentError, RecipeError, TrainingError
from tailcut.format import inspect
from tailcut.runs import Result, Run
from tailcut.training.batches import batches as batches_of_an_epoch
from tailcut.training.checkpoints import read_checkpoint
from tailcut.training.recipe.schema import Recipe
from tailcut.training.recipe.stages import stages_of
from tailcut.training.recipe.toml_files import load_recipe, parse_recipe
from tailcut.training.train import train
from tailcut.training.trainer import base

pytestmark = pytest.mark.usefixtures("one_thread")

COMMON = """
model = { name = "lenet300", arguments = { convolutional = true } }
data = { name = "digits", batch_size = 256, holdout = 200 }
optimizer = { lr = 0.01, ema_decay = 0.9 }
"""
FIRST = """
regularization = { num_kept = 1000, initialization = "he" }
schedule = { num_kept = 400, spacing = "geometric", fraction = 0.5, every = 2 }
training = { epochs = 2, seed = 1 }
"""
SECOND = """
optimizer = { lr = 0.02 }
training = { epochs = 2, seed = 2 }
"""
LAST = """
regularization = {}
training = { epochs = 2, seed = 3 }
"""
STAGED = f"{COMMON}{LAST}\n[[stage]]\nname = 'cut'\n{FIRST}\n[[stage]]\nname = 'on'\n{SECOND}"
NUM_KEPT = 2 * 400 + 400
FOR_BYTES = """
model = { name = "lenet300", arguments = { convolutional = true } }
data = { name = "digits", batch_size = 256 }
optimizer = { lr = 0.05 }
regularization = {}
compression = { target_bytes = 2500, num_gradients = 10 }
training = { epochs = 4 }

[[stage]]
name = "large"
without = ["compression"]
regularization = { num_kept = 400, initialization = "he" }
optimizer = { lr = 0.01, ema_decay = 0.9 }
training = { epochs = 2 }
"""


@pytest.fixture(scope="module")
def by_hand(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """The run of the last of three recipes, each of which starts from the one before."""
    folder = tmp_path_factory.mktemp("runs")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    train(parse_recipe(COMMON + FIRST, source="first.toml"), folder / "first")
    second = ["start.file='run:first'", "optimizer.lr=0.02", "training.seed=2"]
    train(parse_recipe(COMMON + LAST, source="second.toml", overrides=second), folder / "second")
    last = f"start = {{ file = 'run:second' }}\n{COMMON}{LAST}"
    train(parse_recipe(last, source="last.toml"), folder / "last")
    torch.set_num_threads(threads)
    return Run(folder / "last")


def staged() -> Recipe:
    return parse_recipe(STAGED, source="staged.toml")


def stop_in(patch: pytest.MonkeyPatch, *, seed: int, epoch: int) -> None:
    """Press Ctrl-C in the third step of that epoch of the training with that seed."""

    def batches(*args: Any, **settings: Any) -> Iterator[Any]:
        for number, batch in enumerate(batches_of_an_epoch(*args, **settings)):
            if (settings["seed"], settings["epoch"], number) == (seed, epoch, 2):
                signal.raise_signal(signal.SIGINT)
            yield batch

    patch.setattr(base, "batches", batches)


def assert_same_numbers(one: Run, other: Run) -> None:
    assert one.model.read_bytes() == other.model.read_bytes()
    left, right = (read_checkpoint(run.last_checkpoint) for run in (one, other))
    for name, value in left["model"].items():
        assert torch.equal(value, right["model"][name]), name
    for line in (*left["lines"], *right["lines"]):
        for key in ("seconds", "images_per_second", "waiting_ratio"):  # of this run and machine
            del line[key]
    assert left["lines"] == right["lines"]


def test_stages_give_what_separate_recipes_give(by_hand: Run, tmp_path: Path) -> None:
    run = Run(tmp_path / "run")
    result = train(staged(), run.path, command="tailcut train staged")
    for stage, name in (("cut", "first"), ("on", "second")):
        assert_same_numbers(run.stage(stage), Run(by_hand.path.parent / name))
    assert_same_numbers(run, by_hand)

    assert result == run.read_result()
    assert (result.name, result.epochs, result.num_kept) == ("staged", 6, NUM_KEPT)
    assert result.metrics == by_hand.read_result().metrics
    assert result.start_fingerprint == by_hand.read_result().start_fingerprint
    assert load_recipe(run.recipe) == staged() == Recipe.model_validate(result.recipe)
    for part, recipe in stages_of(staged()).items():
        assert load_recipe(run.stage(part).recipe) == recipe
    lines = [line for part in (run, run.stage("cut"), run.stage("on")) for line in part.read_metrics()]
    assert result.seconds == pytest.approx(sum(line["seconds"] for line in lines), abs=0.02)
    logs = [part.log.read_text(encoding="utf-8") for part in (run.stage("cut"), run.stage("on"), run)]
    said = ["stage cut, 1 of 3", "stage on, 2 of 3", "the last of 3 trainings"]
    assert [[title in log for title in said] for log in logs] == [[title is own for title in said] for own in said]


def test_ctrl_c_in_the_last_validation_of_a_stage_begins_no_other(
    by_hand: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Run(tmp_path / "run")
    validate, calls = base.Trainer._validate, []

    def interrupted(trainer: base.Trainer) -> Any:
        calls.append(trainer.run.path.name)
        if len(calls) == 2:
            signal.raise_signal(signal.SIGINT)
        return validate(trainer)

    with monkeypatch.context() as patch:
        patch.setattr(base.Trainer, "_validate", interrupted)
        with pytest.raises(TrainingError, match=r"after stage cut, epoch 2; 2 finished .* with --resume goes on$"):
            train(staged(), run.path)
    assert calls == ["cut", "cut"]
    assert not run.stage("cut").result.exists()
    train(staged(), run.path, resume=True)
    assert_same_numbers(run, by_hand)


@pytest.mark.parametrize("epoch", [0, 1])
@pytest.mark.parametrize(("seed", "where"), [(1, "stage cut, "), (2, "stage on, "), (3, "")])
def test_resumed_in_any_stage_the_numbers_are_the_same(
    seed: int, where: str, epoch: int, by_hand: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Run(tmp_path / "run")
    what_next = "goes on" if epoch else "begins this stage again"
    with monkeypatch.context() as patch:
        stop_in(patch, seed=seed, epoch=epoch)
        with pytest.raises(TrainingError, match=f"in {where}epoch {epoch + 1}, .* with --resume {what_next}$"):
            train(staged(), run.path)
    assert [run.stage(name).result.is_file() for name in ("cut", "on")] == [seed > 1, seed > 2]
    with pytest.raises(ArgumentError, match="--resume"):
        train(staged(), run.path)
    torch.manual_seed(99)
    train(staged(), run.path, resume=True)
    assert_same_numbers(run, by_hand)


@pytest.mark.parametrize("name", ["cut", "on", "last"])
@pytest.mark.parametrize("moment", ["result", "next"])
def test_resumed_between_two_stages_the_numbers_are_the_same(
    name: str, moment: str, by_hand: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped before the result of a stage is written, or just after."""
    run = Run(tmp_path / "run")
    write = Run.write_result

    def stopped(self: Run, result: Result) -> None:
        is_it = result.name == ("staged" if name == "last" else f"staged-{name}")
        if moment == "next" or not is_it:
            write(self, result)
        if is_it:
            raise TrainingError("stopped")

    with monkeypatch.context() as patch:
        patch.setattr(Run, "write_result", stopped)
        with pytest.raises(TrainingError, match="stopped"):
            train(staged(), run.path)
    stages = [run.stage("cut"), run.stage("on")]
    before = [part.model.stat().st_mtime_ns for part in stages if part.result.is_file()]
    torch.manual_seed(99)
    result = train(staged(), run.path, resume=True)
    assert_same_numbers(run, by_hand)
    assert result.epochs == 6
    # A finished stage is not touched again.
    assert [part.model.stat().st_mtime_ns for part in stages][: len(before)] == before


def test_the_last_training_goes_on_without_the_folders_of_its_stages(by_hand: Run, tmp_path: Path) -> None:
    run = Run(tmp_path / "run")
    train(staged(), run.path)
    shutil.rmtree(run.path / "stages")
    result = train(staged(), run.path, resume=True)
    assert_same_numbers(run, by_hand)
    assert result.epochs == 6


def test_each_stage_has_its_own_trainer(tmp_path: Path) -> None:
    """A network is trained for its metrics, then for bytes."""
    recipe = parse_recipe(FOR_BYTES, source="bytes.toml")
    result = train(recipe, tmp_path / "run")
    run = Run(tmp_path / "run")
    assert {entry.dtype for entry in inspect(run.model).tensors} == {"quantized"}
    assert "quantized" not in {entry.dtype for entry in inspect(run.stage("large").model).tensors}
    assert result.file_bytes <= 2500 < run.stage("large").read_result().file_bytes


def test_what_a_stage_cannot_do_is_told_before_the_training(tmp_path: Path) -> None:
    text = STAGED.replace("epochs = 2, seed = 2 }", "epochs = 2, seed = 2 }\ncompression = { target_bytes = 2500 }")
    with pytest.raises(RecipeError, match=r"stage on: optimizer\.ema_decay"):
        train(parse_recipe(text, source="staged.toml"), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_run_in_its_first_stage_goes_on_with_its_own_recipe_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        stop_in(patch, seed=1, epoch=1)
        with pytest.raises(TrainingError):
            train(staged(), tmp_path / "run")
    other = parse_recipe(STAGED.replace("num_kept = 400", "num_kept = 300"), source="staged.toml")
    with pytest.raises(RecipeError, match=r"stage\.cut\.schedule\.num_kept: 400 and 300"):
        train(other, tmp_path / "run", resume=True)
