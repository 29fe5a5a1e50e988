"""Recalibration of batch norm: statistics measured again, since those of the dense network no longer fit."""

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from tailcut.channels.scoring.forward import evaluating_eagerly, inputs_of
from tailcut.errors import ArgumentError
from tailcut.model_inputs import Choose, Loader
from tailcut.running import forward
from tailcut.structure import NetworkView
from tailcut.structure.views import unwrapped


def norms_with_statistics(network: nn.Module) -> list[_BatchNorm]:
    """Return the batch norms that keep running statistics."""
    norms = [module for module in network.modules() if isinstance(module, _BatchNorm)]
    return [norm for norm in norms if norm.track_running_stats and norm.running_mean is not None]


def recalibrate(
    model: nn.Module, loader: Loader, *, num_batches: int | None = None, inputs: Choose | None = None
) -> int:
    """Replace the running statistics of batch norm by the mean over batches. Changes the module.

    A pruned network that is not trained on keeps much more of its accuracy so. Everything but batch norm runs in
    evaluation mode, without gradients; no weight changes.

    Args:
        model: any network; a fused view runs fused.
        loader: yields inputs, or tuples and lists that begin with them; inputs by name are dicts. A tensor or
            a dict is one batch.
        num_batches: the most batches to take; all when None.
        inputs: what the network takes of a batch, see `score`.

    Returns:
        How many inputs were taken; 0 for a network that keeps no running statistics.

    Raises:
        ArgumentError: the loader gave no batch, or one that the network does not run on, or the statistics are not
            finite. The model is unchanged.
    """
    network = unwrapped(model)
    norms = norms_with_statistics(network)
    if not norms:
        return 0
    before = [(norm.momentum, {name: x.clone() for name, x in norm.named_buffers(recurse=False)}) for norm in norms]
    try:
        with torch.no_grad(), evaluating_eagerly(network):
            for norm in norms:
                norm.train()
                norm.reset_running_stats()
                norm.momentum = None  # the plain mean over batches
            batches = inputs_of(loader, num_batches, network, inputs)
            runner = model if isinstance(model, NetworkView) else network
            taken = 0
            for batch in batches:
                forward(runner, batch)
                taken += batch.batch_size
            if not taken:
                raise ArgumentError("the loader gave no batch to measure the statistics on")
            if not all(bool(x.isfinite().all()) for norm in norms for x in norm.buffers(recurse=False)):
                raise ArgumentError("the statistics are not finite: the inputs or the network hold NaN or infinity")
            for norm, (_, buffers) in zip(norms, before, strict=True):
                if norm.num_batches_tracked is not None and int(norm.num_batches_tracked) == 0:
                    _put_back(norm, buffers)  # it did not run, as the auxiliary heads of a classifier
    except BaseException:
        for norm, (_, buffers) in zip(norms, before, strict=True):
            _put_back(norm, buffers)
        raise
    finally:
        for norm, (momentum, _) in zip(norms, before, strict=True):
            norm.momentum = momentum
    return taken


def _put_back(norm: _BatchNorm, buffers: dict[str, Tensor]) -> None:
    with torch.no_grad():
        for name, x in buffers.items():
            norm.get_buffer(name).copy_(x)
