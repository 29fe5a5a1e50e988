"""A small recipe on the digits that come with scikit-learn, and one thread, so that numbers repeat."""

from collections.abc import Callable, Iterator

import pytest
import torch

from tailcut.training.recipe.schema import Recipe
from tailcut.training.recipe.toml_files import parse_recipe

RECIPE = """
name = "small"

[model]
name = "lenet300"
arguments = { convolutional = true }

[data]
name = "digits"
holdout = 200
batch_size = 64

[regularization]
num_kept = 4000
initialization = "he"

[schedule]
num_kept = 400
spacing = "geometric"
fraction = 0.5
every = 2

[optimizer]
name = "adam"
lr = 0.02
betas = [0.9, 0.99]
lr_schedule = { name = "one_cycle", warmup = 0.2 }

[training]
epochs = 4
seed = 3

[pack]
dtype = "float16"
other_dtype = "float16"
"""

MakeRecipe = Callable[..., Recipe]


@pytest.fixture
def recipe_text() -> str:
    return RECIPE


@pytest.fixture
def make_recipe() -> MakeRecipe:
    """Makes the small recipe with some values changed: `make_recipe("optimizer.lr=0.1")`."""
    return lambda *overrides: parse_recipe(RECIPE, source="small.toml", overrides=overrides)


@pytest.fixture
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
