from pathlib import Path

import pytest
import torch

import tailcut
from tailcut.data import open_dataset
from tailcut.errors import RecipeError
from tailcut.format.container.numbers import QUANTIZED_DTYPE
from tailcut.runs import Run
from tailcut.tasks.pack import pack
from tailcut.training.recipe.toml_files import parse_recipe
from tailcut.training.train import train

pytestmark = pytest.mark.usefixtures("one_thread")

RECIPE = """
model = { name = "lenet5", arguments = { conv_relu = true } }
data = { name = "digits", batch_size = 64 }
optimizer = { lr = 0.01 }
training = { epochs = 3, validate_every = 3 }
"""
FEW_BYTES = "pack = { max_bytes = 20_000 }"


def test_a_recipe_with_few_bytes_packs_a_small_file_that_works(tmp_path: Path) -> None:
    small = train(parse_recipe(RECIPE + FEW_BYTES, source="a.toml"), tmp_path / "small")
    plain = train(parse_recipe(RECIPE, source="a.toml"), tmp_path / "plain")
    assert 15_000 < small.file_bytes <= 20_000 < plain.file_bytes / 50
    assert plain.metrics["accuracy"] > 0.9
    assert small.metrics["accuracy"] > plain.metrics["accuracy"] - 0.03
    assert {entry.dtype for entry in tailcut.inspect(Run(tmp_path / "small").model).other_tensors} == {QUANTIZED_DTYPE}


def test_its_run_still_gives_the_exact_network(tmp_path: Path) -> None:
    for name, text in (("small", RECIPE + FEW_BYTES), ("plain", RECIPE)):
        train(parse_recipe(text, source="a.toml"), tmp_path / name)
        pack(tmp_path / name, tmp_path / f"{name}.tailcut", dtype="float32", other_dtype="float32")
    exact, same = (tailcut.load(tmp_path / f"{name}.tailcut") for name in ("small", "plain"))
    images = open_dataset("digits", "test").batch(range(50))[0]
    assert torch.equal(exact(images), same(images))
    pack(tmp_path / "small", tmp_path / "again.tailcut")
    assert (tmp_path / "again.tailcut").read_bytes() == Run(tmp_path / "small").model.read_bytes()


def test_a_size_that_no_file_has_is_refused_before_training(tmp_path: Path) -> None:
    recipe = parse_recipe(RECIPE + "pack = { max_bytes = 30 }", source="a.toml")
    with pytest.raises(RecipeError, match=r"could not be packed: .*30 bytes"):
        train(recipe, tmp_path / "run")
    assert not (tmp_path / "run").exists() or not Run(tmp_path / "run").last_checkpoint.exists()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (RECIPE + "pack = { max_bytes = 0 }", "pack.max_bytes"),
        (RECIPE + "pack = { max_bytes = 900, other_dtype = 'float16' }", "leave out dtype and other_dtype"),
        (RECIPE.replace("lenet5", "vae").replace("epochs", "loss = 'vae', epochs") + FEW_BYTES, "classes or masks"),
        (RECIPE + FEW_BYTES + "\ncompression = { target_bytes = 900 }", "quantised"),
    ],
)
def test_few_bytes_that_mean_nothing_are_refused(text: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=message):
        train(parse_recipe(text, source="a.toml"), tmp_path / "run")
