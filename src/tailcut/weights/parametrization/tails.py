"""Tails of a network's tensors cut at once: to given counts, or where they are empty."""

from collections.abc import Mapping

from torch import nn

from tailcut.weights.parametrization.attach import set_length
from tailcut.weights.parametrization.truncated_tensors import truncated_tensors


def cut_empty_tails(model: nn.Module) -> dict[str, int]:
    """Cut each tensor behind its last coefficient that is not 0 (changes the module). Returns the counts by name."""
    counts = {}
    for tensor in truncated_tensors(model):
        used = tensor.coefficients().detach().nonzero()
        counts[tensor.name] = int(used[-1]) + 1 if len(used) else 1
    cut_to(model, counts)
    return counts


def cut_to(model: nn.Module, counts: Mapping[str, int]) -> None:
    """Keep the first so many coefficients of each tensor, by name (changes the module: vectors become shorter)."""
    for tensor in truncated_tensors(model):
        set_length(tensor.holder, tensor.truncation, counts[tensor.name])
