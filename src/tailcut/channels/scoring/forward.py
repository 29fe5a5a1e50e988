"""Forward of a network under observation: unwrapped, in evaluation mode, operation by operation."""

import itertools
import random
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor, nn

from tailcut.arguments import is_integer
from tailcut.channels.scoring.feature_maps import as_maps, channel_axis, follow_maps
from tailcut.errors import ArgumentError
from tailcut.model_inputs import Choose, Loader, ModelInputs, loader_inputs
from tailcut.running import evaluating, forward, keeping_buffers
from tailcut.structure import device_of
from tailcut.structure.outputs import output_tensors
from tailcut.structure.views import running_eagerly, unwrapped


@contextmanager
def evaluating_eagerly(model: nn.Module) -> Iterator[None]:
    """Run the model in evaluation mode and uncompiled within the block; restore the mode of each module afterwards.

    Parts given to torch.compile run as they were written, and attention runs layer by layer.
    """
    with evaluating(model), running_eagerly(model):
        yield


@contextmanager
def training(model: nn.Module) -> Iterator[None]:
    """Within the block the model is in training mode, afterwards in evaluation mode."""
    model.train()
    try:
        yield
    finally:
        model.eval()


def for_training(inputs: ModelInputs) -> ModelInputs:
    """Return the inputs twice in a batch: batch norm in training needs more than one value per channel."""
    return inputs.map(lambda x: torch.cat([x, x]) if x.ndim and len(x) == inputs.batch_size else x)


@contextmanager
def undisturbed(model: nn.Module) -> Iterator[None]:
    """Within the block the model is in evaluation mode; afterwards modes, buffers and random states are as before."""
    devices = sorted({x.device.index for x in model.parameters() if x.is_cuda})
    of_python, of_numpy = random.getstate(), np.random.get_state()
    with evaluating_eagerly(model), torch.random.fork_rng(devices), keeping_buffers(model):
        try:
            yield
        finally:
            random.setstate(of_python)
            np.random.set_state(of_numpy)


def run(model: nn.Module, inputs: ModelInputs) -> list[Tensor]:
    """Return the output tensors of one forward.

    Raises:
        ArgumentError: it raises any error.
    """
    return output_tensors(forward(model, inputs))


def layer_maps(model: nn.Module, inputs: Tensor, layer: str) -> Tensor:
    """Return the feature maps of one layer, as `score` sees them. The model is not changed.

    Args:
        model: a network.
        inputs: one batch.
        layer: name of a convolution or a linear layer.

    Returns:
        (batch, channels, height, width).

    Raises:
        ArgumentError: there is no such layer, or it gave no map, or the network does not run on the inputs.
    """
    network = unwrapped(model)
    module = dict(network.named_modules()).get(layer)
    if module is None:
        raise ArgumentError(f"there is no layer {layer!r}; the network's layers are those of its named_modules()")
    found: list[Tensor] = []

    def take(names: tuple[str, ...], output: Tensor) -> None:
        # A copy: what comes after may work in place.
        found.append(as_maps(output, channel_axis(module)).clone())

    with torch.no_grad(), evaluating_eagerly(network), follow_maps({layer: module}, take):
        forward(network, ModelInputs((inputs,)))
    if not found:
        raise ArgumentError(f"layer {layer} gave no feature map: it did not run, or gives no tensor")
    return found[0]


def inputs_of(
    loader: Loader, num_batches: int | None, model: nn.Module, choose: Choose | None = None
) -> Iterator[ModelInputs]:
    """Yield the network's inputs of the first batches, on its device; batches without images are left out.

    Args:
        loader: yields batches, see `loader_inputs`.
        num_batches: the most batches to take; all when None.
        model: the network.
        choose: gives the inputs of a batch, see `loader_inputs`.

    Raises:
        ArgumentError: an input is no tensor (batch, ...) or has no numbers, or `num_batches` no number of batches.
    """
    check_num_batches(num_batches)
    device = device_of(model)
    most = None if num_batches is None else min(num_batches, sys.maxsize)
    batches = loader_inputs(loader, choose, allow_meta=device.type == "meta")
    for inputs in itertools.islice(batches, most):
        if inputs.batch_size > 0:
            yield inputs.map(lambda x: x.to(device))


def check_num_batches(num_batches: int | None) -> None:
    """Raise `ArgumentError` unless this is a number of batches, or None for all."""
    if num_batches is None:
        return
    if not is_integer(num_batches) or num_batches < 1:
        raise ArgumentError(f"num_batches must be an integer of at least 1, or None for all; got {num_batches!r}")
