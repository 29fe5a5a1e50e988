"""Training for bytes by recipes: the digits, from scratch and from a trained network."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.training.trainer.test_base import assert_same_numbers, train_and_stop
from torch import nn

import tailcut
from tailcut.compression import RateLoss
from tailcut.data import open_dataset
from tailcut.errors import ArgumentError, DivergedError, RecipeError
from tailcut.evaluation import evaluate
from tailcut.format import inspect, load
from tailcut.runs import Run
from tailcut.training.recipe.schema import Recipe
from tailcut.training.recipe.toml_files import parse_recipe
from tailcut.training.setup.build import set_lr
from tailcut.training.train import train
from tailcut.training.trainer.compression import make_optimizer

pytestmark = pytest.mark.usefixtures("one_thread")

RECIPE = """
name = "bytes"

[model]
name = "lenet300"
arguments = { convolutional = true }

[data]
name = "digits"
holdout = 200
batch_size = 64

[regularization]
num_kept = 300
initialization = "he"

[compression]
target_bytes = 900
num_gradients = 20

[optimizer]
name = "adam"
lr = 0.1
betas = [0.9, 0.99]
lr_schedule = { name = "cosine", warmup = 0.05 }

[training]
epochs = 40
validate_every = 20
seed = 3
"""

MakeRecipe = Callable[..., Recipe]


@pytest.fixture
def make_recipe() -> MakeRecipe:
    return lambda *overrides: parse_recipe(RECIPE, source="bytes.toml", overrides=overrides)


def test_from_scratch_and_on_from_there(make_recipe: MakeRecipe, tmp_path: Path) -> None:
    result = train(make_recipe(), tmp_path / "first")
    run = Run(tmp_path / "first")
    assert result.file_bytes == run.model.stat().st_size <= 900
    assert result.file_bytes > 780
    assert result.metrics["accuracy"] > 0.65
    assert result.metrics == evaluate(load(run.model), open_dataset("digits", "test"))
    assert {entry.dtype for entry in inspect(run.model).tensors} == {"quantized"}
    lines = run.read_metrics()
    assert lines[0]["num_bytes"] > lines[-1]["num_bytes"]
    assert lines[-1]["num_bytes"] == pytest.approx(result.file_bytes, rel=0.06)

    smaller = make_recipe("start.file=run:first", "regularization={}", "compression.target_bytes=600")
    result = train(smaller, tmp_path / "second")
    assert result.file_bytes <= 600
    assert result.metrics["accuracy"] > 0.6


def test_networks_with_batch_norm_count_their_statistics(make_recipe: MakeRecipe, tmp_path: Path) -> None:
    """A dense network with running statistics, which are not trained but take bytes."""
    recipe = make_recipe(
        "model={ name = 'lenet5', arguments = { conv_relu = true } }",
        "regularization.exclude=['conv1.weight']",
        "compression.target_bytes=1500",
        "training.epochs=3",
    )
    result = train(recipe, tmp_path / "run")
    assert result.file_bytes <= 1500


@pytest.mark.parametrize("overrides", [(), ("optimizer.name=adamw", "training.execution=fused")])
def test_resumed_after_ctrl_c_a_run_gives_the_same_numbers(
    overrides: tuple[str, ...], make_recipe: MakeRecipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = make_recipe("training.epochs=4", "training.validate_every=1", "compression.target_bytes=1500", *overrides)
    train(recipe, tmp_path / "whole")
    train_and_stop(recipe, tmp_path / "parts", monkeypatch, epoch=2, step=5)
    train(recipe, tmp_path / "parts", resume=True)
    assert_same_numbers(tmp_path / "whole", tmp_path / "parts")


def test_numbers_of_a_checkpoint_are_those_behind_the_rounding(make_recipe: MakeRecipe, tmp_path: Path) -> None:
    train(make_recipe("training.epochs=2", "compression.target_bytes=1500"), tmp_path / "run")
    state = torch.load(Run(tmp_path / "run").last_checkpoint, weights_only=False)
    steps = 2 ** (state["compression"]["log_steps"][0] * 8).round().div(8)
    multiples = state["model"]["fc1.parametrizations.weight.original"] / steps
    assert float((multiples - multiples.round()).abs().max()) > 0.1


@pytest.mark.parametrize(
    ("method", "call", "message"),
    [
        ("_keep_codable", 1, "^not trained on: no number is left. Nothing is saved; train anew"),
        ("_keep_codable", 30, "^not trained on: no number is left. The checkpoint after epoch 1 is kept; train anew"),
        ("_collect_gradients", 3, "^not trained on: no number is left. Nothing is saved; train anew"),
        ("remeasure", 1, "^not trained on: no number is left. The checkpoint after epoch 1 is kept"),
        ("save", 1, "^not packed: no number is left. The checkpoint after epoch 3 is kept; train anew in another"),
    ],
)
def test_numbers_that_training_spoils_end_it_with_advice(
    method: str,
    call: int,
    message: str,
    make_recipe: MakeRecipe,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    original, calls = getattr(RateLoss, method), []

    def lost(*args: Any, **settings: Any) -> Any:
        calls.append(True)
        if len(calls) == call:
            raise ArgumentError("no number is left")
        return original(*args, **settings)

    monkeypatch.setattr(RateLoss, method, lost)
    if method == "remeasure":  # else for networks with running statistics only
        monkeypatch.setattr(RateLoss, "has_untrained", True)
    with pytest.raises(DivergedError, match=message) as caught:
        train(make_recipe("training.epochs=3", "compression.target_bytes=1500"), tmp_path / "run")
    assert "in another folder with a lower optimizer.lr or a larger compression.target_bytes" in str(caught.value)
    assert not Run(tmp_path / "run").result.exists()


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["compression.target_bytes=20"], "compression: the file cannot have 20 bytes"),
        (["schedule={ num_kept = 100, fraction = 0.5 }"], "schedule: has no meaning for training for bytes"),
        (["pack.dtype=float16"], "pack: has no meaning for training for bytes, leave it out; its file is quantised"),
        (["optimizer.ema_decay=0.9"], "optimizer.ema_decay: has no meaning"),
        (["optimizer.name=sgd"], "optimizer.name: training for bytes takes learning rates in steps"),
        (["training.epochs=0"], "training.epochs: training for bytes needs at least one"),
        (["regularization.num_drawn=50"], "regularization.num_drawn: has no meaning"),
    ],
)
def test_what_does_not_go_together_is_said(
    overrides: list[str], message: str, make_recipe: MakeRecipe, tmp_path: Path
) -> None:
    with pytest.raises(RecipeError) as caught:
        train(make_recipe(*overrides), tmp_path / "run")
    assert message in str(caught.value)


def test_the_steps_have_their_own_learning_rate() -> None:
    recipe = parse_recipe(RECIPE, source="x.toml", overrides=["compression.step_lr=0.05"])
    assert recipe.compression is not None
    model = nn.Linear(20, 20)
    rate_loss = tailcut.RateLoss(model, target_bytes=300, num_steps=10)
    optimizer = make_optimizer(recipe, recipe.compression, rate_loss)
    set_lr(optimizer, recipe.optimizer, 0.5)
    lrs = {id(parameter): group["lr"] for group in optimizer.param_groups for parameter in group["params"]}
    assert lrs[id(rate_loss.log_steps)] / lrs[id(model.bias)] == pytest.approx(0.05 / recipe.optimizer.lr)
