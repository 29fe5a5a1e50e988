"""Initial network of a training: created or loaded, with a new stem, pruned. Made once per run."""

import logging
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from tailcut.channels import prune, recalibrate, score
from tailcut.data import Dataset, Roots, find_file
from tailcut.errors import ArgumentError, DataNotFoundError, RecipeError, StructureError, TailcutError
from tailcut.evaluation.pixel_inputs import reader_of
from tailcut.evaluation.random_batches import network_inputs, random_batches
from tailcut.format import fingerprint, inspect, load, save
from tailcut.format.open_network import is_tailcut_file, open_network
from tailcut.inputs import BlockDCT, Selection, YCbCrPixels, replace_stem, use_ycbcr
from tailcut.inputs.transform.input_transform import InputTransform, input_transform_of
from tailcut.runs import RUN_PREFIX, STAGE_PREFIX, Run, packed_network
from tailcut.structure import base_of, create_model, family
from tailcut.training.recipe.schema import InputsSection, PruningSection, Recipe
from tailcut.training.recipe.stages import stages_of
from tailcut.training.setup.job import Job

STATISTICS_BATCH = 50
DATA_PREFIX = "data:"
PARENT_KEY = "parent"  # in the metadata of the file that a training starts from

logger = logging.getLogger(__name__)


def needs_start(recipe: Recipe) -> bool:
    """Return whether the initial network differs from a fresh one of the recipe's model."""
    return recipe.start is not None or recipe.inputs is not None or recipe.pruning is not None


def sources(recipe: Recipe) -> list[str]:
    """Return the networks that a recipe and its stages start or learn from: files, `run:NAME`, `zoo:NAME`, `start`."""
    named: list[str] = []
    for training in (recipe, *stages_of(recipe).values()):
        named += [training.start.file] if training.start is not None else []
        named += [training.distillation.teacher] if training.distillation is not None else []
        named += [training.detection.backbone] if training.detection and training.detection.backbone else []
    return [source for source in dict.fromkeys(named) if not source.startswith(STAGE_PREFIX)]


def needed_runs(recipe: Recipe) -> list[str]:
    """Return the names of the runs that must be finished beside a run of this recipe (`run:NAME` in it)."""
    named = [source.removeprefix(RUN_PREFIX) for source in sources(recipe) if source.startswith(RUN_PREFIX)]
    return list(dict.fromkeys(named))


def check_data_files(recipe: Recipe, roots: Roots = None) -> None:
    """Raise `DataNotFoundError` if a file `data:PATH` that a recipe starts or learns from lies nowhere."""
    named = {} if recipe.start is None else {"start.file": recipe.start.file}
    named |= {} if recipe.distillation is None else {"distillation.teacher": recipe.distillation.teacher}
    for key, file in named.items():
        if file.startswith(DATA_PREFIX):
            find_network(file, key, roots)


def initial_network(job: Job, dataset: Dataset) -> nn.Module | None:
    """Return the network that a training starts from, or None. The first process makes it, all load it.

    Raises:
        DataNotFoundError, RecipeError: as `make_start`.
    """
    if not needs_start(job.recipe):
        return None
    if job.fabric.is_global_zero:
        make_start(job.recipe, job.run, dataset, roots=job.roots, device=job.fabric.device)
    job.fabric.barrier()
    return load_start(job.run)


def make_start(
    recipe: Recipe, run: Run, dataset: Dataset, *, roots: Roots = None, device: torch.device | str = "cpu"
) -> None:
    """Write the network to start from into the run's folder, unless it is there.

    So a resumed training, and all processes of one training, start from the same numbers. `Run.create` removes what
    an attempt without a finished epoch left there.

    Args:
        recipe: its `model`, `start`, `inputs` and `pruning` sections.
        run: the run.
        dataset: the training images, for statistics and scores.
        roots: data roots for `data:PATH`.
        device: where channels are scored.

    Raises:
        DataNotFoundError: the file `data:PATH` of the `start` section lies under no data root.
        RecipeError: a section does not fit the network, or its file cannot be loaded.
    """
    if run.start.is_file():
        return
    model = fresh_network(recipe) if recipe.start is None else parent(recipe, roots=roots, beside=run)
    metadata = {} if recipe.start is None else {PARENT_KEY: fingerprint(model)}
    model.train()
    if recipe.inputs is not None:
        _replace_input(model, recipe.inputs, dataset, recipe.training.seed)
    if recipe.pruning is not None:
        _prune(model.to(device), recipe.pruning, dataset, recipe.training.seed)
    save(model, run.start, metadata=metadata)


def parent_fingerprint(run: Run) -> str:
    """Return the fingerprint of the network in the recipe's `start` section at the run's begin; empty without one."""
    return str(inspect(run.start).metadata.get(PARENT_KEY, "")) if run.start.is_file() else ""


def load_start(run: Run) -> nn.Module:
    """Return the network that `make_start` wrote, with gradients, in training mode."""
    return load(run.start).requires_grad_().train()


def fresh_network(recipe: Recipe) -> nn.Module:
    """Return the recipe's model with fresh parameters from torch's global generator.

    Raises:
        RecipeError: unknown model or wrong arguments.
    """
    try:
        return create_model(recipe.model.name, **recipe.model.arguments)
    except (ArgumentError, TypeError) as error:
        raise RecipeError(f"model: {error}") from error


