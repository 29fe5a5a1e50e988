"""Forwards that may have to be taken back."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from tailcut.execution.calls import is_plain


class Before:
    """What a forward may change, as it was before: buffers, random numbers, inputs."""

    def __init__(self, source: nn.Module, inputs: Sequence[Tensor]) -> None:
        self._buffers = [(buffer, buffer.clone()) for buffer in source.buffers()]
        self._random = torch.get_rng_state()
        devices = {tensor.device for tensor in (*source.buffers(), *inputs) if tensor.is_cuda}
        self._device_random = [(torch.cuda.get_rng_state(device), device) for device in devices]
        self._inputs = [(tensor, _version(tensor)) for tensor in inputs]

    def restore(self) -> None:
        """Put buffers and random numbers back."""
        with torch.no_grad():
            for buffer, before in self._buffers:
                # Batch norm's updates do not count as writes.
                if not is_plain(buffer) or not torch.equal(buffer, before):
                    buffer.copy_(before)
        torch.set_rng_state(self._random)
        for state, device in self._device_random:
            torch.cuda.set_rng_state(state, device)

    def inputs_are_as_they_were(self) -> bool:
        """Whether it is certain that nobody wrote to the inputs."""
        return all(version is not None and _version(tensor) == version for tensor, version in self._inputs)


def _version(tensor: Tensor) -> int | None:
    """Counts writes; None where nobody counts."""
    return None if tensor.is_inference() else tensor._version


def try_out(source: nn.Module, call: Callable[[], Any]) -> None:
    """Call a forward of `source` without a trace: no gradients, buffers and random numbers as before."""
    before = Before(source, [])
    with torch.no_grad():
        try:
            call()
        finally:
            before.restore()
