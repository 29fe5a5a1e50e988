"""Copies of networks, also of those that `copy.deepcopy` refuses."""

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from tailcut.errors import ArgumentError


def computed_attributes(model: nn.Module) -> list[torch.Tensor]:
    """Return tensors computed with gradients that modules hold as attributes; a deepcopy needs copies of them.

    They may lie in lists, tuples and dicts, as features that a forward keeps do. `torch.nn.utils.weight_norm` leaves
    such a weight, made of two parameters, until the next forward makes it anew. A deepcopy refuses tensors that have a
    gradient function.
    """
    found, seen = [], set[int]()
    waiting: list[Any] = [vars(module) for module in model.modules()]
    while waiting:
        value = waiting.pop()
        if isinstance(value, torch.Tensor):
            found += [] if value.is_leaf else [value]
        elif isinstance(value, (Mapping, list, tuple)) and id(value) not in seen:
            seen.add(id(value))
            waiting += value.values() if isinstance(value, Mapping) else value
    return found


def deepcopied(model: nn.Module, memo: dict[int, Any] | None = None, *, so_that: str = "") -> nn.Module:
    """Return a deepcopy of `model`, also where `copy.deepcopy` refuses a computed tensor; the model is not changed.

    Args:
        model: the network.
        memo: what the copy has in place of some objects, by their id; copies of `computed_attributes` when None.
        so_that: for the error, what cannot be done without a copy.

    Raises:
        ArgumentError: a module of it cannot be copied.
    """
    if memo is None:
        memo = {id(tensor): tensor.detach().clone() for tensor in computed_attributes(model)}
    try:
        copied = copy.deepcopy(model, memo)
    except Exception as error:
        raise ArgumentError(f"the network cannot be copied{so_that}: {error}") from error
    # Copies of torchvision's feature extractors are in training mode, whatever they are copies of.
    modes = {name: module.training for name, module in model.named_modules()}
    if copied.training != model.training:
        copied.train(model.training)
    for name, module in copied.named_modules():
        module.training = modes.get(name, module.training)
    return copied
