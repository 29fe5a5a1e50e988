import shlex
import tomllib
from pathlib import Path, PureWindowsPath

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tailcut.cli.commands import train
from tailcut.cli.parser import Parser
from tailcut.errors import RecipeError
from tailcut.training.recipe.schema import Recipe
from tailcut.training.recipe.toml_files import (
    check_replaceable,
    check_same,
    differences,
    find_recipe,
    holds,
    load_recipe,
    parse_recipe,
    shipped_recipes,
    to_toml,
    training_command,
)

TABLE_1 = ["lenet300-ref", "lenet300-4238", "lenet300-2816", "lenet5-ref", "lenet5-7668", "lenet5-776"]


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("schedule.fraction=-1", "schedule.fraction: must be greater than 0, got -1"),
        ("optimizer.lr=fast", "optimizer.lr: must be a number, got 'fast'"),
        ("optimizer.name=adm", "optimizer.name: must be 'adam', 'adamw' or 'sgd', got 'adm'"),
        ("optimizer.learning_rate=1", "optimizer.learning_rate: is no key of a recipe; known here: name, lr"),
        (
            "optimizer.lr_schedule.warm_up=1",
            "optimizer.lr_schedule.warm_up: is no key of a recipe; did you mean 'warmup'?",
        ),
        ("optimiser.lr=1", "optimiser: is no key of a recipe; did you mean 'optimizer'?"),
        ("data.augmentation.shft=1", "data.augmentation.shft: is no key of a recipe; did you mean 'shift'?"),
        ("schedule.num_kept=0", "schedule.num_kept: must be greater than 0, got 0"),
        ("schedule.num_kept.fc1.weight=0", "schedule.num_kept.fc1.weight: must be greater than 0, got 0"),
        ("schedule.every=often", "schedule.every: must be 'epoch' or an integer, got 'often'"),
        ("optimizer.lr=", "optimizer.lr: is missing"),
        ("regularization=", "a [schedule] needs a [regularization] section"),
        ("schedule.keep_ratio=0.5", "schedule: give exactly one target: num_kept or keep_ratio"),
        ("compression={target_bytes=9, start_bytes=8}", "compression: start_bytes must be at least target_bytes, 9"),
        ("optimizer.lr=nan", "optimizer.lr: must be a finite number, got nan"),
        ("model.arguments.limit=inf", "model.arguments.limit: must be a finite number, got inf"),
        ("model.arguments.day=2020-01-01", "model.arguments.day: must be a number, a text, true, false, a list or a"),
        # An empty value removes a key: a misspelt one is not passed over.
        ("optimizer.learning_rate=", "optimizer.learning_rate: is no key of a recipe; known here: name, lr"),
        ("optimiser.lr=", "optimiser: is no key of a recipe; did you mean 'optimizer'?"),
        ("papr=", "papr: is no key of a recipe; did you mean 'paper'?"),
        ("optimizer.lr.start=", "optimizer.lr.start: is no key of a recipe; optimizer.lr has no keys"),
        ('regularization.overrides."fc1.weight".num_kpt=', "did you mean 'num_kept'?"),
        ("regularization.overrides.fc1.weight.num_kept=", 'in quotes: regularization.overrides."fc1.weight"'),
    ],
)
def test_an_error_names_the_file_and_the_key(override: str, message: str, recipe_text: str) -> None:
    with pytest.raises(RecipeError) as caught:
        parse_recipe(recipe_text, source="my.toml", overrides=[override])
    assert str(caught.value).startswith("my.toml: ")
    assert message in str(caught.value)


def test_all_errors_are_told_at_once(recipe_text: str) -> None:
    with pytest.raises(RecipeError, match=r"my.toml: \n  optimizer\.lr: .*\n  training\.epochs: "):
        parse_recipe(recipe_text, source="my.toml", overrides=["optimizer.lr=-1", "training.epochs=-1"])


def test_broken_toml_is_told_with_its_line() -> None:
    with pytest.raises(RecipeError, match=r"my.toml: this is no TOML: .*line 2"):
        parse_recipe("name = 'a'\nmodel = = 1", source="my.toml")


