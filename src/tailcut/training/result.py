"""Result of a finished run: the metrics of the packed file, and the settings that produced them."""

import logging
import math
import platform
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from torch import nn

from tailcut.compression import compress
from tailcut.compression.post_training.compress import check_room
from tailcut.errors import ArgumentError, DivergedError, RecipeError, StructureError
from tailcut.format import encode_network, save
from tailcut.model_inputs import Loader
from tailcut.printing import is_fraction
from tailcut.runs import Result, Run, tailcut_version
from tailcut.structure import deepcopied
from tailcut.training.recipe.schema import PackSection, Recipe
from tailcut.training.setup.initial_network import parent_fingerprint
from tailcut.training.setup.initialization import num_in_use
from tailcut.weights import kept_counts, norm_counts, truncated_tensors

logger = logging.getLogger(__name__)

EXACT = "--dtype float32 --other-dtype float32"

FILE_LOSS = 0.02
"""What packing may cost of a metric between 0 and 1 before it is said; rounding costs a tenth of it."""


def check_packable(network: nn.Module, recipe: Recipe) -> None:
    """Refuse a network that no file of the recipe can hold, or that its class does not make again, before training.

    Its numbers do not matter: a copy without them is packed into memory.

    Raises:
        RecipeError: says why.
    """
    section = recipe.pack
    try:
        empty = deepcopied(network)
        with torch.no_grad():
            for value in empty.state_dict(keep_vars=True).values():
                with suppress(RuntimeError):  # of memory that several numbers share, as expanded buffers do
                    value.zero_()
        encode_network(empty, dtype=section.dtype, other_dtype=section.other_dtype, levels=section.levels)
        if section.max_bytes is not None and recipe.schedule is None:  # which leaves fewer numbers than there are now
            check_room(empty, section.max_bytes, {"levels": section.levels})
    except (ArgumentError, StructureError) as error:
        raise RecipeError(f"model: the trained network could not be packed: {error}") from error


def save_trained(network: nn.Module, path: Path, run: Run, section: PackSection, loader: Loader | None = None) -> None:
    """Write a network of a finished training, on the first process.

    Args:
        network: what was trained.
        path: the file.
        run: its run.
        section: of its recipe.
        loader: batches of its inputs, for levels and to compress it.

    Raises:
        DivergedError: a number has become too large for its type, or none at all; or no step makes the file so small.
    """
    types: dict[str, Any] = {"dtype": section.dtype, "other_dtype": section.other_dtype}
    try:
        if section.max_bytes is None:
            save(network, path, **types, levels=section.levels, loader=loader)
        else:
            compress(network, path, loader or (), max_bytes=section.max_bytes, levels=section.levels)
    except ArgumentError as error:
        larger = "" if section.max_bytes is None else " or a larger pack.max_bytes"
        raise DivergedError(
            f"not packed: {error}. The checkpoint is kept: tailcut pack {run.path} -o FILE {EXACT} "
            f"packs it; or train anew in another folder with a lower optimizer.lr{larger}"
        ) from error


def trained_on(lines: Sequence[Mapping[str, Any]], device: str) -> str:
    """Return the devices of the epochs in `lines`, in their order, joined by "and"; `device` where there are none."""
    return " and ".join(dict.fromkeys(line.get("device", device) for line in lines)) or device


def make_result(
    recipe: Recipe,
    run: Run,
    packed: nn.Module,
    *,
    command: str,
    device: str,
    num_devices: int,
    epochs: int,
    seconds: float,
    split_sizes: dict[str, int],
    metrics: dict[str, float],
    validation: dict[str, float],
) -> Result:
    """Return the result of a run whose packed file was loaded as `packed` (not changed); see `Result`."""
    tensors = truncated_tensors(packed)
    vectors = {id(tensor.vector) for tensor in tensors}
    num_other = sum(value.numel() for value in packed.parameters() if id(value) not in vectors)
    num_norms = sum(norm_counts(packed).values())
    return Result(
        name=recipe.name,
        command=command,
        recipe=recipe.model_dump(mode="json", exclude_none=True),
        seed=recipe.training.seed,
        epochs=epochs,
        device=device,
        num_devices=num_devices,
        num_threads=torch.get_num_threads(),
        seconds=round(seconds, 3),
        versions={
            "python": platform.python_version(),
            "tailcut": tailcut_version(),
            "torch": torch.__version__,
        },
        split_sizes={name: size for name, size in split_sizes.items() if size},
        metrics=metrics,
        validation=validation,
        num_kept=num_in_use(packed, recipe.regularization) - num_norms,
        num_parameters=num_other + sum(math.prod(tensor.shape) for tensor in tensors),
        num_other=num_other + num_norms,
        file_bytes=run.model.stat().st_size,
        paper={} if recipe.paper is None else recipe.paper.model_dump(mode="json", exclude_defaults=True),
        start_fingerprint=parent_fingerprint(run),
    )


def num_kept(model: nn.Module) -> int:
    """Return the number of coefficients of weights, or of all parameters if there are none (not changed)."""
    return sum(kept_counts(model).values()) - sum(norm_counts(model).values()) or sum(
        value.numel() for value in model.parameters()
    )


def warn_of_late_cut(before: int, after: int) -> None:
    """Say that coefficients were cut after the last epoch, when no training could make up for them."""
    if after < before:
        logger.warning(
            "the last cut, from %d to %d coefficients, came after the last epoch; a higher schedule.gamma or "
            "schedule.fraction instead of it, a smaller schedule.every, or more epochs bring it earlier",
            before,
            after,
        )


def warn_of_worse_file(run: Run, line: dict[str, Any], result: Result) -> None:
    """Say that the packed network is worse on the same images than the trained one was after the last epoch.

    `line` is that of this epoch in the metrics.
    """
    packed = result.metrics if line["split"] == "test" else result.validation
    for name, before in line["metrics"].items():
        if is_fraction(name) and before - packed.get(name, before) > FILE_LOSS:
            logger.warning(
                "the packed network has %s %.2f %%, after the last epoch the trained one had %.2f %% on the same "
                "images; its checkpoint is kept: tailcut pack %s -o FILE %s packs it without rounding",
                name,
                100 * packed[name],
                100 * before,
                run.path,
                EXACT,
            )
