from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from tests.format.networks import registered
from torch import nn

import tailcut
from tailcut.errors import DivergedError, RecipeError
from tailcut.format import load, save
from tailcut.runs import Run
from tailcut.structure import create_model
from tailcut.training.recipe.schema import PackSection, Recipe
from tailcut.training.result import make_result, num_kept, save_trained, trained_on
from tailcut.training.setup.build import build_model
from tailcut.training.train import train
from tailcut.weights import truncate_norms

MakeRecipe = Callable[..., Recipe]


def test_counts_and_bytes_are_those_of_the_file(make_recipe: MakeRecipe, tmp_path: Path) -> None:
    run = Run.create(tmp_path / "run")
    recipe = make_recipe("regularization.num_kept=100", "schedule=", "model.arguments.bias=true")
    save(build_model(recipe), run.model, dtype="float16")
    result = make_result(
        recipe,
        run,
        load(run.model),
        command="tailcut train small",
        device="cpu",
        num_devices=1,
        epochs=recipe.training.epochs,
        seconds=1.23456,
        split_sizes={"train": 10, "validation": 0, "test": 5},
        metrics={"accuracy": 0.5},
        validation={},
    )
    assert (result.num_kept, result.num_parameters, result.num_other) == (300, 266_610, 410)
    assert result.file_bytes == run.model.stat().st_size
    assert result.seconds == 1.235
    assert result.split_sizes == {"train": 10, "test": 5}
    assert result.versions["torch"] == torch.__version__
    assert result.recipe["model"]["arguments"] == {"convolutional": True, "bias": True}
    assert result.paper == {}
    run.write_result(result)
    assert run.read_result() == result


@pytest.mark.parametrize(("override", "kept"), [("", 12000 - 3000), ("regularization=", 266_610)])
def test_kept_numbers_of_a_plain_network_are_all(override: str, kept: int, make_recipe: MakeRecipe) -> None:
    overrides = [override, "schedule="] if override else []
    assert num_kept(build_model(make_recipe(*overrides))) == kept
    assert num_kept(create_model("lenet300", bias=False)) == 266_200


def test_a_number_too_large_for_its_type_says_how_to_keep_the_training(tmp_path: Path) -> None:
    run, model = Run.create(tmp_path / "run"), create_model("lenet300")
    with torch.no_grad():
        model.get_parameter("fc1.weight")[0, 0] = 1e9
    with pytest.raises(
        DivergedError, match=r"not packed: fc1.weight: 1e\+09 does not fit.*tailcut pack .*run -o FILE --dtype"
    ):
        save_trained(model, run.model, run, PackSection(dtype="float16", other_dtype="float16"))
    assert not run.model.exists()
    save_trained(model, run.model, run, PackSection())
    assert run.model.exists()


def test_a_file_of_few_bytes_is_compressed_and_says_when_it_cannot_be(tmp_path: Path) -> None:
    torch.manual_seed(0)
    run, model, inputs = Run.create(tmp_path / "run"), create_model("lenet300"), torch.rand(64, 1, 28, 28).split(8)
    save_trained(model, run.model, run, PackSection(max_bytes=40_000), inputs)
    assert 30_000 < run.model.stat().st_size <= 40_000
    assert torch.nn.functional.cosine_similarity(load(run.model)(inputs[0]), model(inputs[0])).min() > 0.9
    with pytest.raises(DivergedError, match=r"not packed: .*30 bytes.*tailcut pack .* or a larger pack.max_bytes"):
        save_trained(model, run.model, run, PackSection(max_bytes=30), inputs)


def test_the_record_names_each_device_of_the_training() -> None:
    assert trained_on([], "cpu") == "cpu"
    assert trained_on([{"epoch": 1}, {"epoch": 2}], "cpu") == "cpu"  # as older versions wrote them
    lines = [{"device": "NVIDIA H200"}, {"device": "NVIDIA H200"}, {"device": "cpu"}]
    assert trained_on(lines, "cpu") == "NVIDIA H200 and cpu"


def test_coefficients_of_norms_count_beside_those_of_weights(make_recipe: MakeRecipe, tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(20, 16, bias=False), nn.BatchNorm1d(16))
    tailcut.regularize(model, num_kept=30, warn=False)
    truncate_norms(model, 3)
    tailcut.save(model, tmp_path / "a.tailcut")
    run: Any = SimpleNamespace(model=tmp_path / "a.tailcut", start=tmp_path / "none")
    told: dict[str, Any] = {"command": "", "device": "cpu", "num_devices": 1, "epochs": 1, "seconds": 1.0}
    result = make_result(make_recipe(), run, model, **told, split_sizes={}, metrics={}, validation={})
    assert (result.num_kept, result.num_other) == (30, 6)


class Odd(nn.Module):
    """Networks whose class does not make them again, or that no file holds."""

    def __init__(self, *, num_classes: int = 10, odd: str = "meta") -> None:
        super().__init__()
        self.layer = nn.Linear(784, num_classes)
        if odd == "meta":
            self.rates = [value.item() for value in torch.linspace(0, 1, 3)]
        else:
            self.register_buffer(
                "turn", torch.zeros(3, dtype=torch.complex64 if odd == "complex" else None).expand(2, 3)
            )

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.layer(images.flatten(1))
        return out


@pytest.mark.parametrize("odd", ["meta", "complex"])
def test_a_network_that_cannot_be_packed_is_refused_before_the_training(
    odd: str, make_recipe: MakeRecipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with registered("odd", Odd):
        recipe = make_recipe(
            f"model={{ name = 'odd', arguments = {{ odd = '{odd}' }} }}", "regularization=", "schedule="
        )
        monkeypatch.setattr("tailcut.training.trainer.base.Trainer.train_epochs", None)
        with pytest.raises(RecipeError, match=r"^model: the trained network could not be packed: "):
            train(recipe, tmp_path / "run")


def test_a_buffer_whose_numbers_share_memory_is_no_reason_to_refuse(make_recipe: MakeRecipe, tmp_path: Path) -> None:
    with registered("odd", Odd):
        model = "model={ name = 'odd', arguments = { odd = 'expanded' } }"
        train(make_recipe(model, "regularization=", "schedule=", "training.epochs=1"), tmp_path / "run")
    assert (tmp_path / "run" / "model.tailcut").is_file()