@pytest.mark.parametrize(
    ("override", "value"),
    [
        ("training.epochs=7", 7),
        ("training.epochs = 7", 7),
        ("training={ epochs = 7 }", 7),
    ],
)
def test_an_override_replaces_a_value(override: str, value: int, recipe_text: str) -> None:
    assert parse_recipe(recipe_text, source="x", overrides=[override]).training.epochs == value


def test_an_override_may_be_text_or_a_table_by_tensor_name(recipe_text: str) -> None:
    overrides = ["optimizer.name=sgd", "schedule.num_kept.fc1.weight=5", "distillation.teacher=zoo:lenet5-776"]
    recipe = parse_recipe(recipe_text, source="x", overrides=overrides)
    assert recipe.optimizer.name == "sgd"
    assert recipe.schedule is not None
    assert recipe.schedule.num_kept == {"fc1.weight": 5}
    assert recipe.distillation is not None
    assert recipe.distillation.teacher == "zoo:lenet5-776"


def test_an_empty_override_removes_a_section(recipe_text: str) -> None:
    assert parse_recipe(recipe_text, source="x", overrides=["schedule="]).schedule is None


@pytest.mark.parametrize(
    "override",
    [
        "paper=",
        "distillation.weight=",
        "data.coarse.factor=",
        "schedule.num_kept.fc1.weight=",
        'schedule.num_kept."fc1.weight"=',
        "regularization.overrides.fc1.weight=",
        'regularization.overrides."fc1.weight".axes=',
        "pruning.rates.layer1=",
        "model.arguments.anything=",
    ],
)
def test_a_key_that_is_not_there_can_be_removed(override: str, recipe_text: str) -> None:
    assert parse_recipe(recipe_text, source="x", overrides=[override]) == parse_recipe(recipe_text, source="x")


@pytest.mark.parametrize("key", ["schedule.num_kept.fc1.weight", 'schedule.num_kept."fc1.weight"'])
def test_a_tensor_is_removed_from_a_table(key: str, recipe_text: str) -> None:
    tables = ["schedule.num_kept={ 'fc1.weight' = 5, 'fc2.weight' = 6 }", f"{key}="]
    schedule = parse_recipe(recipe_text, source="x", overrides=tables).schedule
    assert schedule is not None
    assert schedule.num_kept == {"fc2.weight": 6}


def test_a_name_with_dots_stands_in_quotes(recipe_text: str) -> None:
    override = 'regularization.overrides."fc1.weight".num_kept=5'
    section = parse_recipe(recipe_text, source="x", overrides=[override]).regularization
    assert section is not None
    assert section.overrides["fc1.weight"].num_kept == 5


@pytest.mark.parametrize("override", ["lr", "=1", "optimizer.=1", ".lr=1"])
def test_an_override_without_key_or_value_is_refused(override: str, recipe_text: str) -> None:
    with pytest.raises(RecipeError, match="expected KEY=VALUE"):
        parse_recipe(recipe_text, source="x", overrides=[override])


def test_a_recipe_without_name_is_named_after_its_file(tmp_path: Path, recipe_text: str) -> None:
    (tmp_path / "mine.toml").write_text(recipe_text.replace('name = "small"', "", 1))
    assert load_recipe(tmp_path / "mine.toml").name == "mine"


def test_the_recipes_of_table_1_and_of_the_demo_are_found_by_name() -> None:
    for name in TABLE_1:
        assert find_recipe(name) == find_recipe(f"frequency-regularization/{name}")
        assert find_recipe(f"{name}.toml") == find_recipe(name)
    assert load_recipe("demo/digits").data.name == "digits"


@pytest.mark.parametrize("name", shipped_recipes())
def test_every_shipped_recipe_is_valid_and_named_like_its_file(name: str) -> None:
    assert load_recipe(name).name == name.rpartition("/")[2]


def test_a_path_wins_over_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("lenet5-776").write_text("")
    assert find_recipe("lenet5-776") == Path("lenet5-776")


