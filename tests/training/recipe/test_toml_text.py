"""What Python cannot read of a TOML document is told with its line and key."""

from pathlib import Path

import pytest

from tailcut.errors import RecipeError
from tailcut.training.experiments.definition import load_experiment
from tailcut.training.recipe.toml_files import parse_recipe, read_toml

BEFORE = 'name = "x"\n[training]\nlr = [\n 1,\n]\n'
LATER = '\n[data]\nname = "mnist"\n'


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("epochs = " + "9" * 5000, "training.epochs (line 6) has an integer of too many digits"),
        ("epochs = [\n1,\n" + "9" * 5000 + "]", "training.epochs (line 8) has an integer of too many digits"),
        ("epochs = " + "[" * 1000 + "]" * 1000, "training.epochs (line 6) is nested too deeply"),
        ("[[a.b]]\nc = " + "{d = " * 1000 + "1" + "}" * 1000, "a.b.c (line 7) is nested too deeply"),
        ("x" * 1000 + " = " + "9" * 5000, "xxx (line 6) has an integer"),
    ],
)
def test_limits_of_python_are_told_with_line_and_key(line: str, message: str) -> None:
    with pytest.raises(RecipeError) as caught:
        read_toml(BEFORE + line + LATER, "mine.toml")
    assert str(caught.value).startswith("mine.toml: ")
    assert message in str(caught.value)
    assert len(str(caught.value)) < 200


def test_recipes_and_experiments_tell_them(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text("title = " + "9" * 5000)
    with pytest.raises(RecipeError, match=r"title \(line 1\) has an integer of too many digits"):
        parse_recipe(path.read_text(), source="mine.toml")
    with pytest.raises(RecipeError, match=r"mine.toml: title \(line 1\) has an integer of too many digits"):
        load_experiment(path)


def test_values_are_those_of_tomllib() -> None:
    assert read_toml(BEFORE + "epochs = 3" + LATER, "mine.toml")["training"] == {"lr": [1], "epochs": 3}
