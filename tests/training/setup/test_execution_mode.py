import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from tailcut.errors import ArgumentError, RecipeError, TrainingError
from tailcut.execution import FusedNetwork
from tailcut.execution.cpu.compiled import is_installed
from tailcut.runs import Run
from tailcut.structure import create_model
from tailcut.training.losses import total_loss
from tailcut.training.recipe.schema import Recipe
from tailcut.training.setup import execution_mode
from tailcut.training.setup.execution_mode import COMPILED, FUSED, choose_execution, example_batch, trained_as
from tailcut.training.train import train
from tailcut.training.trainer import image_network
from tailcut.weights import regularize

MakeRecipe = Callable[..., Recipe]
FUSED_HERE = COMPILED if is_installed() else FUSED


def test_small_layers_train_densely_and_wide_ones_with_small_corners_fused(make_recipe: MakeRecipe) -> None:
    recipe = make_recipe()
    model = create_model("unet", widths=(64, 128), bias=False)
    images = torch.zeros(2, 3, 64, 64)
    regularize(model, num_kept=33)
    assert choose_execution(recipe, model, images) == FUSED_HERE
    assert choose_execution(recipe, model, images[:, :, :4, :4]) == "dense"


def test_the_question_changes_nothing(make_recipe: MakeRecipe) -> None:
    model = create_model("unet", widths=(64, 128), bias=False)
    regularize(model, num_kept=33)
    model.eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    images = torch.rand(2, 3, 64, 64)
    state = torch.get_rng_state()
    choose_execution(make_recipe(), model, images)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), state)
    assert not model.training


def test_the_recipe_has_the_last_word(make_recipe: MakeRecipe) -> None:
    model = create_model("lenet300")
    images = torch.zeros(4, 1, 28, 28)
    assert choose_execution(make_recipe("training.execution=fused"), model, images) == FUSED_HERE
    regularize(model, num_kept=5)
    assert choose_execution(make_recipe("training.execution=dense"), model, images) == "dense"


def test_mixed_precision_and_plain_networks_train_densely(make_recipe: MakeRecipe) -> None:
    model = create_model("unet", widths=(64, 128), bias=False)
    images = torch.zeros(2, 3, 64, 64)
    assert choose_execution(make_recipe(), model, images) == "dense"
    regularize(model, num_kept=33)
    assert choose_execution(make_recipe("training.precision=bf16"), model, images) == "dense"


def test_fused_needs_coefficients_and_full_precision(make_recipe: MakeRecipe, recipe_text: str) -> None:
    with pytest.raises(RecipeError, match=r"fused.*fp32"):
        make_recipe("training.execution=fused", "training.precision=bf16")


def test_what_trains_shares_its_parameters(make_recipe: MakeRecipe) -> None:
    model = create_model("lenet300")
    regularize(model, num_kept=5)
    fused = trained_as("fused", model)
    assert isinstance(fused, FusedNetwork)
    assert {id(value) for value in fused.parameters()} == {id(value) for value in model.parameters()}
    assert trained_as("dense", model) is model


def test_compiled_loops_are_for_cpus_with_numba(make_recipe: MakeRecipe, monkeypatch: pytest.MonkeyPatch) -> None:
    model = create_model("lenet300")
    regularize(model, num_kept=5)
    recipe = make_recipe("training.execution=fused")
    assert choose_execution(recipe, model, torch.zeros(4, 1, 28, 28, device="meta")) == FUSED
    monkeypatch.setattr(execution_mode, "is_installed", lambda: False)
    assert choose_execution(recipe, model, torch.zeros(4, 1, 28, 28)) == FUSED
    with pytest.raises(TrainingError, match=r"install '\.\[fast\]'.*begin anew"):
        trained_as(COMPILED, model)


def test_a_batch_is_shared_by_the_processes(make_recipe: MakeRecipe) -> None:
    batch = example_batch(make_recipe("data.batch_size=64"), (1, 28, 28), 2, torch.device("cpu"))
    assert batch.shape == (32, 1, 28, 28)


def test_a_fused_training_follows_the_dense_one(make_recipe: MakeRecipe, tmp_path: Path) -> None:
    results = {
        way: train(make_recipe(f"training.execution={way}", "training.epochs=1", "schedule.fraction=1"), tmp_path / way)
        for way in ("dense", "fused")
    }
    lines = {way: Run(tmp_path / way).metrics.read_text() for way in results}
    assert f'"execution": "{FUSED_HERE}"' in lines["fused"]
    assert '"execution": "dense"' in lines["dense"]
    assert results["fused"].metrics["accuracy"] == pytest.approx(results["dense"].metrics["accuracy"], abs=0.1)


def stop_at_call(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """Let the training fail in its `number`-th step."""
    calls = 0

    def failing(*args: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == number:
            raise TrainingError("stopped")
        return total_loss(*args)

    monkeypatch.setattr(image_network, "total_loss", failing)


def test_a_fused_training_resumes_to_the_same_bytes(
    make_recipe: MakeRecipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = make_recipe("training.execution=fused", "training.epochs=2")
    train(recipe, tmp_path / "whole")
    stop_at_call(monkeypatch, 25)
    with pytest.raises(TrainingError, match="stopped"):
        train(recipe, tmp_path / "parts")
    monkeypatch.undo()
    train(recipe, tmp_path / "parts", resume=True)
    assert (tmp_path / "parts" / "model.tailcut").read_bytes() == (tmp_path / "whole" / "model.tailcut").read_bytes()


def test_a_resumed_training_keeps_its_decision(
    make_recipe: MakeRecipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = make_recipe("training.epochs=2", "schedule.num_kept=4000")  # nothing is shortened, nothing asked again
    stop_at_call(monkeypatch, 25)
    monkeypatch.setattr(image_network, "choose_execution", lambda *args: "fused")
    with pytest.raises(TrainingError, match="stopped"):
        train(recipe, tmp_path / "run")
    monkeypatch.undo()
    monkeypatch.setattr(image_network, "choose_execution", lambda *args: "dense")
    train(recipe, tmp_path / "run", resume=True)
    lines = [json.loads(line) for line in Run(tmp_path / "run").metrics.read_text().splitlines()]
    assert [line["execution"] for line in lines] == ["fused", "fused"]


def test_images_that_do_not_fit_are_one_clear_error(make_recipe: MakeRecipe) -> None:
    model = create_model("resnet20")
    regularize(model, num_kept=20)
    with pytest.raises(ArgumentError, match=r"cannot take images of shape \(4, 1, 28, 28\): .*channels"):
        choose_execution(make_recipe(), model, torch.zeros(4, 1, 28, 28))
