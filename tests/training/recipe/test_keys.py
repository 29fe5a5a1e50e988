import pytest
from pydantic import ValidationError

from tailcut.errors import RecipeError
from tailcut.training.recipe.keys import problems_of, split_key, unknown_key
from tailcut.training.recipe.schema import Recipe
from tailcut.training.recipe.toml_files import parse_recipe


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("optimizer.lr", ["optimizer", "lr"]),
        (" name ", ["name"]),
        ("schedule.num_kept.layer1.0.weight", ["schedule", "num_kept", "layer1", "0", "weight"]),
        ('overrides."conv.*".axes', ["overrides", "conv.*", "axes"]),
        ("", []),
        ("a..b", []),
        ("a b", []),
        ('""', []),
        ("a = 1\nb", []),
    ],
)
def test_a_key_is_split_as_in_toml(text: str, parts: list[str]) -> None:
    assert split_key(text) == parts


def test_all_keys_of_a_recipe_are_known(recipe_text: str) -> None:
    recipe = parse_recipe(recipe_text, source="x")
    for name, section in recipe.model_dump().items():
        assert unknown_key([name]) is None
        for key in section if isinstance(section, dict) else ():
            assert unknown_key([name, key]) is None
    assert unknown_key(["name", "of"]) == "name.of: is no key of a recipe; name has no keys"


@pytest.mark.parametrize(
    ("overrides", "lines"),
    [
        (["pruning.rates=abc"], ["pruning.rates: must be a number or 'paper' or 'extended' or a list or a table, got"]),
        (["pruning.rates=[0.1, 'x']"], ["pruning.rates.1: must be a number, got 'x'"]),
        (["pruning.rates={ float = 'x' }"], ["pruning.rates.float: must be a number, got 'x'"]),
        (["schedule.num_kept=1.5"], ["schedule.num_kept: must be an integer or a table, got 1.5"]),
        (["schedule.num_kept.fc1.weight=0"], ["schedule.num_kept.fc1.weight: must be greater than 0, got 0"]),
        (["inputs.channels=0"], ["inputs.channels: must be greater than 0, got 0"]),
        (["pruning.gaussian_sigma=x"], ["pruning.gaussian_sigma: must be a number or 'off' or 'variant', got 'x'"]),
        (["data.coarse=2"], ["data.coarse: must be a table, got 2"]),
        (["optimizer=2", "training.epochs=-1"], ["optimizer: must be a table, got 2", "training.epochs: must be gr"]),
        (
            ["regularization.overrides.conv.weight.num_kept=5"],
            [
                "regularization.overrides.conv.weight: is no key of a recipe; a name with dots stands in quotes: "
                'regularization.overrides."conv.weight"'
            ],
        ),
        (
            ["regularization.overrides.layer1.0.conv.weight.axes=[0]"],
            [
                "regularization.overrides.layer1.0: is no key of a recipe; a name with dots stands in quotes: "
                'regularization.overrides."layer1.0.conv.weight"'
            ],
        ),
        (
            ['regularization.overrides."conv.weight".num_kpt=5'],
            ["regularization.overrides.conv.weight.num_kpt: is no key of a recipe; did you mean 'num_kept'?"],
        ),
    ],
)
def test_there_is_one_line_per_key(overrides: list[str], lines: list[str], recipe_text: str) -> None:
    with pytest.raises(RecipeError) as caught:
        parse_recipe(recipe_text, source="x", overrides=overrides)
    error = caught.value.__cause__
    assert isinstance(error, ValidationError)
    found = problems_of(error)
    assert len(found) == len(lines), found
    assert all(said.startswith(line) for said, line in zip(found, lines, strict=True)), found


def test_a_whole_recipe_of_another_type_is_reported() -> None:
    with pytest.raises(ValidationError) as caught:
        Recipe.model_validate({"name": 3})
    assert problems_of(caught.value)[0] == "name: must be a string, got 3"