def test_an_unknown_name_gets_a_hint() -> None:
    with pytest.raises(RecipeError, match=r"did you mean 'lenet5-776'\?$"):
        find_recipe("lenet5-767")
    with pytest.raises(RecipeError, match=r"recipes that come with Tailcut: .*demo/digits"):
        find_recipe("zzz")


def test_a_folder_is_told_as_one_with_the_recipe_of_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("run").mkdir()
    with pytest.raises(RecipeError, match=r"run is a folder, no recipe$"):
        find_recipe("run")
    Path("run/recipe.toml").write_text("", encoding="utf-8")
    with pytest.raises(RecipeError, match=r"run is a folder, no recipe; the one in it is run/recipe\.toml$"):
        find_recipe("run")
    Path("lenet5-776").mkdir()  # the name of a recipe is no less known
    assert find_recipe("lenet5-776").name == "lenet5-776.toml"


@pytest.mark.parametrize("name", shipped_recipes())
def test_a_recipe_survives_its_resolved_form(name: str) -> None:
    recipe = load_recipe(name)
    assert parse_recipe(to_toml(recipe), source="recipe.toml") == recipe


@given(
    text=st.text(st.characters(codec="utf-8")),
    lr=st.floats(min_value=1e-300, max_value=1e300),
    names=st.dictionaries(st.text(st.characters(codec="utf-8", exclude_characters="."), min_size=1), st.integers(1)),
)
def test_any_text_and_number_survives_toml(text: str, lr: float, names: dict[str, int]) -> None:
    recipe = Recipe.model_validate(
        {
            "name": text,
            "model": {"name": "lenet5", "arguments": {"bias": True, "widths": [1, 2], "factor": 1.0}},
            "data": {"name": "mnist"},
            "optimizer": {"lr": lr},
            "training": {"epochs": 1},
            "regularization": {"num_kept": names or 1},
        }
    )
    assert parse_recipe(to_toml(recipe), source="x") == recipe


def test_tables_in_lists_survive_toml(recipe_text: str) -> None:
    arguments = {"layers": [{"width": 1.5, "a b": [{"c": "]"}]}, {}], "small": 1e-30, "large": 1e300}
    recipe = Recipe.model_validate(tomllib.loads(recipe_text) | {"model": {"name": "lenet5", "arguments": arguments}})
    assert parse_recipe(to_toml(recipe), source="x").model.arguments == arguments


def test_a_recipe_in_another_encoding_is_the_user_s_own(recipe_text: str, tmp_path: Path) -> None:
    (tmp_path / "recipe.toml").write_bytes('description = "größer"\n'.encode("latin-1") + recipe_text.encode())
    with pytest.raises(RecipeError, match=r"recipe\.toml is a recipe of your own"):
        check_replaceable(parse_recipe(recipe_text, source="x"), tmp_path / "recipe.toml")


@pytest.mark.parametrize("own", ["# a comment\n{text}", "not TOML at all", 'name = "a"\n'])
def test_a_recipe_of_the_users_own_is_not_replaceable(own: str, recipe_text: str, tmp_path: Path) -> None:
    path = tmp_path / "recipe.toml"
    recipe, other = (parse_recipe(recipe_text, source="x", overrides=[f"optimizer.lr={lr}"]) for lr in (0.5, 0.25))
    check_replaceable(recipe, path)  # nothing there
    path.write_text(own.replace("{text}", to_toml(other)))
    with pytest.raises(RecipeError, match=r"recipe\.toml is a recipe of your own"):
        check_replaceable(recipe, path)
    for text in (to_toml(other), f"# a comment\n{to_toml(recipe)}"):
        path.write_text(text)
        check_replaceable(recipe, path)


def test_differences_name_the_keys(recipe_text: str) -> None:
    one = parse_recipe(recipe_text, source="x")
    other = parse_recipe(recipe_text, source="x", overrides=["optimizer.lr=0.5", "schedule="])
    assert differences(one, one) == []
    assert "optimizer.lr: 0.02 and 0.5" in differences(one, other)
    assert "schedule.num_kept: 400 and nothing" in differences(one, other)


