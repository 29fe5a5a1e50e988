"""Gains and shifts of batch norm in fewer numbers than channels, as the first coefficients of a DCT."""

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from tailcut.arguments import is_integer
from tailcut.errors import ArgumentError, StructureError
from tailcut.structure import Record, check_module, record_of, set_record, without_views
from tailcut.weights.layers import Candidate, candidates
from tailcut.weights.parametrization.attach import attach, finish_attaching
from tailcut.weights.parametrization.truncated_tensors import truncated_tensors
from tailcut.weights.parametrization.truncation import Truncation
from tailcut.weights.regularization.edit import RegularizeEdit


def truncate_norms(model: nn.Module, num_kept: int) -> list[str]:
    """Replace the gains and shifts of batch norm by the first coefficients of their DCT. Changes the model.

    A truncated weight has few coefficients, and the batch norm behind it two numbers for each channel: in small files
    they weigh more than all the weights. Works on dense and on truncated networks, but before fusing and before an
    optimiser has a state. What a trained network loses with it has to be trained anew.

    Args:
        model: the network.
        num_kept: coefficients of each vector; 1 leaves one gain and one shift to each layer. 0 leaves none: gains
            become 1, shifts 0, and neither is trained.

    Returns:
        Names of the vectors that were changed; one with no more channels than `num_kept` is not.

    Raises:
        ArgumentError: `num_kept` is no whole number from 0.
        StructureError: there is no batch norm with gains or shifts, or they are coefficients already.
    """
    check_module("truncate_norms", model)
    model = without_views(model)
    if not is_integer(num_kept) or num_kept < 0:
        raise ArgumentError(f"num_kept of batch norm must be a whole number from 0, got {num_kept!r}")
    num_kept = int(num_kept)
    if norm_counts(model):
        raise StructureError("batch norm's gains and shifts are coefficients already; TailTruncation cuts them further")
    found = [entry for entry in candidates(model) if any(isinstance(module, _BatchNorm) for module, _ in entry.owners)]
    if not found:
        raise StructureError("expected batch norm with gains or shifts, but the network has none")
    if num_kept == 0:
        _fix(found)
        return [entry.names[0] for entry in found]
    chosen = [entry for entry in found if entry.obstacle is None and entry.parameter.numel() > num_kept]
    if not chosen:
        return []
    with torch.inference_mode(False), torch.no_grad():
        for entry in chosen:
            vector = entry.parameter
            truncation = Truncation(
                tuple(vector.shape), num_kept, axes=(0,), order_weights=(1,), device=vector.device, dtype=vector.dtype
            )
            attach(entry, truncation)
    finish_attaching(model)
    _record(model)
    return [entry.names[0] for entry in chosen]


def norm_counts(model: nn.Module) -> dict[str, int]:
    """Return how many coefficients each truncated gain and shift of batch norm keeps. Does not change the model."""
    model = without_views(model)
    modules = dict(model.named_modules())
    return {
        tensor.name: tensor.num_kept
        for tensor in truncated_tensors(model)
        if isinstance(modules.get(tensor.name.rpartition(".")[0]), _BatchNorm)
    }


def _fix(found: list[Candidate]) -> None:
    """Make gains 1 and shifts 0, and freeze them (changes the modules)."""
    for entry in found:
        if entry.obstacle is not None:
            raise StructureError(f"{entry.names[0]} cannot be fixed: {entry.obstacle}")
    with torch.no_grad():
        for entry in found:
            entry.parameter.fill_(1.0 if entry.owners[0][1] == "weight" else 0.0)
            entry.parameter.requires_grad_(False)


def _record(model: nn.Module) -> None:
    """Write down all truncated tensors: one edit has those of the weights too (changes the record)."""
    record, now = record_of(model), RegularizeEdit.of(model)
    known = any(isinstance(edit, RegularizeEdit) for edit in record.edits)
    edits = [now if isinstance(edit, RegularizeEdit) else edit for edit in record.edits]
    set_record(model, Record(record.base, edits if known else [*edits, now]))
