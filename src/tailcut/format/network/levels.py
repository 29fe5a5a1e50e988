"""The networks of a file with levels: the whole one, and those that have the first of its coefficients."""

import itertools
import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import nn

from tailcut.channels.scoring.recalibration import norms_with_statistics, recalibrate
from tailcut.errors import ArgumentError
from tailcut.format.network.tensors import NetworkTensors, OtherTensor, network_tensors
from tailcut.model_inputs import Loader, ModelInputs, first_inputs
from tailcut.structure import Coefficients, Edit, deepcopied
from tailcut.weights.nested_levels import count_in
from tailcut.weights.parametrization.tails import cut_to

LEVEL_INPUTS = 640
"""Inputs on which the statistics of each level are measured, as many as `recalibrate` takes of batches of 128."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class NetworkLevel:
    """A level of a network.

    Attributes:
        tensors: of the network of this level.
        has_others: whether its other tensors differ from those of the level below; True for the lowest.
    """

    tensors: NetworkTensors
    has_others: bool = True


def network_levels(
    model: nn.Module, tensors: NetworkTensors, edits: Sequence[Edit], parts: Sequence[int], loader: Loader | None
) -> list[NetworkLevel]:
    """Return the levels of a network, the lowest first, the whole network last. Does not change the model.

    Args:
        model: the network.
        tensors: of it.
        edits: of it, as they are now.
        parts: of each level but the highest, see `parts_of`; empty for a network without levels.
        loader: batches of inputs, on the first `LEVEL_INPUTS` of which the running statistics of batch norm are
            measured again for each level but the highest; None leaves them.

    Raises:
        ArgumentError: the network has no coefficients, or does not run on the batches.
    """
    if not parts:
        return [NetworkLevel(tensors)]
    if not tensors.coefficients:
        raise ArgumentError("levels need a truncated network: regularize it first")
    has_statistics = bool(norms_with_statistics(model))
    # Once for all levels: a loader may give its batches only once, or others each time.
    batches = None if loader is None or not has_statistics else first_inputs(loader, LEVEL_INPUTS)
    found = []
    for number in range(len(parts)):
        counts = [count_in(number, entry.num_kept, parts) for entry in tensors.coefficients]
        others = tensors.others
        if batches is not None:
            others = _others_of(model, edits, counts, tensors, batches)
        found.append(NetworkTensors([*map(_first, tensors.coefficients, counts)], others))
    found.append(tensors)
    differ = [True, *(not _are_equal(low.others, high.others) for low, high in itertools.pairwise(found))]
    return [NetworkLevel(level, has_others) for level, has_others in zip(found, differ, strict=True)]


def warn_of_statistics(model: nn.Module) -> None:
    """Warn that levels were made without a loader, where batch norm needs it."""
    if norms_with_statistics(model):
        _log.warning(
            "batch norm's running statistics are those of the whole network in every level, which likely spoils the "
            "smaller ones: give loader=, batches of training inputs"
        )


def _first(entry: Coefficients, count: int) -> Coefficients:
    return replace(entry, num_kept=count, values=entry.values[:count])


def _others_of(
    model: nn.Module,
    edits: Sequence[Edit],
    counts: Sequence[int],
    tensors: NetworkTensors,
    batches: Sequence[ModelInputs],
) -> list[OtherTensor]:
    """Return the other tensors of the network with fewer coefficients, its statistics measured again."""
    smaller = deepcopied(model)
    named = dict(zip((entry.name for entry in tensors.coefficients), counts, strict=True))
    cut_to(smaller, named)
    recalibrate(smaller, batches)
    return network_tensors(smaller, list(edits)).others


def _are_equal(others: Sequence[OtherTensor], more: Sequence[OtherTensor]) -> bool:
    return all(torch.equal(one.tensor, other.tensor) for one, other in zip(others, more, strict=True))
