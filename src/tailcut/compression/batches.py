"""Inputs as users have them: tensors, or batches of a loader with their targets."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from tailcut.errors import ArgumentError
from tailcut.model_inputs import ModelInputs, described, model_inputs, without_targets

Batch = Tensor | Mapping[str, Tensor] | ModelInputs | tuple[Any, ...] | list[Any]
Batches = Tensor | Mapping[str, Tensor] | Iterable[Batch]


def input_batches(inputs: Batches) -> Iterator[ModelInputs]:
    """Yield the inputs alone, batch by batch.

    Args:
        inputs: batches, or one batch that is a tensor or a dict. A batch is a tensor; a dict of tensors, which the
            network takes by name; or a tuple that begins with inputs, as `(inputs, targets)` of a `DataLoader` does,
            of which the rest is left out. Inputs of a network that takes several by place are a tuple themselves:
            `((image, mask), targets)`, or `((image, mask),)`. Where their lengths along axis 0 differ, as those of
            the nodes and edges of a graph, a batch is never taken apart.

    Raises:
        ArgumentError: a batch is something else, or has a sparse tensor.
    """
    if not isinstance(inputs, Iterable):
        raise ArgumentError(f"inputs= must be a tensor or batches of inputs, got {type(inputs).__name__}")
    for batch in [inputs] if isinstance(inputs, (Tensor, Mapping)) else inputs:
        first = without_targets(batch)
        found = model_inputs(first)
        if found is None or not any(x.ndim for x in found.tensors):
            inside = (
                f"{described(batch)}, which begins with {described(first)}" if first is not batch else described(batch)
            )
            raise ArgumentError(
                "inputs= must give batches of inputs: a tensor, a dict of tensors, or (inputs, targets); got "
                f"{inside if found is None else 'a tensor without axes'}"
            )
        if any(x.is_meta for x in found.tensors):
            raise ArgumentError(f"inputs= gave a tensor on the meta device among {found.shapes}: it has no numbers")
        if any(x.layout != torch.strided for x in found.tensors):
            raise ArgumentError(f"inputs= gave a sparse tensor among {found.shapes}: give it by .to_dense()")
        yield found
