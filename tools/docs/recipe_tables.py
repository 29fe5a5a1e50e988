"""A table of all recipes of a folder: what came of their trainings, one line for all seeds."""

import functools
import statistics
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import nn

from tailcut.channels import prune
from tailcut.counting import count_macs, count_parameters
from tailcut.inputs import BlockDCT, Selection, replace_stem, use_ycbcr
from tailcut.reports import read_records, same_training
from tailcut.runs import Result
from tailcut.structure import create_model, example_shape
from tailcut.training.recipe.fields import ModelSection
from tailcut.training.recipe.schema import InputsSection, PruningSection, Recipe
from tailcut.training.recipe.toml_files import load_recipe, shipped_recipes
from tools.docs.comparisons import mean_and_spread
from tools.docs.markdown import counted, duration, markdown_table, percent

ACCURACY = "accuracy"
SIDES = {"cifar10": 32, "imagenet": 224, "imagenette": 224}  # of images, in pixels, where a recipe does not say it
HEADER = (
    "recipe",
    "description",
    "epochs",
    "seeds",
    "test accuracy",
    "paper",
    "parameters",
    "MACs",
    "device",
    "time",
    "command",
)
ALIGN = "<<>>>>>><><"


def recipe_table(records: Path, folder: str) -> str:
    """Return one line per recipe of `folder` that comes with Tailcut, with the mean over its seeds.

    Args:
        records: the folder of the records, see `tailcut.reports.records_folder`.
        folder: a folder of recipes, "frequency-inputs".
    """
    results = read_records(records)
    rows = []
    for name in shipped_recipes():
        if name.startswith(f"{folder}/"):
            recipe = load_recipe(name)
            groups = same_training([result for result in results if result.name == recipe.name])
            rows += [cells(recipe, group) for group in groups or [[]]]
    return markdown_table(HEADER, rows, ALIGN)


def cells(recipe: Recipe, runs: Sequence[Result]) -> list[str]:
    """Return the line of runs that differ in their seeds only; of none, one that says so."""
    metric = metric_of(recipe)
    paper = recipe.paper.metrics.get(metric) if recipe.paper is not None and not recipe.paper.why_not else None
    # What was trained may differ from the recipe as it stands now (`--set`, or the recipe was changed since).
    trained = Recipe.model_validate(runs[0].recipe) if runs else recipe
    dense = dense_size(trained)
    left = pruned_size(trained)
    size = dense if recipe.pruning is None else left
    parameters = "" if size is None else f"{size[0]:,}"
    macs = "" if dense is None else macs_text(trained, dense[1])
    head = [f"`{recipe.name}`", recipe.description]
    figures = ["" if paper is None else labelled(metric, percent(paper))]
    if not runs:
        return [*head, "", "", "not run", *figures, parameters, macs, "", "", ""]
    first = runs[0]
    values = [result.metrics[metric] for result in runs]
    return [
        *head,
        f"{first.epochs}",
        ", ".join(f"{result.seed}" for result in runs),
        labelled(metric, mean_and_spread(values)),
        *figures,
        f"{first.num_parameters:,}",
        macs,
        f"{first.num_devices} x {first.device}, {counted(first.num_threads, 'thread')}",
        duration(statistics.fmean(result.seconds for result in runs)),
        f"`{first.command}`",
    ]


def metric_of(recipe: Recipe) -> str:
    """Return the figure of a line: the first that the paper has for it, the chief one of its task if it has none."""
    chief = ACCURACY if recipe.detection is None else "box_AP50"
    return next(iter(recipe.paper.metrics), chief) if recipe.paper is not None else chief


def labelled(metric: str, text: str) -> str:
    """Return the figure, with its name where it is no accuracy."""
    return text if metric == ACCURACY else f"{metric} {text}"


