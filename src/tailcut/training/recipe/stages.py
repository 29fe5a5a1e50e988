"""The stages of a recipe: trainings one after another, each from the network of the one before."""

from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from tailcut.errors import RecipeError
from tailcut.runs import STAGE_PREFIX
from tailcut.training.recipe.keys import problems_of, remove_key, split_key
from tailcut.training.recipe.schema import Recipe, StartSection
from tailcut.training.recipe.sections import StageSection

OWN: dict[str, Any] = {"stage": True, "start": True, "paper": True, "pack": {"max_bytes"}}
"""What is of the recipe's own training, and of no stage: rounded numbers are no start for the next one."""


def stages_of(recipe: Recipe) -> dict[str, Recipe]:
    """Return the trainings before that of the recipe itself, by name and in order; empty for a recipe without stages.

    The first starts as the recipe says, each other one from the network of the one before (`stage:NAME`).

    Raises:
        RecipeError: a stage has a key or a value that no recipe can have, or another precision than the recipe.
    """
    found: dict[str, Recipe] = {}
    start = recipe.start
    for section in recipe.stage:
        stage = _stage(recipe, section, start)
        if stage.training.precision != recipe.training.precision:
            raise RecipeError(
                f"stage {section.name}: training.precision: must be that of the recipe, "
                f"{recipe.training.precision}, got {stage.training.precision}"
            )
        if stage.training.loss == "gan" or stage.detection is not None:
            key = "training.loss" if stage.detection is None else "detection"
            raise RecipeError(f"stage {section.name}: {key}: a gan or a detector can be no stage of another training")
        found[section.name] = stage
        start = StartSection(file=f"{STAGE_PREFIX}{section.name}")
    _check_inputs(recipe, found)
    return found


def _check_inputs(recipe: Recipe, stages: Mapping[str, Recipe]) -> None:
    """Refuse a second change of the network's input: a stage has the sections of the recipe, and so has the last."""
    changing = [f"stage {name}" for name, stage in stages.items() if stage.inputs is not None]
    changing += ["the recipe itself"] if recipe.inputs is not None and stages else []
    if len(changing) > 1:
        raise RecipeError(
            f"inputs: the network reads them from {changing[0]} on, and {changing[1]} would replace its input again; "
            "give the section to the first stage alone, as [stage.inputs]"
        )


def last_stage(recipe: Recipe) -> Recipe:
    """Return the training of the recipe itself, which starts from the network of the stage before, if there is one."""
    if not recipe.stage:
        return recipe
    start = StartSection(file=f"{STAGE_PREFIX}{recipe.stage[-1].name}")
    return recipe.model_copy(update={"stage": (), "start": start})


def _stage(recipe: Recipe, section: StageSection, start: StartSection | None) -> Recipe:
    values = recipe.model_dump(mode="json", exclude_none=True, exclude=OWN)
    for key in section.without:
        if not remove_key(values, split_key(key)):
            raise RecipeError(f"stage {section.name}: without: the recipe has no key {key!r}")
    if start is not None:
        values["start"] = start.model_dump()
    changes = dict(section.model_extra or {})
    for key in ("stage", "start", "paper"):
        if key in changes:
            raise RecipeError(f"stage {section.name}: {key}: is no key of a stage; it stands in the recipe")
    values = {**_merged(values, changes), "name": f"{recipe.name}-{section.name}"}
    try:
        return Recipe.model_validate(values)
    except ValidationError as error:
        raise RecipeError(f"stage {section.name}: {'; '.join(problems_of(error))}") from error


def _merged(values: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values with these changes; tables are merged key by key."""
    merged = dict(values)
    for key, item in changes.items():
        before = merged.get(key)
        if isinstance(before, Mapping) and isinstance(item, Mapping):
            merged[key] = _merged(before, item)
        else:
            merged[key] = item
    return merged
