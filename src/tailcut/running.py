"""A run of a network that leaves it as it was: modes of its modules, buffers, and errors in the project's words.

And whether it runs in several processes.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from tailcut.errors import ArgumentError, TailcutError, first_line
from tailcut.model_inputs import ModelInputs


def in_process_group() -> bool:
    """Return whether this process is one of a group of `torch.distributed`, which may be of one process."""
    return torch.distributed.is_available() and torch.distributed.is_initialized()


def forward(model: nn.Module, inputs: ModelInputs) -> Any:
    """Return the outputs of the model for these inputs.

    Raises:
        ArgumentError: the forward raises any error.
    """
    try:
        return inputs.run(model)
    except TailcutError:
        raise
    except Exception as error:
        where = f"{type(model).__name__} does not run on an input of shape {inputs.shapes}"
        raise ArgumentError(f"{where}: {first_line(error)}") from error


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Put all modules into evaluation mode within the block, and restore their modes afterwards.

    Attention's fast path is off within the block, since it hides the layers that attention is made of.
    """
    training = [(module, module.training) for module in model.modules()]
    fast_path = torch.backends.mha.get_fastpath_enabled()
    try:
        torch.backends.mha.set_fastpath_enabled(False)
        for module, _ in training:
            module.training = False
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast_path)
        for module, mode in training:
            module.training = mode


@contextmanager
def keeping_buffers(model: nn.Module) -> Iterator[None]:
    """Restore all buffers and their numbers after the block: a forward may count its calls, or fill one once.

    So are the weights of embeddings with `max_norm`, of which a forward shortens the rows that it reads.
    """
    scripted = torch.jit.ScriptModule  # whose buffers lie in C++, and are never other tensors than before
    owners = (module for module in model.modules() if module._buffers and not isinstance(module, scripted))
    held = [(module, dict(module._buffers)) for module in owners]
    changeable = [*model.buffers(), *_shortened_weights(model)]
    numbers = [(buffer, buffer.detach().clone()) for buffer in changeable if _is_comparable(buffer)]
    try:
        yield
    finally:
        for module, buffers in held:
            module._buffers.clear()
            module._buffers.update(buffers)
        for buffer, before in numbers:
            if not torch.equal(buffer, before):
                with torch.inference_mode(buffer.is_inference()), torch.no_grad():
                    buffer.copy_(before)


def _shortened_weights(model: nn.Module) -> Iterator[Tensor]:
    for module in model.modules():
        if isinstance(module, (nn.Embedding, nn.EmbeddingBag)) and module.max_norm is not None:
            weight = module._parameters.get("weight")
            if weight is not None:
                yield weight


def _is_comparable(buffer: Tensor) -> bool:
    """Return whether torch can tell if the numbers of a buffer changed: they lie in memory, and are no sparse ones."""
    return not (is_lazy(buffer) or buffer.is_meta or buffer.is_nested) and buffer.layout == torch.strided
