"""Communication between the processes of one training or one evaluation."""

from functools import partial
from typing import cast

import torch
from torch import Tensor, nn

from tailcut.errors import MissingExtraError
from tailcut.runtime.share import Share

try:
    from lightning_fabric import Fabric
except ImportError as error:
    raise MissingExtraError("training", "lightning-fabric", "train") from error


def add_up(fabric: Fabric, state: Tensor) -> Tensor:
    """Return the sum of a tensor over all processes, on the CPU: the same numbers on each, of the tensor's type."""
    return cast(Tensor, fabric.all_reduce(state.to(fabric.device), reduce_op="sum")).cpu()


def share_of(fabric: Fabric) -> Share:
    """Return this process's share of an evaluation by all processes of an engine."""
    total = partial(add_up, fabric) if fabric.world_size > 1 else None
    return Share(fabric.device, fabric.global_rank, fabric.world_size, total)


class Processes:
    """One process among those of a training.

    Attributes:
        fabric: the engine.
        model: the network that all train.
    """

    fabric: Fabric
    model: nn.Module

    def _agree(self, loss: Tensor, stop: bool) -> tuple[float, bool]:
        """Return the mean loss of all processes, and whether any wants to stop, so that all agree."""
        if self.fabric.world_size == 1:
            return loss.item(), stop
        both = torch.stack([loss, torch.tensor(float(stop), device=loss.device)])
        mean = self.fabric.all_reduce(both, reduce_op="mean")
        return mean[0].item(), mean[1].item() > 0

    def _add_up(self, state: Tensor) -> Tensor:
        return add_up(self.fabric, state)

    def _gather(self, value: Tensor) -> Tensor:
        """Return the values of all processes, one row each."""
        rows = value.new_zeros(self.fabric.world_size, *value.shape)
        rows[self.fabric.global_rank] = value
        return self._add_up(rows)

    def _share_buffers(self) -> None:
        """Give all processes the running statistics of the first one (changes the model)."""
        if self.fabric.world_size > 1:
            saved = self.model.state_dict(keep_vars=True)
            for name, buffer in self.model.named_buffers():
                if name in saved:
                    buffer.copy_(self.fabric.broadcast(buffer))
