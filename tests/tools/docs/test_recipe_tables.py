"""Tables of a folder's recipes, from records made here in temporary folders."""

from pathlib import Path
from typing import Any

import pytest
import torch

from tailcut.counting import count_macs, count_parameters
from tailcut.inputs import replace_stem
from tailcut.reports import read_records
from tailcut.runs import Result, Run
from tailcut.structure import create_model
from tailcut.training.recipe.schema import Recipe
from tailcut.training.recipe.toml_files import load_recipe, shipped_recipes
from tools.docs import recipe_tables

RECORDS = Path(__file__).resolve().parents[3] / "docs" / "results"
HEADER = list(recipe_tables.HEADER)


def record(folder: Path, name: str, seed: int, metrics: dict[str, float], *overrides: str, **changes: Any) -> None:
    """Write the result of a run of a shipped recipe where the repository would have it."""
    recipe = load_recipe(name, [f"training.seed={seed}", *overrides])
    values: dict[str, Any] = {
        "name": recipe.name,
        "command": f"tailcut train {recipe.name} --set training.seed={seed} --out runs/{seed}",
        "recipe": recipe.model_dump(mode="json", exclude_none=True),
        "seed": seed,
        "epochs": recipe.training.epochs,
        "device": "cpu",
        "num_devices": 1,
        "num_threads": 1,
        "seconds": 3600.0,
        "versions": {},
        "split_sizes": {"test": 3925},
        "metrics": metrics,
        "validation": {},
        "num_kept": 0,
        "num_parameters": 1234567,
        "num_other": 1234567,
        "file_bytes": 99,
    }
    place = folder / name.partition("/")[0]
    place.mkdir(parents=True, exist_ok=True)
    Run(place).write_result(Result(**values | changes))
    Run(place).result.rename(place / f"{recipe.name}-{seed}.json")


def lines(table: str) -> list[dict[str, str]]:
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()]
    return [dict(zip(HEADER, row, strict=True)) for row in rows[2:]]


def line_of(table: str, name: str) -> dict[str, str]:
    (found,) = [line for line in lines(table) if line["recipe"] == f"`{name}`"]
    return found


@pytest.mark.parametrize("folder", ["frequency-inputs", "frequency-pruning"])
def test_every_recipe_has_a_line_and_none_is_run(folder: str, tmp_path: Path) -> None:
    found = lines(recipe_tables.recipe_table(tmp_path, folder))
    recipes = [name.rpartition("/")[2] for name in shipped_recipes() if name.startswith(f"{folder}/")]
    assert [line["recipe"] for line in found] == [f"`{name}`" for name in recipes]
    assert {line["test accuracy"] for line in found} == {"not run"}
    assert {line[key] for line in found for key in ("epochs", "seeds", "device", "time", "command")} == {""}


def test_seeds_have_one_line(tmp_path: Path) -> None:
    name = "frequency-inputs/imagenette-resnet18-dct24"
    for seed, accuracy, seconds in ((0, 0.80, 3000.0), (2, 0.82, 3600.0), (1, 0.84, 4200.0)):
        record(tmp_path, name, seed, {"accuracy": accuracy}, seconds=seconds)
    line = line_of(recipe_tables.recipe_table(tmp_path, "frequency-inputs"), "imagenette-resnet18-dct24")
    assert line == {
        "recipe": "`imagenette-resnet18-dct24`",
        "description": "Imagenette, ResNet-18: 24 frequency channels at 224 pixels",
        "epochs": f"{load_recipe(name).training.epochs}",
        "seeds": "0, 1, 2",
        "test accuracy": "82.00 ± 2.00 %",
        "paper": "",
        "parameters": "1,234,567",
        "MACs": line["MACs"],
        "device": "1 x cpu, 1 thread",
        "time": "60 min",
        "command": "`tailcut train imagenette-resnet18-dct24 --set training.seed=0 --out runs/0`",
    }


