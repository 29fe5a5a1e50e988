"""Forwards that may have to be taken back."""

import random
import sys
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from tailcut.execution.layers.call_key import is_plain, tensors_of
from tailcut.execution.layers.sharing import HOOKS
from tailcut.execution.wrapper.arguments import Arguments
from tailcut.weights.truncation import Truncation


class ModelSnapshot:
    """What a forward may change, as it was before: buffers, attributes, hooks, random numbers, lists and dicts given.

    Attributes that are bound to something else are put back, tensors among them with their numbers. What Python's code
    does to anything else (a list of the network's that it appends to, a file) is done.

    Attributes:
        arguments: those of the call.
    """

    def __init__(self, source: nn.Module, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None) -> None:
        self.arguments = Arguments(args, kwargs or {})
        # Truncations own constants only.
        self._modules = [_ModuleBefore(module) for module in source.modules() if not isinstance(module, Truncation)]
        held = {id(tensor): tensor for module in self._modules for tensor in module.tensors()}
        self._tensors = [(tensor, tensor.detach().clone()) for tensor in held.values()]
        self._random, self._torch_random = random.getstate(), torch.get_rng_state()
        self._numpy = sys.modules.get("numpy")  # nobody has drawn from it where it was not imported
        self._numpy_random = None if self._numpy is None else self._numpy.random.get_state()
        inputs = tensors_of(args, kwargs or {})
        devices = {tensor.device for tensor in (*source.buffers(), *inputs) if tensor.is_cuda}
        self._device_random = [(torch.cuda.get_rng_state(device), device) for device in devices]

    def restore(self) -> None:
        """Put buffers, attributes, random numbers, and lists and dicts of arguments back."""
        self.arguments.restore()
        for module in self._modules:
            module.restore()
        with torch.no_grad():
            for tensor, before in self._tensors:
                # Batch norm's updates do not count as writes.
                if not is_plain(tensor) or not torch.equal(tensor, before):
                    tensor.copy_(before)
        random.setstate(self._random)
        torch.set_rng_state(self._torch_random)
        if self._numpy is not None:
            self._numpy.random.set_state(self._numpy_random)
        for state, device in self._device_random:
            torch.cuda.set_rng_state(state, device)

    def can_be_taken_back(self) -> bool:
        """Whether it is certain that all is as before after `restore`, as far as arguments go."""
        return self.arguments.are_plain and not self.arguments.are_written()


class _ModuleBefore:
    """The names that a module had for its buffers and attributes, what they stood for, and its hooks."""

    def __init__(self, module: nn.Module) -> None:
        self._module, self._kind = module, type(module)
        self._attributes = dict(module.__dict__)
        self._buffers = dict(module.named_buffers(recurse=False, remove_duplicate=False))
        # Names without a buffer count too; a script keeps its own in another kind of dict, where none is bound anew.
        self._names = dict(module._buffers) if isinstance(module._buffers, dict) else None
        held = [self._attributes.get(name) for name in HOOKS]
        self._hooks = [(hooks, list(hooks.items())) for hooks in held if isinstance(hooks, dict)]

    def tensors(self) -> list[Tensor]:
        """All buffers, and attributes that are tensors."""
        values = (*self._buffers.values(), *self._attributes.values())
        return [value for value in values if isinstance(value, Tensor) and not value.is_meta]

    def restore(self) -> None:
        """Bind all names as they were."""
        if self._names is not None:
            _bind(self._module._buffers, self._names)
        if type(self._module) is self._kind:  # lazy layers turn into others in their first forward, and stay so
            _bind(self._module.__dict__, self._attributes)
            for hooks, before in self._hooks:
                if list(hooks.items()) != before:
                    hooks.clear()
                    hooks.update(before)


def _bind(names: dict[str, Any], before: dict[str, Any]) -> None:
    for name in names.keys() - before.keys():
        del names[name]
    for name, value in before.items():
        if name not in names or names[name] is not value:
            names[name] = value


def try_out(source: nn.Module, call: Callable[[], Any]) -> None:
    """Call a forward of `source` that leaves no gradients, and buffers, attributes and random numbers as before.

    What else Python's code does in it (see `ModelSnapshot`) is done once more than in the calls that are asked for.
    """
    before = ModelSnapshot(source)
    with torch.no_grad():
        try:
            call()
        finally:
            before.restore()
