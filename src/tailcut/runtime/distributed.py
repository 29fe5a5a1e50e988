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


def all_reduce_sum(fabric: Fabric, state: Tensor) -> Tensor:
    """Return the sum of a tensor over all processes, on the CPU: the same numbers on each, of its type."""
    return cast(Tensor, fabric.all_reduce(state.to(fabric.device), reduce_op="sum")).cpu()


def share_of(fabric: Fabric) -> Share:
    """Return the part of this process in an evaluation by all processes of an engine."""
    total = partial(all_reduce_sum, fabric) if fabric.world_size > 1 else None
    return Share(fabric.device, fabric.global_rank, fabric.world_size, total)


def agree(fabric: Fabric, loss: Tensor, stop: bool) -> tuple[float, bool]:
    """Return the mean loss of all processes, and whether any wants to stop, so that all agree."""
    if fabric.world_size == 1:
        return loss.item(), stop
    both = torch.stack([loss, torch.tensor(float(stop), device=loss.device)])
    mean = fabric.all_reduce(both, reduce_op="mean")
    return mean[0].item(), mean[1].item() > 0


def gather(fabric: Fabric, value: Tensor) -> Tensor:
    """Return the values of all processes, one row each."""
    rows = value.new_zeros(fabric.world_size, *value.shape)
    rows[fabric.global_rank] = value
    return all_reduce_sum(fabric, rows)


def broadcast_buffers(fabric: Fabric, model: nn.Module) -> None:
    """Give all processes the running statistics of the first one (changes the model)."""
    if fabric.world_size > 1:
        saved = model.state_dict(keep_vars=True)
        for name, buffer in model.named_buffers():
            if name in saved:
                buffer.copy_(fabric.broadcast(buffer))
