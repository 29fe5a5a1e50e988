import json
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from tailcut.data import open_dataset, split_off
from tailcut.errors import ArgumentError, RecipeError, TailcutError, TrainingError
from tailcut.evaluation import evaluate
from tailcut.format import inspect, load, save
from tailcut.runs import Run
from tailcut.structure import create_model
from tailcut.training.batches import batches as batches_of_an_epoch
from tailcut.training.checkpoints import read_checkpoint
from tailcut.training.recipe.schema import Recipe
from tailcut.training.recipe.toml_files import parse_recipe, to_toml
from tailcut.training.setup import data as setup_data
from tailcut.training.train import train
from tailcut.training.trainer import base
from tailcut.training.trainer.base import Trainer
from tailcut.training.trainer.classification import ClassificationTrainer
from tailcut.training.trainer.compression import CompressionTrainer
from tailcut.training.trainer.detection import DetectionTrainer
from tailcut.training.trainer.gan import GanTrainer

MakeRecipe = Callable[..., Recipe]

pytestmark = pytest.mark.usefixtures("one_thread")

# Everything that has a state which must survive a restart.
VARIANTS = {
    "geometric": (),
    "paper": ("schedule.spacing=paper", "schedule.every=epoch"),
    "average": ("optimizer.ema_decay=0.9", "optimizer.clip_norm=1.0"),
    "rounded": ("training.round_from=0.5", "data.augmentation={ shift = 2, flip = true }"),
    "sgd": ("optimizer.name=sgd", "optimizer.lr_schedule.name=cosine"),
    "gamma": ("schedule={ num_kept = 400, gamma = 0.3 }",),
    "workers": ("data.workers=1",),
    "drawn": ("pruning.rates=0.2", "regularization.num_drawn=300", "schedule="),
}


def train_and_stop(recipe: Recipe, out: Path, monkeypatch: pytest.MonkeyPatch, *, epoch: int, step: int) -> str:
    """Train, and press Ctrl-C before that step (both counted from 0). Returns what the user is told."""
    original = batches_of_an_epoch

    def batches(*args: Any, **settings: Any) -> Iterator[Any]:
        for number, batch in enumerate(original(*args, **settings)):
            if settings["epoch"] == epoch and number == step:
                signal.raise_signal(signal.SIGINT)
            yield batch

    with monkeypatch.context() as patch:
        patch.setattr(base, "batches", batches)
        with pytest.raises(TrainingError) as caught:
            train(recipe, out)
    assert not multiprocessing.active_children()
    return str(caught.value)


def assert_same_numbers(one: Path, other: Path) -> None:
    """Equal packed files, and equal float32 coefficients in the last checkpoints."""
    assert Run(one).model.read_bytes() == Run(other).model.read_bytes()
    left, right = (read_checkpoint(Run(path).last_checkpoint) for path in (one, other))
    assert left["model"].keys() == right["model"].keys()
    for name, value in left["model"].items():
        assert torch.equal(value, right["model"][name]), name
    for line in (*left["lines"], *right["lines"]):
        for key in ("seconds", "images_per_second", "waiting_ratio"):  # of this run and machine
            del line[key]
    assert left["lines"] == right["lines"]


@pytest.mark.curves
def test_a_run_leaves_everything_its_folder_promises(make_recipe: MakeRecipe, tmp_path: Path) -> None:
    recipe = make_recipe("paper={ source = 'Table 1', metrics = { accuracy = 0.9 } }")
    result = train(recipe, tmp_path / "run", command="tailcut train small")

    run = Run(tmp_path / "run")
    assert parse_recipe(run.recipe.read_text(), source="recipe.toml") == recipe
    assert run.read_result() == result
    assert run.curves.read_bytes().startswith(b"\x89PNG")
    assert "epoch 4/4" in run.log.read_text()
    assert sorted(path.name for path in run.checkpoints.iterdir()) == ["last.pt", "previous.pt"]
    assert read_checkpoint(run.last_checkpoint)["epoch"] == 4
    assert read_checkpoint(run.previous_checkpoint)["epoch"] == 3

    lines = run.read_metrics()
    assert [line["epoch"] for line in lines] == [1, 2, 3, 4]
    assert {line["split"] for line in lines} == {"validation"}
    kept = [line["num_kept"] for line in lines]
    assert kept == sorted(kept, reverse=True)
    assert kept[-1] == 1200
    assert lines[-1]["loss"] < lines[0]["loss"]
    assert all(line["images_per_second"] > 0 and 0 < line["waiting_ratio"] <= 1 for line in lines)
    assert "images/s, " in run.log.read_text()

    assert result.num_kept == 1200
    assert result.num_parameters == 266_610
    assert result.num_other == 410
    assert result.file_bytes == run.model.stat().st_size
    assert result.split_sizes == {"train": 1242, "validation": 200, "test": 355}
    assert result.command == "tailcut train small"
    assert result.paper == {"source": "Table 1", "metrics": {"accuracy": 0.9}}


