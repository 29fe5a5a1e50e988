"""Snapshots by which a forward can be undone: buffers and torch's random numbers."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from tailcut.execution.layers.module_copy import HOOKS
from tailcut.execution.lazy.unsupported import is_plain
from tailcut.weights.parametrization.truncation import Truncation


class ModelSnapshot:
    """Buffers and torch's random numbers before a forward; other side effects are not undone."""

    def __init__(self, source: nn.Module, inputs: Sequence[Tensor] = ()) -> None:
        # Truncations own constants only; a ScriptModule keeps its buffers in a dict that is not rebound.
        modules = [module for module in source.modules() if not isinstance(module, Truncation)]
        self._names = [(own, dict(own)) for own in (module._buffers for module in modules) if isinstance(own, dict)]
        buffers = [buffer for module in modules for buffer in module.buffers(recurse=False) if not buffer.is_meta]
        uncounted = [tensor for tensor in inputs if tensor.is_inference()]
        self._tensors = [(tensor, tensor.detach().clone()) for tensor in (*buffers, *uncounted)]
        self._versions = [(tensor, tensor._version) for tensor in inputs if not tensor.is_inference()]
        self._random = torch.get_rng_state()
        devices = {tensor.device for tensor in (*buffers, *inputs) if tensor.is_cuda}
        self._device_random = [(torch.cuda.get_rng_state(device), device) for device in devices]

    def restore(self) -> None:
        """Put buffers and random numbers back."""
        for own, before in self._names:
            if own.keys() != before.keys() or any(own[name] is not buffer for name, buffer in before.items()):
                own.clear()
                own.update(before)
        with torch.no_grad():
            for tensor, copied in self._tensors:
                # Batch norm's updates do not count as writes.
                if not is_plain(tensor) or not torch.equal(tensor, copied):
                    tensor.copy_(copied)
        torch.set_rng_state(self._random)
        for state, device in self._device_random:
            torch.cuda.set_rng_state(state, device)

    def inputs_are_written(self) -> bool:
        """Return whether the forward wrote to one of its inputs, which is not put back."""
        return any(tensor._version != version for tensor, version in self._versions)


class HookSnapshot:
    """Hooks of a network's modules before a forward of copies, which keep theirs in the very dicts."""

    def __init__(self, source: nn.Module) -> None:
        found = [module.__dict__[name] for module in source.modules() for name in HOOKS]
        self._hooks = [(own, dict(own)) for own in found]

    def restore(self) -> bool:
        """Put the hooks back; return whether there were others."""
        changed = [(own, before) for own, before in self._hooks if own.keys() != before.keys()]
        for own, before in changed:
            own.clear()
            own.update(before)
        return bool(changed)


def try_out(source: nn.Module, call: Callable[[], Any]) -> None:
    """Call a forward of `source` that leaves gradients, buffers and torch's random numbers as before."""
    before = ModelSnapshot(source)
    with torch.no_grad():
        try:
            call()
        finally:
            before.restore()