def test_a_table_without_keys_is_no_difference(recipe_text: str) -> None:
    """An override takes a key from every stage, and may leave an empty table there."""
    text = f"{recipe_text}\n[[stage]]\nname = 'a'\ntraining.epochs = 2\n"
    one, other = (parse_recipe(text, source="x", overrides=given) for given in ([], ["training.epochs=4"]))
    found = differences(one, other)
    assert "stage.a.training.epochs: 2 and nothing" in found
    assert not [line for line in found if "{}" in line]


def test_a_run_keeps_its_recipe(tmp_path: Path, recipe_text: str) -> None:
    recipe = parse_recipe(recipe_text, source="x")
    check_same(recipe, tmp_path / "recipe.toml")  # none there yet
    (tmp_path / "recipe.toml").write_text(to_toml(recipe))
    check_same(recipe, tmp_path / "recipe.toml")
    check_same(
        parse_recipe(recipe_text, source="x", overrides=["data.workers=2", "training.checkpoint_every=3"]),
        tmp_path / "recipe.toml",
    )  # these change no number
    staged, moved = (
        parse_recipe(f"{recipe_text}\n[[stage]]\nname = 'a'\ndata.workers = {number}\n", source="x")
        for number in (2, 0)
    )
    (tmp_path / "staged.toml").write_text(to_toml(staged))
    check_same(moved, tmp_path / "staged.toml")
    other = parse_recipe(recipe_text, source="x", overrides=["training.seed=9"])
    with pytest.raises(RecipeError, match=r"training\.seed: 3 and 9"):
        check_same(other, tmp_path / "recipe.toml")
    (tmp_path / "recipe.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(RecipeError, match=r"cannot read the recipe .*recipe\.toml: .*utf-8"):
        check_same(recipe, tmp_path / "recipe.toml")


@pytest.mark.parametrize(
    ("given_too", "words"),
    [
        ([], ""),
        (["--set", "optimizer.lr=0.1", "--import", "my.nets", "--set", "training.loss=dice bce"], ""),
        (["--devices", "2", "--num-nodes", "3"], ""),
        (["--data-root", "/somewhere", "--resume"], "--data-root /somewhere --resume"),
    ],
)
def test_a_training_s_command_is_read_as_the_same_training(given_too: list[str], words: str) -> None:
    parser = Parser(prog="tailcut")
    train.add_parser(parser.add_subparsers())
    arguments = parser.parse_args(["train", "lenet5-776", "--out", "my run", *given_too])
    command = training_command(
        arguments.recipe,
        arguments.out,
        overrides=arguments.overrides,
        imports=arguments.imports,
        devices=arguments.devices,
        num_nodes=arguments.num_nodes,
    )
    again = parser.parse_args([*shlex.split(command)[1:], *words.split()])
    assert vars(again) == vars(arguments)


def test_a_file_may_begin_with_the_mark_of_windows_editors(recipe_text: str, tmp_path: Path) -> None:
    (tmp_path / "my.toml").write_text(recipe_text, encoding="utf-8-sig")
    assert load_recipe(tmp_path / "my.toml") == parse_recipe(recipe_text, source="my.toml")


def test_whether_a_file_says_just_this_recipe(recipe_text: str, tmp_path: Path) -> None:
    recipe, path = parse_recipe(recipe_text, source="my.toml"), tmp_path / "recipe.toml"
    assert not holds(path, recipe)
    for content, expected in ((recipe_text, True), (to_toml(recipe), True), ("no recipe", False)):
        path.write_text(content)
        assert holds(path, recipe) == expected
    assert not holds(path, parse_recipe(recipe_text, source="my.toml", overrides=["training.epochs=9"]))


def test_a_shipped_recipe_is_found_by_a_path_of_windows() -> None:
    assert find_recipe(PureWindowsPath("demo/digits")) == find_recipe("demo/digits")
