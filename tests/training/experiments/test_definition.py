import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tailcut.errors import RecipeError
from tailcut.training.experiments.definition import (
    find_experiment,
    load_experiment,
    override_arguments,
    shipped_experiments,
    trials_of,
)
from tailcut.training.recipe.stages import last_stage, stages_of
from tailcut.training.recipe.toml_files import parse_recipe, shipped_recipes
from tailcut.training.setup.build import build_model, build_schedule
from tailcut.training.train import trainer_of
from tailcut.weights import kept_counts

EXPERIMENT = """
question = "Which rate?"
recipe = "small.toml"
seeds = [5, 2]

[set]
"training.epochs" = 1
"data.holdout" = ""

[[variant]]
name = "slow"
set = { "optimizer.lr" = 0.01 }

[[variant]]
name = "fast"
set = { "optimizer.lr" = 0.05, "schedule.num_kept" = { "fc1.weight" = 50 } }
"""
BUDGETS = {"resnet18": 2688, "dimensions": 7200, "alexnet": 1408}  # of the others 776

Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path, recipe_text: str) -> Write:
    """Writes the experiment beside its recipe, with one text in place of another; the path."""

    def run(old: str = "", new: str = "") -> Path:
        assert old in EXPERIMENT
        (tmp_path / "small.toml").write_text(recipe_text)
        (tmp_path / "rates.toml").write_text(EXPERIMENT.replace(old, new, 1) if old else EXPERIMENT)
        return tmp_path / "rates.toml"

    return run


def test_a_trial_is_the_recipe_with_just_these_overrides(write: Write, recipe_text: str) -> None:
    path = write()
    trials = trials_of(load_experiment(path), "runs")
    assert [(trial.variant, trial.seed) for trial in trials] == [("slow", 5), ("slow", 2), ("fast", 5), ("fast", 2)]
    assert [trial.run.path for trial in trials] == [
        Path("runs/rates") / f"{v}-{s}" for v in ("slow", "fast") for s in (5, 2)
    ]

    overrides = ["training.epochs=1", "data.holdout=", "optimizer.lr=0.05", 'schedule.num_kept={"fc1.weight" = 50}']
    expected = parse_recipe(recipe_text, source="x", overrides=["name=rates/fast", "training.seed=2", *overrides])
    assert trials[-1].recipe == expected
    assert parse_recipe(recipe_text, source="x", overrides=trials[-1].overrides) == expected
    assert trials[-1].source == str(path.parent / "small.toml")


def test_a_trial_is_no_row_of_the_paper(write: Write) -> None:
    path = write()
    recipe = path.parent / "small.toml"
    recipe.write_text(f'description = "A row"\n{recipe.read_text()}\n[paper]\nsource = "Table 1"\n')
    trial = trials_of(load_experiment(path), "runs")[0]
    assert (trial.recipe.paper, trial.recipe.description) == (None, "")


def test_a_recipe_is_found_by_its_name_too(write: Write) -> None:
    experiment = load_experiment(write('recipe = "small.toml"', 'recipe = "demo/digits"'))
    assert {trial.source for trial in trials_of(experiment, "runs")} == {"demo/digits"}


def test_a_variant_may_have_a_recipe_of_its_own_and_start_from_another(write: Write) -> None:
    another = '[[variant]]\nname = "dense"\nrecipe = "lenet300-ref"\n#'
    path = write('name = "fast"\n', f'name = "fast"\nset = {{ "start.file" = "variant:slow" }}\n{another}')
    _, _, _, after, _, dense = trials_of(load_experiment(path), "runs")
    assert after.recipe.start is not None
    assert after.recipe.start.file == "runs/rates/slow-2"
    assert after.needs == {"start.file": ("slow", 2)}
    assert dense.recipe.model.name == "lenet300"
    assert dense.recipe.training.epochs == 25  # [set] is of the experiment's own recipe
    assert dense.recipe.training.seed == 2


