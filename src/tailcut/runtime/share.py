"""The share of one process in work that several processes split, and its device's name."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Share:
    """The part of one process in an evaluation.

    Attributes:
        device: where it computes.
        rank: its number among the processes; it takes every `num_processes`-th batch.
        num_processes: how many share the evaluation.
        all_reduce_sum: adds a tensor over all of them; None for one process.
    """

    device: torch.device
    rank: int = 0
    num_processes: int = 1
    all_reduce_sum: Callable[[Tensor], Tensor] | None = None

    def total(self, state: Tensor) -> Tensor:
        """Return the sum of a tensor over all processes."""
        return state if self.all_reduce_sum is None else self.all_reduce_sum(state)


def device_name(device: torch.device) -> str:
    """Return the name of a device for a record: a GPU's model ("NVIDIA H100 80GB HBM3"), else the kind ("cpu")."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