def test_the_figures_are_those_of_the_packed_file(make_recipe: MakeRecipe, tmp_path: Path) -> None:
    result = train(make_recipe(), tmp_path / "run")

    packed = load(tmp_path / "run" / "model.tailcut")
    held_out = split_off(open_dataset("digits", "train"), 200)[1]
    assert result.metrics == evaluate(packed, open_dataset("digits", "test"))
    assert result.validation == evaluate(packed, held_out)
    assert result.metrics["accuracy"] > 0.5
    assert {entry.dtype for entry in inspect(tmp_path / "run" / "model.tailcut").tensors} == {"float16"}


def test_the_same_recipe_gives_the_same_file(make_recipe: MakeRecipe, tmp_path: Path) -> None:
    train(make_recipe("training.epochs=2"), tmp_path / "one")
    train(make_recipe("training.epochs=2"), tmp_path / "two")
    train(make_recipe("training.epochs=2", "training.seed=4"), tmp_path / "other")

    assert_same_numbers(tmp_path / "one", tmp_path / "two")
    assert Run(tmp_path / "one").model.read_bytes() != Run(tmp_path / "other").model.read_bytes()


@pytest.mark.parametrize("variant", VARIANTS)
def test_resumed_after_ctrl_c_a_run_gives_the_same_numbers(
    variant: str, make_recipe: MakeRecipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = make_recipe(*VARIANTS[variant])
    train(recipe, tmp_path / "whole")

    message = train_and_stop(recipe, tmp_path / "parts", monkeypatch, epoch=1, step=3)
    assert "epoch 2, step 4" in message
    assert "--resume" in message
    assert message in (tmp_path / "parts" / "log.txt").read_text()
    assert "1 finished epoch is saved" in message
    train(recipe, tmp_path / "parts", resume=True)

    assert_same_numbers(tmp_path / "whole", tmp_path / "parts")


def test_with_fewer_checkpoints_a_run_resumes_from_the_newest(
    make_recipe: MakeRecipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = make_recipe("training.epochs=5", "training.checkpoint_every=2")
    train(recipe, tmp_path / "whole")
    assert read_checkpoint(Run(tmp_path / "whole").last_checkpoint)["epoch"] == 5
    assert read_checkpoint(Run(tmp_path / "whole").previous_checkpoint)["epoch"] == 4

    message = train_and_stop(recipe, tmp_path / "parts", monkeypatch, epoch=3, step=2)
    assert "epoch 4, step 3; 2 finished epochs are saved" in message
    assert len(Run(tmp_path / "parts").read_metrics()) == 3
    train(recipe, tmp_path / "parts", resume=True)
    assert_same_numbers(tmp_path / "whole", tmp_path / "parts")

    message = train_and_stop(recipe, tmp_path / "early", monkeypatch, epoch=1, step=2)
    assert "no epoch is saved yet: the same command with --resume begins again" in message
    train(recipe, tmp_path / "early", resume=True)
    assert_same_numbers(tmp_path / "whole", tmp_path / "early")


def test_a_run_stopped_in_its_first_epoch_begins_again(
    make_recipe: MakeRecipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = make_recipe("training.epochs=2")
    train(recipe, tmp_path / "whole")
    message = train_and_stop(recipe, tmp_path / "parts", monkeypatch, epoch=0, step=2)
    assert "no epoch is finished yet: the same command with --resume begins again" in message
    train(recipe, tmp_path / "parts", resume=True)
    assert_same_numbers(tmp_path / "whole", tmp_path / "parts")


def signal_in(patch: pytest.MonkeyPatch, owner: type, method: str, number: signal.Signals, *, call: int = 1) -> None:
    """Let that signal come as a trainer begins the method for the n-th time."""
    original, calls = getattr(owner, method), []

    def interrupted(self: Trainer, *args: Any) -> Any:
        calls.append(True)
        if len(calls) == call:
            signal.raise_signal(number)
        return original(self, *args)

    patch.setattr(owner, method, interrupted)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_in_the_last_validation_stops_before_packing(
    number: signal.Signals, make_recipe: MakeRecipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = make_recipe("training.epochs=2")
    train(recipe, tmp_path / "whole")
    run = Run(tmp_path / "parts")
    with monkeypatch.context() as patch:
        signal_in(patch, Trainer, "_validate", number, call=2)
        with pytest.raises(TrainingError) as caught:
            train(recipe, run.path)
    message = str(caught.value)
    assert message.startswith("interrupted after epoch 2; 2 finished epochs are saved in ")
    assert message.endswith(": the same command with --resume goes on")
    assert message in run.log.read_text()
    assert not run.model.exists()
    train(recipe, run.path, resume=True)
    assert_same_numbers(tmp_path / "whole", run.path)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize(
    ("method", "said"),
    [
        ("_restore", "interrupted; nothing is saved yet: the same command with --resume begins again"),
        ("_pack", "interrupted; what is finished is saved in {run}: the same command with --resume goes on"),
    ],
)
def test_ctrl_c_before_and_after_the_steps_says_how_to_go_on(
    method: str,
    said: str,
    number: signal.Signals,
    make_recipe: MakeRecipe,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    recipe, run = make_recipe("training.epochs=1"), Run(tmp_path / "run")
    owner = ClassificationTrainer if method == "_pack" else Trainer
    with monkeypatch.context() as patch:
        signal_in(patch, owner, method, number)
        with pytest.raises(TrainingError) as caught:
            train(recipe, run.path)
    assert str(caught.value) == said.format(run=run.path)
    assert str(caught.value) in run.log.read_text()
    assert not run.result.exists()
    assert train(recipe, run.path, resume=True) == run.read_result()


def test_a_second_ctrl_c_stops_at_once(
    make_recipe: MakeRecipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def batches(*args: Any, **settings: Any) -> Iterator[Any]:
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)
        yield

    monkeypatch.setattr(base, "batches", batches)
    before = signal.getsignal(signal.SIGINT)  # a shell's background jobs ignore it
    with pytest.raises(KeyboardInterrupt):
        train(make_recipe(), tmp_path / "run")
    assert signal.getsignal(signal.SIGINT) is before


def test_a_damaged_last_checkpoint_falls_back_to_the_one_before(
    make_recipe: MakeRecipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = make_recipe()
    train(recipe, tmp_path / "whole")
    train_and_stop(recipe, tmp_path / "parts", monkeypatch, epoch=3, step=0)
    last = Run(tmp_path / "parts").last_checkpoint
    last.write_bytes(last.read_bytes()[:1000])
    train(recipe, tmp_path / "parts", resume=True)
    assert_same_numbers(tmp_path / "whole", tmp_path / "parts")


def command(recipe: Path, out: Path, *words: str) -> list[str]:
    python = [sys.executable, "-m", "tailcut.cli", "train", str(recipe), "--out", str(out), "--accelerator", "cpu"]
    return [*python, *words]


@pytest.mark.slow
def test_killed_at_a_random_moment_and_resumed_a_run_gives_the_same_numbers(
    make_recipe: MakeRecipe, tmp_path: Path
) -> None:
    recipe = make_recipe("training.epochs=12", "optimizer.ema_decay=0.9", "data.augmentation.shift=1")
    train(recipe, tmp_path / "whole")
    (tmp_path / "small.toml").write_text(to_toml(recipe))

    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    words = command(tmp_path / "small.toml", tmp_path / "parts")
    with subprocess.Popen(words, env=environment, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL) as process:
        run = Run(tmp_path / "parts")
        deadline = time.monotonic() + 120
        while not run.metrics.exists() and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.01)
        time.sleep(random.uniform(0, 0.5))
        process.kill()
    assert run.metrics.exists()

    train(recipe, tmp_path / "parts", resume=True)
    assert_same_numbers(tmp_path / "whole", tmp_path / "parts")
    assert [path.name for path in run.checkpoints.iterdir() if path.name.startswith(".")] == []


@pytest.mark.slow
def test_two_processes_give_what_one_gives(make_recipe: MakeRecipe, tmp_path: Path) -> None:
    # Plain SGD: Adam divides by gradients near zero, which turns rounding into other numbers.
    changes = ["training.epochs=2", "data.augmentation.shift=1", "optimizer.name=sgd", "pruning.rates=0.2"]
    recipe = make_recipe(*changes)
    one = train(recipe, tmp_path / "one")
    (tmp_path / "small.toml").write_text(to_toml(recipe))

    words = command(tmp_path / "small.toml", tmp_path / "two", "--devices", "2", "--strategy", "ddp", "--json")
    done = subprocess.run(
        words, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
    two = json.loads(done.stdout)

    assert two["num_devices"] == 2
    assert two["num_kept"] == one.num_kept
    assert two["metrics"]["accuracy"] == pytest.approx(one.metrics["accuracy"], abs=0.01)
    left, right = (read_checkpoint(tmp_path / name / "checkpoints" / "last.pt") for name in ("one", "two"))
    for name, value in left["model"].items():
        torch.testing.assert_close(value, right["model"][name], rtol=1e-3, atol=1e-4)
    assert len(right["random"]["torch"]) == 2


def test_a_loss_that_is_no_number_stops_the_run_and_keeps_the_last_checkpoint(
    make_recipe: MakeRecipe, tmp_path: Path
) -> None:
    explodes = "optimizer.lr_schedule={ name = 'multistep', milestones = [0.5], factor = 1e30 }"
    with pytest.raises(TrainingError, match=r"loss is nan in epoch 3, step \d+, at learning rate 2e\+28") as caught:
        train(make_recipe(explodes), tmp_path / "run")
    assert "after epoch 2 is kept" in str(caught.value)
    assert "optimizer.lr" in str(caught.value)
    state = read_checkpoint(Run(tmp_path / "run").last_checkpoint)
    assert state["epoch"] == 2
    assert all(value.isfinite().all() for value in state["model"].values())
    assert not Run(tmp_path / "run").model.exists()


def test_splits_of_other_classes_are_refused(
    make_recipe: MakeRecipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    test_data = open_dataset("digits", "test")
    test_data.class_names = tuple(reversed(test_data.class_names))
    splits = {"train": open_dataset("digits", "train"), "test": test_data}
    monkeypatch.setattr(setup_data, "open_dataset", lambda name, split, **_: splits[split])
    with pytest.raises(
        RecipeError, match=r"data\.test_split: class 0 is '0' in split train of digits and '9' in split"
    ):
        train(make_recipe(), tmp_path / "run")
    assert not Run(tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("optimizer.lr_schedule.name=constant", r"^optimizer\.lr_schedule\.warmup: has no meaning for"),
        ("training.statistics_images=64", r"^training\.statistics_images: has no meaning for a network without"),
        ("data.augmentation.shift=28", r"^data\.augmentation\.shift: must be less than 28"),
    ],
)
def test_settings_without_effect_begin_no_run(
    override: str, message: str, make_recipe: MakeRecipe, tmp_path: Path
) -> None:
    with pytest.raises(RecipeError, match=message):
        train(make_recipe(override), tmp_path / "run")
    assert not Run(tmp_path / "run").exists()


def test_the_log_names_settings_of_another_optimiser(make_recipe: MakeRecipe, tmp_path: Path) -> None:
    train(make_recipe("training.epochs=0", "optimizer.name=sgd"), tmp_path / "run")
    assert "WARNING optimizer.betas has no effect: optimizer.name is sgd" in Run(tmp_path / "run").log.read_text()


def test_a_finished_run_is_not_trained_again(make_recipe: MakeRecipe, tmp_path: Path) -> None:
    recipe = make_recipe("training.epochs=1")
    first = train(recipe, tmp_path / "run")
    second = train(recipe, tmp_path / "run", resume=True)
    assert second == first


def test_a_folder_with_a_run_is_refused_without_resume(make_recipe: MakeRecipe, tmp_path: Path) -> None:
    train(make_recipe("training.epochs=1"), tmp_path / "run")
    with pytest.raises(ArgumentError, match="--resume"):
        train(make_recipe("training.epochs=1"), tmp_path / "run")


def test_a_run_goes_on_with_its_own_recipe_only(make_recipe: MakeRecipe, tmp_path: Path) -> None:
    train(make_recipe("training.epochs=1"), tmp_path / "run")
    with pytest.raises(RecipeError, match=r"optimizer\.lr: 0\.02 and 0\.03"):
        train(make_recipe("training.epochs=1", "optimizer.lr=0.03"), tmp_path / "run", resume=True)


def test_a_reference_recipe_trains_without_regularization(recipe_text: str, tmp_path: Path) -> None:
    before, rest = recipe_text.split("[regularization]")
    text = f"{before}[optimizer]{rest.split('[optimizer]')[1]}"
    recipe = parse_recipe(text, source="reference", overrides=["training.epochs=1", "training.channels_last=true"])
    result = train(recipe, tmp_path / "run")
    assert result.num_kept == 0
    assert result.num_other == result.num_parameters == 266_610
    assert Run(tmp_path / "run").read_metrics()[0]["num_kept"] == 266_610


def test_without_epochs_the_network_is_cut_packed_and_evaluated(make_recipe: MakeRecipe, tmp_path: Path) -> None:
    recipe = make_recipe("training.epochs=0", "optimizer.ema_decay=0.9", "training.round_from=0.5")
    result = train(recipe, tmp_path / "run")
    assert (result.epochs, result.seconds, result.num_kept) == (0, 0, 1200)
    assert result.metrics == evaluate(load(tmp_path / "run" / "model.tailcut"), open_dataset("digits", "test"))
    assert Run(tmp_path / "run").read_metrics() == []
    assert train(recipe, tmp_path / "run", resume=True) == result


def test_without_holdout_the_test_split_is_shown_and_said(make_recipe: MakeRecipe, tmp_path: Path) -> None:
    result = train(make_recipe("training.epochs=3", "data.holdout=0", "training.validate_every=2"), tmp_path / "run")
    assert [line["split"] for line in Run(tmp_path / "run").read_metrics()] == ["", "test", "test"]
    assert result.validation == {}
    assert result.split_sizes == {"train": 1442, "test": 355}


def test_a_name_with_dollars_and_a_folder_that_is_no_utf8_lose_no_result(tmp_path: Path) -> None:
    out = tmp_path / os.fsdecode(b"caf\xe9")
    words = ["train", "demo/digits", "--out", str(out), "--set", "training.epochs=1", "--set", "name=costs $5_{ $"]
    # In a process of its own: what a test prints must be UTF-8.
    outcome = subprocess.run(
        [sys.executable, "-m", "tailcut", *words, "--accelerator", "cpu"], capture_output=True, check=False
    )
    assert outcome.returncode == 0, ascii(outcome.stderr)
    assert b"Logging error" not in outcome.stderr
    result = Run(out).read_result()
    assert result.name == "costs $5_{ $"
    assert str(out) in result.command
    assert Run(out).curves.is_file()


def test_bfloat16_autocast_trains(make_recipe: MakeRecipe, tmp_path: Path) -> None:
    result = train(make_recipe("training.precision=bf16"), tmp_path / "run")
    assert result.metrics["accuracy"] > 0.5


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ('name = "lenet5"\narguments = { num_classes = 9 }', r"digits has 10 classes.* gives \(64, 9\)"),
        ('name = "resnet20"', r"the network cannot take images of shape \(64, 1, 28, 28\): .*channels"),
    ],
)
def test_a_network_that_does_not_fit_the_data_is_reported(
    model: str, message: str, recipe_text: str, tmp_path: Path
) -> None:
    head, rest = recipe_text.split("[model]")[0], recipe_text.split("[data]")[1]
    data = rest.split("[regularization]")[0]
    text = f'{head}[model]\n{model}\n[data]{data}[optimizer]\nname = "adam"\nlr = 0.01\n[training]\nepochs = 1\n'
    with pytest.raises(ArgumentError, match=message):
        train(parse_recipe(text, source="text", overrides=["data.batch_size=64"]), tmp_path / "run", progress=False)


def write_masks(root: Path) -> None:
    """Ten images of 32 x 32 with their masks, as the data set carvana lies there."""
    for split, seeds in (("train", range(8)), ("val", range(8, 10))):
        for kind in ("images", "masks"):
            (root / "carvana" / split / kind).mkdir(parents=True)
        for seed in seeds:
            mask = np.zeros((32, 32), dtype=np.uint8)
            mask[seed : seed + 12, 5:20] = 255
            Image.fromarray(mask).save(root / "carvana" / split / "masks" / f"{seed}.png")
            image = np.stack([mask // 2 + 60, mask, 255 - mask], axis=2)
            Image.fromarray(image).save(root / "carvana" / split / "images" / f"{seed}.png")


def test_masks_are_learned(recipe_text: str, tmp_path: Path) -> None:
    write_masks(tmp_path)
    overrides = [
        "model={ name = 'unet', arguments = { widths = [4, 8], running_stats = false } }",
        "data={ name = 'carvana', batch_size = 2, augmentation = { shift = 2, flip = true } }",
        "training={ epochs = 6, loss = 'dice_bce', channels_last = true }",
        "schedule.num_kept=60",
    ]
    recipe = parse_recipe(recipe_text, source="masks", overrides=overrides)
    result = train(recipe, tmp_path / "run", roots=tmp_path)
    assert list(result.metrics) == ["dice"]
    assert result.metrics["dice"] > 0.7
    hiding = parse_recipe(recipe_text, source="masks", overrides=[*overrides, "data.augmentation.cutout=4"])
    with pytest.raises(RecipeError, match=r"^data\.augmentation\.cutout: hides what masks ask for"):
        train(hiding, tmp_path / "hiding", roots=tmp_path)
    assert Run(tmp_path / "run").read_metrics()[-1]["metrics"] == pytest.approx(result.metrics, abs=0.01)


COARSE = "data.coarse.fraction=0.6"


def test_images_are_coarse_in_the_first_epochs(
    recipe_text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_masks(tmp_path)
    monkeypatch.setenv("TAILCUT_DATA", str(tmp_path))
    overrides = [
        "model={ name = 'unet', arguments = { widths = [4, 8], running_stats = false } }",
        "data={ name = 'carvana', batch_size = 2, augmentation = { shift = 2 } }",
        "training={ epochs = 3, loss = 'dice_bce' }",
        "schedule.num_kept=60",
        COARSE,
    ]
    recipe = parse_recipe(recipe_text, source="coarse", overrides=overrides)
    sizes: list[tuple[torch.Size, torch.Size]] = []

    def watched(*args: Any, **settings: Any) -> Iterator[Any]:
        for batch in batches_of_an_epoch(*args, **settings):
            sizes.append((batch[0].shape, batch[1].shape))
            yield batch

    with monkeypatch.context() as patch:
        patch.setattr(base, "batches", watched)
        train(recipe, tmp_path / "run")
    assert sizes == [((2, 3, 16, 16), (2, 16, 16))] * 8 + [((2, 3, 32, 32), (2, 32, 32))] * 4
    lines = (tmp_path / "run" / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line)["coarse"] for line in lines] == [2, 2, 1]

    train_and_stop(recipe, tmp_path / "stopped", monkeypatch, epoch=2, step=1)
    train(recipe, tmp_path / "stopped", resume=True)
    assert_same_numbers(tmp_path / "run", tmp_path / "stopped")


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ([COARSE], r"cannot take images of shape \(64, 1, 14, 14\) \(2 times smaller by data.coarse\)"),
        ([COARSE, "data.coarse.factor=29"], "data.coarse.factor: must be at most 28, a side of the images, got 29"),
        (
            [COARSE, "model={ name = 'vae' }", "training.loss=vae"],
            "data.coarse: has no meaning for training.loss 'vae'",
        ),
    ],
)
def test_coarse_images_that_do_not_fit(overrides: list[str], message: str, recipe_text: str, tmp_path: Path) -> None:
    with pytest.raises(TailcutError, match=message):
        train(parse_recipe(recipe_text, source="coarse", overrides=overrides), tmp_path / "run", progress=False)


def test_a_teacher_changes_what_is_learned(make_recipe: MakeRecipe, tmp_path: Path) -> None:
    torch.manual_seed(0)
    save(create_model("lenet300"), tmp_path / "teacher.tailcut")
    train(make_recipe("training.epochs=1"), tmp_path / "plain")
    teacher = f"distillation={{ teacher = '{tmp_path / 'teacher.tailcut'}', temperature = 2.0, weight = 0.5 }}"
    train(make_recipe("training.epochs=1", teacher), tmp_path / "taught")
    assert Run(tmp_path / "plain").model.read_bytes() != Run(tmp_path / "taught").model.read_bytes()


def test_a_late_cut_is_said(make_recipe: MakeRecipe, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    train(make_recipe("training.epochs=1", "schedule={ num_kept = 400, gamma = 0.01 }"), tmp_path / "run")
    assert "came after the last epoch" in caplog.text


@pytest.mark.parametrize("held_out", [0, 200])
def test_a_file_that_is_worse_than_the_trained_network_is_said(
    held_out: int, make_recipe: MakeRecipe, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    overrides = ("training.epochs=2", f"data.holdout={held_out}")
    train(make_recipe(*overrides), tmp_path / "good")
    assert "the packed network has" not in caplog.text
    train(make_recipe(*overrides, "schedule={ num_kept = 50, gamma = 0.01 }"), tmp_path / "cut")
    lines = Run(tmp_path / "cut").read_metrics()
    packed = Run(tmp_path / "cut").read_result()
    figure = (packed.validation if held_out else packed.metrics)["accuracy"]
    assert figure < lines[-1]["metrics"]["accuracy"] - 0.02
    expected = f"the packed network has accuracy {100 * figure:.2f} %, after the last epoch the trained one had "
    assert expected in caplog.text


def test_other_threads_are_said(make_recipe: MakeRecipe, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    train(make_recipe("training.epochs=1"), tmp_path / "run")
    torch.set_num_threads(2)
    train(make_recipe("training.epochs=1"), tmp_path / "run", resume=True)
    assert "began with 1 threads and goes on with 2" in caplog.text


TRAINERS = [ClassificationTrainer, CompressionTrainer, DetectionTrainer, GanTrainer]


@pytest.mark.parametrize("kind", TRAINERS)
def test_a_trainer_is_final_and_overrides_abstract_methods_only(kind: type[Trainer]) -> None:
    assert kind.__mro__[1] is Trainer
    assert getattr(kind, "__final__", False)
    assert not kind.__abstractmethods__
    overridden = {name for name in vars(kind) if callable(vars(Trainer).get(name)) and not name.startswith("__")}
    assert overridden == Trainer.__abstractmethods__


def test_no_other_trainer_exists() -> None:
    assert set(Trainer.__subclasses__()) == set(TRAINERS)


def test_epochs_are_validated_with_the_averaged_numbers(make_recipe: MakeRecipe, tmp_path: Path) -> None:
    recipe = make_recipe(
        "optimizer.ema_decay=0.999",
        "training.epochs=1",
        "schedule=",
        "optimizer.lr_schedule={ name = 'constant' }",
        "pack={ dtype = 'float32', other_dtype = 'float32' }",
    )
    result = train(recipe, tmp_path / "run")
    last = Run(tmp_path / "run").read_metrics()[-1]
    assert last["metrics"] == (result.metrics if last["split"] == "test" else result.validation)


def test_the_state_of_the_precision_comes_back() -> None:
    """Of fp16 alone it holds something, which runs on a GPU alone."""

    class Precision:
        def load_state_dict(self, state: dict[str, float]) -> None:
            self.state = state

    precision, model = Precision(), nn.Linear(2, 2)
    fabric = SimpleNamespace(strategy=SimpleNamespace(precision=precision), global_rank=0)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    part: Any = SimpleNamespace(
        model=model, schedule=None, average=None, stateful={}, optimizer=optimizer, fabric=fabric
    )
    state = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "scaler": {"scale": 7.0}}
    Trainer._apply(part, {**state, "epoch": 1, "lines": [], "random": {"torch": []}})
    assert precision.state == {"scale": 7.0}
