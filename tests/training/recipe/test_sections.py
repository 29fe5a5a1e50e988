import pytest
from tests.small_recipe import MakeRecipe

from tailcut.errors import RecipeError
from tailcut.training.recipe.sections import AugmentationSection, CoarseSection, DataSection


def test_defaults_change_no_image(make_recipe: MakeRecipe) -> None:
    assert make_recipe().data == DataSection(name="digits", holdout=200, batch_size=64)
    assert DataSection(name="digits").augmentation == AugmentationSection(shift=0, flip=False)
    assert DataSection(name="digits").coarse is None


def test_coarse_images(make_recipe: MakeRecipe) -> None:
    assert make_recipe("data.coarse.fraction=0.5").data.coarse == CoarseSection(factor=2, fraction=0.5)
    assert make_recipe("data.coarse={ factor = 4, fraction = 0.9 }").data.coarse == CoarseSection(
        factor=4, fraction=0.9
    )


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("data.coarse.fraction=1.0", "data.coarse.fraction: must be less than 1"),
        ("data.coarse.fraction=0", "data.coarse.fraction: must be greater than 0"),
        ("data.coarse={ factor = 1, fraction = 0.5 }", "data.coarse.factor: must be greater than or equal to 2"),
        ("data.coarse.factor=2", "data.coarse.fraction: is missing"),
        ("data.augmentation.shift=-1", "data.augmentation.shift: must be greater than or equal to 0"),
        ("data.augmentation.cutout=-1", "data.augmentation.cutout: must be greater than or equal to 0"),
        ("data.augmentation.turn=true", "data.augmentation.turn"),
    ],
)
def test_what_is_no_such_section(override: str, message: str, make_recipe: MakeRecipe) -> None:
    with pytest.raises(RecipeError, match=message):
        make_recipe(override)
