"""Inputs as users have them: tensors, or batches of a loader with their targets."""

from collections.abc import Iterable, Iterator

from torch import Tensor

from tailcut.errors import ArgumentError

Batches = Tensor | Iterable[Tensor | tuple[Tensor, ...] | list[Tensor]]


def input_batches(inputs: Batches) -> Iterator[Tensor]:
    """Yield the inputs alone, batch by batch.

    Args:
        inputs: batches of inputs; pairs of inputs and targets, as a `DataLoader` gives them, whose targets are left
            out; or one tensor, which is one batch.

    Raises:
        ArgumentError: a batch is something else.
    """
    if not isinstance(inputs, Iterable):
        raise ArgumentError(f"inputs= must be a tensor or batches of inputs, got {type(inputs).__name__}")
    for batch in [inputs] if isinstance(inputs, Tensor) else inputs:
        found = batch[0] if isinstance(batch, (tuple, list)) and batch else batch
        if not isinstance(found, Tensor) or found.ndim == 0:
            raise ArgumentError(
                f"inputs= must give batches of inputs as tensors, or (inputs, targets), got {type(batch).__name__}"
            )
        yield found
