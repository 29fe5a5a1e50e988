from typing import Any

import pytest
from pydantic import ValidationError

from tailcut.training.recipe.schema import PaperSection, Recipe, RegularizationSection, ScheduleSection

SMALLEST: dict[str, Any] = {
    "name": "a",
    "model": {"name": "lenet5"},
    "data": {"name": "mnist"},
    "optimizer": {"lr": 0.01},
    "training": {"epochs": 1},
}


def test_the_smallest_recipe_is_a_reference_in_float32() -> None:
    recipe = Recipe.model_validate(SMALLEST)
    assert recipe.regularization is None
    assert recipe.schedule is None
    assert recipe.pack.dtype == "float32"
    assert recipe.data.train_split == "train"


def test_a_recipe_cannot_be_changed() -> None:
    recipe = Recipe.model_validate(SMALLEST)
    with pytest.raises(ValidationError, match="frozen"):
        recipe.name = "b"


def test_unquoted_tensor_names_become_dotted() -> None:
    section = ScheduleSection.model_validate({"num_kept": {"conv1": {"weight": 5}, "fc1.weight": 7}, "gamma": 0.1})
    assert section.num_kept == {"conv1.weight": 5, "fc1.weight": 7}


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"num_kept": 5, "keep_ratio": 0.5, "gamma": 0.1}, "exactly one target"),
        ({"gamma": 0.1}, "exactly one target"),
        ({"num_kept": 5}, "exactly one of gamma"),
        ({"num_kept": 5, "gamma": 0.1, "fraction": 0.5}, "exactly one of gamma"),
        ({"num_kept": 5, "gamma": 0.1, "spacing": "geometric"}, "needs fraction"),
    ],
)
def test_a_schedule_has_one_target_and_one_speed(section: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        ScheduleSection.model_validate(section)


@pytest.mark.parametrize(
    ("extra", "kind"),
    [
        (
            {
                "training": {"epochs": 1, "loss": "gan"},
                "generation": {"discriminator": {"name": "dcgan_discriminator"}},
            },
            "the networks of a gan",
        ),
        ({"detection": {}}, "a detector"),
    ],
)
def test_what_takes_no_batch_of_images_has_no_standardized_start(extra: dict[str, Any], kind: str) -> None:
    wanted = {**SMALLEST, "regularization": {"num_kept": 5, "initialization": "lsuv"}}
    assert Recipe.model_validate(wanted).regularization is not None
    with pytest.raises(ValidationError, match=f"'lsuv' runs the network .* {kind} cannot be run so"):
        Recipe.model_validate({**wanted, **extra})


def test_more_epochs_than_anybody_means_are_refused() -> None:
    assert Recipe.model_validate({**SMALLEST, "training": {"epochs": 1_000_000}}).training.epochs == 1_000_000
    with pytest.raises(ValidationError, match="less than or equal to 1000000"):
        Recipe.model_validate({**SMALLEST, "training": {"epochs": 10**20}})


def test_a_regularization_has_one_start() -> None:
    with pytest.raises(ValidationError, match="not both"):
        RegularizationSection(keep_ratio=0.5, num_kept=5)


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        ({"schedule": {"num_kept": 5, "gamma": 0.1}}, "needs a \\[regularization\\] section"),
        ({"training": {"epochs": 1, "round_from": 0.5}}, "needs a \\[regularization\\] section"),
        ({"regularization": {}, "training": {"epochs": 1, "round_from": 0.5}}, "choose float16"),
    ],
)
def test_sections_must_fit_one_another(extra: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        Recipe.model_validate({**SMALLEST, **extra})


@pytest.mark.parametrize(
    ("metrics", "message"),
    [
        ({"accuracy": 98.0}, "accuracy must be 0 to 1, got 98"),
        ({"dice": -0.1}, "dice must be 0 to 1"),
        ({"fid": "a"}, "fid"),
    ],
)
def test_a_paper_has_fractions_and_distances(metrics: dict[str, Any], message: str) -> None:
    assert PaperSection(source="Table 4", metrics={"fid": 244.0, "accuracy": 0.5}).metrics["fid"] == 244
    with pytest.raises(ValidationError, match=message):
        PaperSection(source="Table 4", metrics=metrics)
