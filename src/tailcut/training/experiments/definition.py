"""Experiment files (TOML): variants of a recipe, each trained with several seeds, and the list of trainings."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Self

from tailcut.errors import MissingExtraError, RecipeError
from tailcut.runs import Run
from tailcut.training.recipe.keys import problem_of
from tailcut.training.recipe.schema import Fraction, Recipe, RecipeSection
from tailcut.training.recipe.toml_files import find_shipped, load_recipe, read_toml, shipped, toml_value

try:
    from pydantic import AfterValidator, Field, ValidationError, model_validator
    from pydantic_core import ErrorDetails
except ImportError as error:
    raise MissingExtraError("reading an experiment", "pydantic", "train") from error

VARIANT_PREFIX = "variant:"  # a value that refers to the run folder of another variant
OF_THE_SWEEP = ("name", "paper", "training.seed")  # set for each run by the sweep itself


def _check_file_name(name: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name):
        raise ValueError(f"must begin with a letter or digit and have only these and '.', '_' and '-', got {name!r}")
    return name


FileName = Annotated[str, AfterValidator(_check_file_name)]


def _check_seeds(seeds: tuple[int, ...]) -> tuple[int, ...]:
    if len(set(seeds)) < len(seeds):
        raise ValueError("one stands there twice")
    return seeds


Seed = Annotated[int, Field(ge=0, lt=2**32)]
Seeds = Annotated[tuple[Seed, ...], Field(min_length=1), AfterValidator(_check_seeds)]


def _check_overrides(values: dict[str, Any]) -> dict[str, Any]:
    for key, value in values.items():
        if key in OF_THE_SWEEP:
            raise ValueError(f"{key!r} cannot be set here: each run gets its own")
        if isinstance(value, dict) and "." not in key:
            inner = next(iter(value), "key")
            raise ValueError(f'write dotted keys in quotes, as in "{key}.{inner}" = ...')
        try:
            toml_value(value)
        except TypeError as error:
            raise ValueError(f"{key!r}: a {type(value).__name__} is no value of a recipe") from error
    return values


Overrides = Annotated[dict[str, Any], AfterValidator(_check_overrides)]


class Variant(RecipeSection):
    """One variant of the recipe.

    Attributes:
        name: names its row and its run folders.
        recipe: another recipe than the experiment's; its `[set]` does not count then.
        overrides: `set`: recipe key to value, as `tailcut train --set` has them; an empty text removes the key.
            `variant:NAME` as a value stands for the run of an earlier variant with the same seed, or with its only
            one.
        seeds: its own, in place of the experiment's: a parent, for example, that all seeds start from.
        paper: the paper's figure for it, 0 to 1.
    """

    name: FileName
    recipe: str | None = None
    overrides: Overrides = Field(default={}, alias="set")
    seeds: Seeds | None = None
    paper: Fraction | None = None


class Experiment(RecipeSection):
    """A question to a recipe, and the variants whose figures answer it.

    Attributes:
        name: names the folder of its runs.
        description: what is compared, and with which budget.
        question: in one sentence.
        recipe: the name of a recipe that comes with Tailcut, or a path relative to the experiment's file.
        seeds: each variant that has none of its own is trained once with each.
        paper_source: where the figures `paper` of the variants stand, and of which network they are.
        overrides: `set`: changes of the recipe for all variants; see `Variant`.
        variants: in the order in which they are trained and shown.
    """

    name: FileName
    description: str = ""
    question: str
    recipe: str
    seeds: Seeds = (0,)
    paper_source: str = ""
    overrides: Overrides = Field(default={}, alias="set")
    variants: Annotated[tuple[Variant, ...], Field(min_length=1, alias="variant")]

    @model_validator(mode="after")
    def _is_consistent(self) -> Self:
        before: dict[str, tuple[int, ...]] = {}
        for variant in self.variants:
            if variant.name in before:
                raise ValueError(f"variant {variant.name!r} stands there twice")
            for name in sorted(set(self.needs_of(variant).values())):
                if name not in before:
                    raise ValueError(f"variant {variant.name!r}: there is no variant {name!r} before it")
                missing = [seed for seed in self.seeds_of(variant) if seed not in before[name]]
                if missing and len(before[name]) > 1:
                    raise ValueError(f"variant {variant.name!r}: variant {name!r} has no seed {missing[0]}")
            before[variant.name] = self.seeds_of(variant)
        if any(variant.paper is not None for variant in self.variants) and not self.paper_source:
            raise ValueError("paper_source: say where the figures of the paper stand")
        return self

    def seeds_of(self, variant: Variant) -> tuple[int, ...]:
        """Return its own seeds, else the experiment's."""
        return self.seeds if variant.seeds is None else variant.seeds

    def common_overrides(self, variant: Variant) -> dict[str, Any]:
        """Return the experiment's that the variant does not remove, where the recipe is the experiment's too."""
        removed = [key for key, value in variant.overrides.items() if value == ""]
        return {
            key: value
            for key, value in (self.overrides if variant.recipe is None else {}).items()
            if not any(key == gone or key.startswith(f"{gone}.") for gone in removed)
        }

    def needs_of(self, variant: Variant) -> dict[str, str]:
        """Return recipe key to the name of the variant whose run it names."""
        values = {**self.common_overrides(variant), **variant.overrides}
        texts = {key: value for key, value in values.items() if isinstance(value, str)}
        prefix = VARIANT_PREFIX
        return {key: text.removeprefix(prefix) for key, text in texts.items() if text.startswith(prefix)}