def parent(recipe: Recipe, *, roots: Roots = None, beside: Run | None = None) -> nn.Module:
    """Return the network of the `start` section, as in its file.

    Args:
        recipe: its `start` section.
        roots: data roots for `data:PATH`.
        beside: the run that `run:NAME` lies beside.

    Raises:
        DataNotFoundError: its file `data:PATH` lies under no data root.
        RecipeError: it cannot be loaded, or is of another model than the recipe's.
    """
    if recipe.start is None:
        raise RecipeError("start: there is no such section")
    name = recipe.model.name
    try:
        source = find_network(recipe.start.file, "start.file", roots, beside)
        if is_tailcut_file(source):
            model = load(source)
        else:
            model = open_network(source, model=name, arguments=recipe.model.arguments)
    except DataNotFoundError:  # no defect of the recipe: tables leave such a row out
        raise
    except (TailcutError, OSError) as error:
        raise RecipeError(f"start.file: {error}{_run_of_checkpoint(recipe.start.file)}") from error
    base = base_of(model)
    if base is None or base.name != name:
        raise RecipeError(f"start.file: holds the model {base and base.name!r}, the recipe's is {name!r}")
    _check_arguments(recipe.model.arguments, {**family(name).defaults, **base.arguments})
    return model.requires_grad_()


def _run_of_checkpoint(file: str) -> str:
    """Return what to give in place of a checkpoint of a run, which may have coefficients; empty for other files."""
    path = Path(file).absolute()
    run = Run(path.parent.parent)
    if not run.recipe.is_file() or path.parent != run.checkpoints:
        return ""
    return "; it is a checkpoint of a run: give the run's folder, or what tailcut pack makes of it"


def _check_arguments(given: Mapping[str, Any], own: Mapping[str, Any]) -> None:
    """Raise `RecipeError` for arguments of the recipe's model that the network of the start section does not have."""
    for key, value in given.items():
        wanted = tuple(value) if isinstance(value, list) else value
        if wanted != own.get(key):
            raise RecipeError(
                f"model.arguments.{key}: is {value!r} here and {own.get(key)!r} in the network of start.file, which "
                "stays as it is; leave it out"
            )


def input_transform(job: Job) -> InputTransform | None:
    """Return the transform of the network that a recipe begins with, without its statistics if it is yet to be made.

    None for a network that reads pixels.

    Raises:
        DataNotFoundError, RecipeError: as `parent`, or no such selection.
    """
    section = job.recipe.inputs
    if section is not None:
        try:
            return _transform(section)
        except (TailcutError, OSError) as error:
            raise RecipeError(f"inputs: {error}") from error
    return input_transform_of(parent(job.recipe, roots=job.roots, beside=job.run))


def _transform(section: InputsSection) -> BlockDCT | YCbCrPixels:
    if section.pixels is not None:
        return YCbCrPixels()
    return BlockDCT(_selection(section.channels), chroma=section.chroma)


def find_network(file: str, key: str, roots: Roots, beside: Run | None = None) -> str | Path:
    """Return where the network lies that a recipe's `key` names; `file` as it is if it is no `data:`, no `run:`.

    Raises:
        ArgumentError: there is no such run beside `beside`.
        DataNotFoundError: `data:PATH` lies under no data root.
    """
    if not file.startswith(DATA_PREFIX):
        return packed_network(file, beside=beside)
    try:
        return find_file(file.removeprefix(DATA_PREFIX), roots=roots)
    except DataNotFoundError as error:
        raise DataNotFoundError(f"{key}: {error}") from error


def _selection(channels: int | tuple[int, ...] | str) -> Selection:
    return Selection.load(channels) if isinstance(channels, str) else Selection.of(channels)


def _replace_input(model: nn.Module, section: InputsSection, dataset: Dataset, seed: int) -> None:
    try:
        transform = _transform(section)
        if section.statistics_images:
            count = min(section.statistics_images, len(dataset))
            batches = -(-count // STATISTICS_BATCH)
            fit = transform.fit if dataset.stored_channels is None else transform.fit_channels
            images = random_batches(dataset, STATISTICS_BATCH, batches, seed, num_images=count)
            fit(images, over=section.statistics)
            logger.info("measured the mean and spread of the channels on %d images", count)
        size = dataset.image_shape[1:]
        if isinstance(transform, YCbCrPixels):
            use_ycbcr(model, transform, image_size=size)
            return
        gate = section.gate_temperature if section.gate else False
        replace_stem(model, transform, first=section.first, strides=section.strides, gate=gate, image_size=size)
    except (TailcutError, OSError) as error:
        raise RecipeError(f"inputs: {error}") from error


def _prune(model: nn.Module, section: PruningSection, dataset: Dataset, seed: int) -> None:
    sigma = section.gaussian_sigma
    settings: dict[str, Any] = {
        "method": section.method,
        "num_batches": section.num_batches,
        "variant": section.variant,
        "block_size": section.block_size,
        "gaussian_sigma": None if sigma == "off" else sigma,
        "spatial_weight": section.spatial_weight,
        "components": section.components,
    }
    rates = list(section.rates) if isinstance(section.rates, tuple) else section.rates
    try:
        images = partial(network_inputs, model, dataset, section.batch_size, section.num_batches, seed)
        # Of several processes the first makes the start, while the others wait for it.
        scores = score(model, images(), seed=seed, all_processes=False, **settings)
        example = reader_of(model)(torch.zeros(1, *dataset.image_shape, device=next(model.parameters()).device))
        report = prune(
            model,
            example,
            scores,
            rates,
            macs_ratio=section.macs_ratio,
            params_ratio=section.params_ratio,
            min_channels=section.min_channels,
            round_to=section.round_to,
            max_rate=section.max_rate,
            ignore=section.ignore,
        )
        if section.recalibrate:
            recalibrate(model, images(), num_batches=section.num_batches)
    except (ArgumentError, StructureError) as error:
        raise RecipeError(f"pruning: {error}") from error
    logger.info("%s", report)