def macs_text(recipe: Recipe, macs: int) -> str:
    """MACs for one image; of a network that is pruned, what the recipe alone tells of them."""
    before = f"{macs / 1e6:,.0f} M"
    if recipe.pruning is None:
        return before
    if recipe.pruning.macs_ratio is not None:
        return f"at most {recipe.pruning.macs_ratio * macs / 1e6:,.0f} M of {before}"
    left = pruned_size(recipe)
    return f"{before} before pruning" if left is None else f"{left[1] / 1e6:,.0f} M of {before}"


def image_side(recipe: Recipe) -> int:
    """Of the recipe's images, in pixels."""
    kind, _, size = recipe.data.name.partition("@")
    return int(size.rpartition("/")[2]) if size else SIDES[kind]


def dense_size(recipe: Recipe) -> tuple[int, int] | None:
    """Parameters and MACs for one image, before pruning; None for detectors, whose inputs have no one size."""
    if recipe.detection is not None:
        return None
    inputs = "" if recipe.inputs is None else recipe.inputs.model_dump_json()
    return _dense_size(recipe.model.model_dump_json(), inputs, image_side(recipe))


@functools.cache
def _dense_size(model_json: str, inputs_json: str, side: int) -> tuple[int, int] | None:
    """Count a network for images of `side` pixels, read as `inputs_json` says if it is not empty.

    Takes the sections as JSON, so that each network is counted once. Counted on the meta device, without memory.
    """
    section = ModelSection.model_validate_json(model_json)
    with torch.device("meta"):
        model = create_model(section.name, **section.arguments)
    inputs = InputsSection.model_validate_json(inputs_json) if inputs_json else None
    shape = (1, 3, side, side) if inputs is None else _read_channels(model, inputs, side)
    if shape is None:
        return None
    return count_parameters(model), count_macs(model, torch.empty(shape, device="meta")).total


def macs_left(recipe: Recipe) -> float:
    """Return the part of its MACs that a recipe with rates leaves of a network.

    Raises:
        ValueError: the recipe does not prune by rates.
    """
    before, after = dense_size(recipe), pruned_size(recipe)
    if before is None or after is None:
        raise ValueError(f"{recipe.name} does not prune by rates")
    return after[1] / before[1]


def pruned_size(recipe: Recipe) -> tuple[int, int] | None:
    """Parameters and MACs for one image of what a recipe with rates leaves; None for others."""
    if recipe.pruning is None or recipe.pruning.rates is None or recipe.inputs is not None:
        return None
    pruning = recipe.pruning.model_dump_json(include={"rates", "min_channels", "round_to"})
    return _pruned_size(recipe.model.model_dump_json(), pruning, image_side(recipe))


@functools.cache
def _pruned_size(model_json: str, pruning_json: str, side: int) -> tuple[int, int]:
    """Prune a network that reads images of `side` pixels, and count what is left.

    Rates fix how many channels stay, whatever their scores, so any scores do.
    """
    section, pruning = ModelSection.model_validate_json(model_json), PruningSection.model_validate_json(pruning_json)
    model = create_model(section.name, **section.arguments)
    scores = {
        name: torch.arange(len(module.weight))
        for name, module in model.named_modules()
        if isinstance(module, (nn.Conv2d, nn.Linear))
    }
    rates = list(pruning.rates) if isinstance(pruning.rates, tuple) else pruning.rates
    least, multiple = pruning.min_channels, pruning.round_to
    report = prune(model, torch.zeros(1, 3, side, side), scores, rates, min_channels=least, round_to=multiple)
    return report.num_parameters_after, report.macs_after


def _read_channels(model: nn.Module, section: InputsSection, side: int) -> tuple[int, ...] | None:
    """Give the network (changed) the input of its recipe; the shape of that for images of `side` pixels."""
    if section.pixels is not None:
        use_ycbcr(model, image_size=side)
    else:
        channels = section.channels
        selection = Selection.load(channels) if isinstance(channels, str) else Selection.of(channels)
        transform = BlockDCT(selection, chroma=section.chroma)
        first, strides, gate = section.first, section.strides, section.gate
        replace_stem(model, transform, first=first, strides=strides, gate=gate, image_size=side)
    return example_shape(model)