@dataclass(frozen=True)
class Trial:
    """One training of an experiment: a variant with a seed.

    Attributes:
        variant: its name.
        seed: of everything random.
        source: the recipe's name or file.
        overrides: what is changed in it, as `tailcut train --set` takes it.
        recipe: the recipe with these changes.
        run: its run folder, which may not exist yet.
        needs: recipe key to the variant and seed whose run it names.
    """

    variant: str
    seed: int
    source: str
    overrides: tuple[str, ...]
    recipe: Recipe
    run: Run
    needs: Mapping[str, tuple[str, int]]


def load_experiment(name_or_path: str | Path) -> Experiment:
    """Read and check an experiment; its recipes are checked by `trials_of`.

    Args:
        name_or_path: a TOML file, or the name of an experiment that comes with Tailcut.

    Raises:
        RecipeError: not found, no TOML, or a key is unknown, missing or has a wrong value.
    """
    path = find_experiment(name_or_path)
    try:
        values = read_toml(path.read_text(encoding="utf-8-sig"), str(path))
        experiment = Experiment.model_validate({"name": path.stem, **values})
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError(f"cannot read the experiment {path}: {error}") from error
    except ValidationError as error:
        problems = [_problem(item) for item in error.errors(include_url=False)]
        from_file = "name" not in values and any(item["loc"] == ("name",) for item in error.errors())
        hint = "; this is the file's name, as there is no name in it: write one, or rename the file"
        raise RecipeError(f"{path}: {'; '.join(problems)}{hint if from_file else ''}") from error
    return _with_places(experiment, path.parent)


def find_experiment(name_or_path: str | Path) -> Path:
    """Return the file of an experiment, given as a path or as the name of a shipped one.

    Raises:
        RecipeError: there is no such file and no such name.
    """
    return find_shipped(name_or_path, "experiment")


def shipped_experiments() -> dict[str, Path]:
    """Return the shipped experiments: name -> file, sorted by name."""
    return shipped("experiment")


def trials_of(experiment: Experiment, runs: str | Path) -> list[Trial]:
    """Return all trainings of an experiment: variant by variant, each with all its seeds.

    Args:
        experiment: the experiment.
        runs: a run folder is `runs / EXPERIMENT / VARIANT-SEED`.

    Raises:
        RecipeError: a recipe is not found, or is not valid with a variant's changes.
    """
    folder = Path(runs) / experiment.name
    return [
        _trial(experiment, variant, seed, folder)
        for variant in experiment.variants
        for seed in experiment.seeds_of(variant)
    ]


def _trial(experiment: Experiment, variant: Variant, seed: int, folder: Path) -> Trial:
    source = variant.recipe or experiment.recipe
    seeds = {other.name: experiment.seeds_of(other) for other in experiment.variants}
    needed = experiment.needs_of(variant)
    needs = {key: (name, seed if seed in seeds[name] else seeds[name][0]) for key, name in needed.items()}
    places = {key: _run_folder(folder, *place).as_posix() for key, place in needs.items()}
    own = {"name": f"{experiment.name}/{variant.name}", "description": "", "paper": "", "training.seed": seed}
    overrides = [
        *override_arguments(own),
        *override_arguments(experiment.common_overrides(variant), places),
        *override_arguments(variant.overrides, places),
    ]
    try:
        recipe = load_recipe(source, overrides)
    except RecipeError as error:
        raise RecipeError(f"experiment {experiment.name}, variant {variant.name}: {error}") from error
    return Trial(
        variant.name, seed, source, tuple(overrides), recipe, Run(_run_folder(folder, variant.name, seed)), needs
    )


def _run_folder(folder: Path, variant: str, seed: int) -> Path:
    return folder / f"{variant}-{seed}"


def override_arguments(overrides: Mapping[str, Any], places: Mapping[str, str] | None = None) -> list[str]:
    """Recipe keys and values as `KEY=VALUE`, which `load_recipe` reads back to the same values.

    Args:
        overrides: key to value; an empty text removes the key.
        places: key to the path that stands for its value.

    >>> override_arguments({"optimizer.lr": 0.1, "schedule": "", "schedule.num_kept": {"fc1.weight": 5}})
    ['optimizer.lr=0.1', 'schedule=', 'schedule.num_kept={"fc1.weight" = 5}']
    """
    values = {key: (places or {}).get(key, value) for key, value in overrides.items()}
    return [f"{key}={'' if value == '' else toml_value(value)}" for key, value in values.items()]


def _with_places(experiment: Experiment, folder: Path) -> Experiment:
    """Return the experiment with recipe paths that do not depend on the working directory."""

    def placed(recipe: str) -> str:
        return str(folder / recipe) if (folder / recipe).is_file() else recipe

    variants = tuple(
        variant if variant.recipe is None else variant.model_copy(update={"recipe": placed(variant.recipe)})
        for variant in experiment.variants
    )
    return experiment.model_copy(update={"recipe": placed(experiment.recipe), "variants": variants})


def _problem(error: ErrorDetails) -> str:
    """Return one error of pydantic, with its key: variants are counted from 1."""
    key = ".".join(str(part + 1 if isinstance(part, int) else part) for part in error["loc"])

    def unknown(parts: Sequence[str], _given: object) -> str:
        section = Variant if parts[0] == "variant" else Experiment
        return f"{key}: is no key of an experiment; known here: {', '.join(_keys(section))}"

    return problem_of(key, [error], unknown)


def _keys(section: type[RecipeSection]) -> Sequence[str]:
    return [field.alias or name for name, field in section.model_fields.items()]
