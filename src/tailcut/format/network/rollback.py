"""Rollback for a network that is filled from a file: after an error it is as it was before."""

from collections import OrderedDict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from tailcut.structure import repeats_itself

_CONTAINERS = (dict, OrderedDict, list, set)


class Snapshot:
    """Modules, attributes and tensors of a network as they stand. It holds no copy of the numbers unless asked to."""

    def __init__(self, model: nn.Module) -> None:
        self._modules = [(module, type(module), dict(vars(module))) for module in model.modules()]
        self._containers = [
            (value, value.copy())
            for _, _, attributes in self._modules
            for value in attributes.values()
            if type(value) in _CONTAINERS
        ]
        tensors = {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}
        # A parameter that becomes coefficients gets other memory: its own is kept here.
        self._tensors = [(x, x.data, x.grad if x.is_leaf else None, x.requires_grad) for x in tensors.values()]
        self._numbers: list[tuple[torch.Tensor, torch.Tensor]] = []

    def keep_numbers(self, tensors: Iterable[torch.Tensor]) -> None:
        """Copy the numbers of tensors that will be written over; those that repeat themselves get other memory."""
        self._numbers = [(tensor.data, tensor.data.clone()) for tensor in tensors if not repeats_itself(tensor)]

    def restore(self) -> None:
        """Make the network what it was (changes it)."""
        for module, kind, attributes in self._modules:
            module.__class__ = kind
            vars(module).clear()
            vars(module).update(attributes)
        for container, content in self._containers:
            _refill(container, content)
        for tensor, data, gradient, requires_grad in self._tensors:
            if tensor.is_leaf:
                tensor.grad = None
                tensor.data = data
                tensor.requires_grad_(requires_grad)
                tensor.grad = gradient
        for data, numbers in self._numbers:
            data.copy_(numbers)


@contextmanager
def unchanged_on_error(model: nn.Module) -> Iterator[Snapshot]:
    """Restore `model` if the block, which may change it, raises; an interruption too."""
    snapshot = Snapshot(model)
    try:
        yield snapshot
    except BaseException:
        snapshot.restore()
        raise


def _refill(container: Any, content: Any) -> None:
    container.clear()
    if isinstance(container, list):
        container.extend(content)
    else:
        container.update(content)
