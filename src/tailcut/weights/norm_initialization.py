"""Batch norm initialisation with spread values, which separates channels that truncation made identical.

A truncated weight is smooth along its outputs: channels beside each other begin nearly as copies. What has a number of
its own for each channel is the batch norm behind it, and by custom all its gains begin at one and its biases at zero.
"""

from numbers import Real

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from tailcut.errors import ArgumentError, StructureError


def initialize_norms(model: nn.Module, std: float = 1.0) -> list[str]:
    """Add normal noise to the gains and biases of batch norm (changes the model), before training.

    Each number gets independent noise from torch's global generator. Frozen gains and biases stay as they are.

    Args:
        model: a network before training.
        std: standard deviation of the noise, above 0. By custom gains begin at 1, and what they scale has variance 1.

    Returns:
        Names of the layers that were changed.

    Raises:
        ArgumentError: `std` is no positive finite number.
        StructureError: there is no batch norm with gains or biases that train.
    """
    if isinstance(std, bool) or not isinstance(std, Real) or not 0 < float(std) < float("inf"):
        raise ArgumentError(f"std must be a finite number above 0, got {std!r}")
    norms = {name: _trained(module) for name, module in model.named_modules() if isinstance(module, _BatchNorm)}
    changed = [name for name, parts in norms.items() if parts]
    if not changed:
        raise StructureError("expected batch norm with gains or biases that train, but the network has none")
    with torch.no_grad():
        for name in changed:
            for part in norms[name]:
                part.add_(torch.randn_like(part), alpha=float(std))
    return changed


def _trained(norm: _BatchNorm) -> list[nn.Parameter]:
    return [part for part in (norm.weight, norm.bias) if part is not None and part.requires_grad]
