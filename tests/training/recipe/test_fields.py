from typing import Any

import pytest
from pydantic import TypeAdapter, ValidationError

from tailcut.training.recipe.fields import Counts, KeepRatio, ModelSection, RecipeSection
from tailcut.training.recipe.schema import OptimizerSection, TrainingSection
from tailcut.training.recipe.sections import AugmentationSection


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (5, 5),
        ({"conv1": {"weight": 5}, "fc1.weight": 7}, {"conv1.weight": 5, "fc1.weight": 7}),
        ({"a": {"b": {"c": 1, "d": 2}}}, {"a.b.c": 1, "a.b.d": 2}),
    ],
)
def test_counts_are_one_number_or_a_table_by_dotted_name(given: Any, expected: Any) -> None:
    assert TypeAdapter(Counts).validate_python(given) == expected


@pytest.mark.parametrize("given", [0, -1, {"a": {"b": 0}}, "many"])
def test_counts_are_positive(given: Any) -> None:
    with pytest.raises(ValidationError):
        TypeAdapter(Counts).validate_python(given)


@pytest.mark.parametrize("given", [0.0, 1.01, float("nan")])
def test_ratios_are_above_0_and_at_most_1(given: float) -> None:
    with pytest.raises(ValidationError):
        TypeAdapter(KeepRatio).validate_python(given)


def test_sections_refuse_unknown_keys_and_changes() -> None:
    with pytest.raises(ValidationError, match="extra"):
        ModelSection.model_validate({"name": "vae", "argument": {}})
    section = ModelSection(name="vae")
    with pytest.raises(ValidationError, match="frozen"):
        section.name = "unet"


@pytest.mark.parametrize(
    ("section", "values"),
    [
        (TrainingSection, {"epochs": True}),
        (TrainingSection, {"epochs": "3"}),
        (OptimizerSection, {"lr": True}),
        (OptimizerSection, {"lr": "0.1"}),
        (AugmentationSection, {"flip": "no"}),
        (AugmentationSection, {"flip": 1}),
    ],
)
def test_a_value_of_another_type_is_not_taken_for_one(section: type[RecipeSection], values: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match="valid"):
        section.model_validate(values)


def test_a_list_stands_for_a_tuple_and_an_integer_for_a_number() -> None:
    section = OptimizerSection.model_validate({"lr": 1, "betas": [0.5, 0.9]})
    assert (section.lr, section.betas) == (1.0, (0.5, 0.9))