def test_all_variants_may_start_from_one_with_a_seed_of_its_own(write: Write) -> None:
    parent = 'name = "parent"\nrecipe = "lenet300-ref"\nseeds = [7]\n\n[[variant]]\nname = "slow"'
    path = write('name = "slow"', parent)
    path.write_text(path.read_text().replace("[set]\n", '[set]\n"start.file" = "variant:parent"\n'))
    first, *others = trials_of(load_experiment(path), "runs")
    assert (first.variant, first.seed, first.needs) == ("parent", 7, {})
    assert [(trial.variant, trial.seed) for trial in others] == [("slow", 5), ("slow", 2), ("fast", 5), ("fast", 2)]
    for trial in others:
        assert trial.needs == {"start.file": ("parent", 7)}
        assert trial.recipe.start is not None
        assert trial.recipe.start.file == "runs/rates/parent-7"


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('question = "Which rate?"\n', "", "question: is missing"),
        ("seeds =", "seed =", "seed: is no key of an experiment; known here: name, description, question"),
        ("[5, 2]", "[5, 5]", "seeds: one stands there twice"),
        ("[5, 2]", "[]", "seeds: "),
        ("[5, 2]", "[-1]", "seeds.1: "),
        ('name = "fast"', 'name = "slow"', "variant 'slow' stands there twice"),
        ('name = "fast"', 'name = "../fast"', "variant.2.name: "),
        (
            'name = "fast"',
            'title = "fast"',
            "variant.2.title: is no key of an experiment; known here: name, recipe, set",
        ),
        ('name = "fast"', 'name = "fast"\npaper = 0.5', "paper_source: say where"),
        ('name = "fast"', 'name = "fast"\npaper = 95.0', "variant.2.paper: "),
        ('"optimizer.lr" = 0.01', "optimizer.lr = 0.01", 'write dotted keys in quotes, as in "optimizer.lr" ='),
        ('"optimizer.lr" = 0.01', '"start.file" = "variant:fast"', "there is no variant 'fast' before it"),
        ("[set]", '[set]\n"start.file" = "variant:fast"', "variant 'slow': there is no variant 'fast' before it"),
        (
            'name = "fast"\nset = {',
            'name = "fast"\nseeds = [5, 7]\nset = { "start.file" = "variant:slow",',
            "variant 'fast': variant 'slow' has no seed 7",
        ),
        ('name = "fast"', 'name = "fast"\nseeds = [5, 5]', "variant.2.seeds: one stands there twice"),
        ('"optimizer.lr" = 0.01', '"training.seed" = 1', "'training.seed' cannot be set here"),
        ('"optimizer.lr" = 0.01', '"optimizer.lr" = 2020-01-01', "a date is no value of a recipe"),
        ("[set]", "[set", "this is no TOML"),
    ],
)
def test_an_error_names_the_file_and_the_key(old: str, new: str, message: str, write: Write) -> None:
    with pytest.raises(RecipeError) as caught:
        load_experiment(write(old, new))
    assert "rates.toml: " in str(caught.value)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('"optimizer.lr" = 0.01', '"optimizer.speed" = 1', "optimizer.speed: is no key of a recipe"),
        ('recipe = "small.toml"', 'recipe = "smal.toml"', "no recipe of that name"),
    ],
)
def test_an_error_in_a_recipe_names_experiment_and_variant(old: str, new: str, message: str, write: Write) -> None:
    with pytest.raises(RecipeError) as caught:
        trials_of(load_experiment(write(old, new)), "runs")
    assert str(caught.value).startswith("experiment rates, variant slow: ")
    assert message in str(caught.value)


def test_an_unknown_name_gets_a_hint() -> None:
    with pytest.raises(RecipeError, match="did you mean 'cfdp-block-size'"):
        find_experiment("cfdp-blocksize")


TEXTS = st.text(st.characters(codec="utf-8"))
VALUES: st.SearchStrategy[Any] = st.recursive(
    st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False, allow_infinity=False) | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=8,
)


@given(VALUES)
def test_any_value_survives_as_an_override(value: Any) -> None:
    (word,) = override_arguments({"model.arguments": value})
    key, _, text = word.partition("=")
    assert key == "model.arguments"
    assert (text == "") == (value == "")
    if text:
        read = tomllib.loads(f"value = {text}")["value"]
        assert (read, repr(read)) == (value, repr(value))


def test_experiments_are_no_recipes() -> None:
    assert len(shipped_experiments()) >= 15
    assert not {name.rpartition("/")[2] for name in shipped_recipes()}.intersection(shipped_experiments())


@pytest.mark.parametrize("name", shipped_experiments())
def test_every_shipped_experiment_is_valid_and_named_like_its_file(name: str) -> None:
    experiment = load_experiment(name)
    assert experiment.name == name
    assert experiment.question.endswith("?")
    recipes = [trial.recipe.model_dump_json(exclude={"name"}) for trial in trials_of(experiment, "runs")]
    assert len(set(recipes)) == len(recipes), "two variants are the same training"
    for trial in trials_of(experiment, "runs"):
        for training in (*stages_of(trial.recipe).values(), last_stage(trial.recipe)):
            trainer_of(training)  # refuses settings without effect


@pytest.mark.parametrize("name", [name for name in shipped_experiments() if name.startswith("fr-")])
def test_variants_of_one_budget_end_with_as_many_coefficients(name: str) -> None:
    experiment = load_experiment(name)
    trials = [trial for trial in trials_of(experiment, "runs") if trial.seed == experiment.seeds[0]]
    counts = {}
    for trial in trials:
        if trial.recipe.regularization is not None:
            with torch.device("meta"):
                model = build_model(trial.recipe)
            schedule = build_schedule(trial.recipe, model)
            kept = kept_counts(model) if schedule is None else schedule.targets
            drawn = trial.recipe.regularization.num_drawn
            kept = drawn if isinstance(drawn, dict) else kept
            counts[trial.variant] = sum(kept.values())
    assert counts
    assert set(counts.values()) == {BUDGETS.get(name.rpartition("-")[2], 776)}


def test_a_file_whose_name_is_none_for_runs_says_where_it_comes_from(write: Write) -> None:
    path = write().rename(write().with_name("my rates.toml"))
    with pytest.raises(RecipeError) as caught:
        load_experiment(path)
    assert "name: must begin with a letter or digit and have only these and '.', '_' and '-'" in str(caught.value)
    assert "got 'my rates'; this is the file's name" in str(caught.value)
    path.write_text('name = "a b"\n' + path.read_text())
    with pytest.raises(RecipeError, match=r"got 'a b'$"):
        load_experiment(path)


def test_a_variant_may_remove_the_section_that_the_others_start_from(write: Write) -> None:
    path = write("[set]", '[set]\n"start.file" = "variant:slow"\n"regularization.initialization" = "model"')
    path.write_text(path.read_text().replace('{ "optimizer.lr" = 0.01 }', '{ "start" = "", "optimizer.lr" = 0.01 }'))
    slow, _, fast, _ = trials_of(load_experiment(path), "runs")
    assert (slow.recipe.start, slow.needs) == (None, {})
    assert fast.needs == {"start.file": ("slow", 5)}