def test_one_seed_has_no_spread_and_other_settings_a_line_of_their_own(tmp_path: Path) -> None:
    name = "frequency-pruning/resnet56-tuned"
    record(tmp_path, name, 0, {"accuracy": 0.935})
    record(tmp_path, name, 1, {"accuracy": 0.5}, "training.epochs=1")
    table = recipe_tables.recipe_table(tmp_path, "frequency-pruning")
    found = [line for line in lines(table) if line["recipe"] == "`resnet56-tuned`"]
    assert [(line["seeds"], line["epochs"], line["test accuracy"]) for line in found] == [
        ("0", f"{load_recipe(name).training.epochs}", "93.50 %"),
        ("1", "1", "50.00 %"),
    ]
    assert {line["paper"] for line in found} == {"93.97 %"}


def test_figures_that_cannot_be_compared_are_left_out() -> None:
    recipe = load_recipe("resnet56-tuned")
    assert recipe.paper is not None
    other = recipe.model_copy(update={"paper": recipe.paper.model_copy(update={"why_not": "other data"})})
    place = HEADER.index("paper")
    assert [recipe_tables.cells(one, [])[place] for one in (recipe, other)] == ["93.97 %", ""]


def test_another_metric_is_named() -> None:
    recipe = load_recipe("mask-rcnn-rgb")
    values = {"source": "a table", "metrics": {"box_AP": 0.371, "mask_AP": 0.3}}
    named = Recipe.model_validate(recipe.model_dump() | {"paper": values})
    assert recipe_tables.cells(named, [])[HEADER.index("paper")] == "box_AP 37.10 %"


@pytest.mark.parametrize(
    ("name", "macs", "parameters"),
    [
        # The papers of both networks say 4.1 and 0.3 billion.
        ("imagenet-resnet50-rgb", "4,089 M", "25,557,032"),
        ("imagenet-mobilenetv2-rgb", "301 M", "3,504,872"),
    ],
)
def test_networks_of_pixels(name: str, macs: str, parameters: str) -> None:
    line = dict(zip(HEADER, recipe_tables.cells(load_recipe(name), []), strict=True))
    assert (line["MACs"], line["parameters"]) == (macs, parameters)


def test_networks_are_counted_as_they_are_trained() -> None:
    """The oracle is the network itself, in memory, with the stem that the training gives it."""
    model = replace_stem(create_model("resnet18", num_classes=10), 24, image_size=224)
    macs = count_macs(model, torch.zeros(1, 24, 28, 28)).total
    recipe = load_recipe("imagenette-resnet18-dct24")
    assert recipe_tables.dense_size(recipe) == (count_parameters(model), macs)


def test_colours_change_no_size() -> None:
    one, other = (
        recipe_tables.dense_size(load_recipe(f"imagenette-resnet18-{name}")) for name in ("rgb112", "ycbcr112")
    )
    assert one is not None
    assert one == other
    assert recipe_tables.dense_size(load_recipe("mask-rcnn-rgb")) is None


def test_pruned_networks_say_what_is_known() -> None:
    """ResNet-20 has 40.55 million MACs, ResNet-56 125.49 million, 28 % fewer at the paper's rates."""
    one, other = (
        dict(zip(HEADER, recipe_tables.cells(load_recipe(name), []), strict=True))
        for name in ("resnet20-l1", "resnet56")
    )
    assert (one["MACs"], one["parameters"]) == ("at most 20 M of 41 M", "")
    assert (other["MACs"], other["parameters"]) == ("89 M of 125 M", "659,719")


def test_rates_say_what_is_left() -> None:
    """The oracle is the record of the training, whose network was pruned by its scores."""
    (result,) = (result for result in read_records(RECORDS) if result.name == "resnet56-tuned")
    left = recipe_tables.pruned_size(Recipe.model_validate(result.recipe))
    assert left is not None
    assert left[0] == result.num_parameters
    line = dict(zip(HEADER, recipe_tables.cells(load_recipe("resnet56-tuned"), []), strict=True))
    assert (line["parameters"], line["MACs"]) == ("659,719", f"{left[1] / 1e6:,.0f} M of 125 M")
    assert recipe_tables.pruned_size(load_recipe("resnet20-l1")) is None
