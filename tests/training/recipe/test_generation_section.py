from typing import Any

import pytest

from tailcut.errors import RecipeError
from tailcut.training.recipe.sections import GenerationSection
from tailcut.training.recipe.toml_files import parse_recipe

RECIPE = """
name = "a"
model = { name = "vae" }
data = { name = "mnist" }
optimizer = { lr = 0.001 }
training = { epochs = 1, loss = "LOSS" }
"""
GAN = """
[generation]
discriminator = { name = "dcgan_discriminator" }
"""


def recipe_with(loss: str, section: str = "") -> Any:
    return parse_recipe(RECIPE.replace("LOSS", loss) + section, source="a.toml")


def test_a_vae_needs_no_section_and_a_gan_a_discriminator() -> None:
    assert recipe_with("vae").generation is None
    assert recipe_with("vae", "[generation]\nnum_samples = 50").generation == GenerationSection(num_samples=50)
    section = recipe_with("gan", GAN).generation
    assert section.num_samples == 10_000
    assert section.discriminator.name == "dcgan_discriminator"


@pytest.mark.parametrize(
    ("loss", "section", "message"),
    [
        ("gan", "", "'gan' needs generation.discriminator"),
        ("gan", "[generation]", "'gan' needs generation.discriminator"),
        ("vae", GAN, "generation.discriminator is for training.loss 'gan'"),
        ("cross_entropy", "[generation]", r"\[generation\] is for training.loss 'vae' or 'gan', got 'cross_entropy'"),
        ("vae", "[generation]\nnum_samples = 1", "generation.num_samples: must be greater than or equal to 2, got 1"),
        ("vae", "[generation]\nsamples = 9", "generation.samples: is no key of a recipe; did you mean 'num_samples'"),
    ],
)
def test_sections_that_do_not_fit_are_reported(loss: str, section: str, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        recipe_with(loss, section)
