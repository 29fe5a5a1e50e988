"""Inputs of one call of a network: tensors by place, by name, or both."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from tailcut.errors import ArgumentError


@dataclass(frozen=True)
class ModelInputs:
    """Inputs of one call.

    Attributes:
        args: tensors by place.
        kwargs: tensors by the name of the argument.
    """

    args: tuple[Tensor, ...] = ()
    kwargs: Mapping[str, Tensor] = field(default_factory=dict)

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """All tensors."""
        return (*self.args, *self.kwargs.values())

    @property
    def shapes(self) -> str:
        """Shapes for a message: "(8, 3, 32, 32)", or "input_ids (8, 128), attention_mask (8, 128)"."""
        by_place = [str(tuple(x.shape)) for x in self.args]
        return ", ".join([*by_place, *(f"{name} {tuple(x.shape)}" for name, x in self.kwargs.items())])

    @property
    def is_batch(self) -> bool:
        """Whether all tensors have the inputs of a batch along their first axis: those of a graph, say, do not."""
        return all(x.ndim and len(x) == self.batch_size for x in self.tensors)

    @property
    def batch_size(self) -> int:
        """Length of the first axis of the first tensor that has axes, 1 if none has."""
        return next((len(x) for x in self.tensors if x.ndim), 1)

    def run(self, model: nn.Module | Callable[..., Any]) -> Any:
        """Return the outputs of a network for these inputs."""
        return model(*self.args, **self.kwargs)

    def map(self, change: Callable[[Tensor], Tensor]) -> "ModelInputs":
        """Return the same call with every tensor changed."""
        return ModelInputs(tuple(map(change, self.args)), {name: change(x) for name, x in self.kwargs.items()})

    def first(self, count: int) -> "ModelInputs":
        """Return the first inputs of a batch, at most `count`; what is no batch is returned as it is."""
        return self.map(lambda x: x[:count]) if self.is_batch else self

    def split(self, size: int) -> Iterator["ModelInputs"]:
        """Yield batches of at most `size` inputs, one after another; what is no batch is left whole."""
        if not self.is_batch:
            yield self
            return
        for start in range(0, self.batch_size, size):
            yield self.map(lambda x, start=start: x[start : start + size])  # type: ignore[misc]

    def is_like(self, other: "ModelInputs") -> bool:
        """Return whether both are batches of the same arguments, which differ in the length of the batch at most."""
        return self.is_batch and other.is_batch and self.first(1).shapes == other.first(1).shapes


InputTensors = Tensor | Sequence[Tensor] | Mapping[str, Tensor] | ModelInputs
"""Inputs as users have them: a tensor; several by place, in a tuple; or by name, in a dict."""


def joined(batches: Sequence[ModelInputs]) -> ModelInputs:
    """Return one batch of the inputs of several that are like each other, or the only one."""
    if len(batches) == 1:
        return batches[0]
    args = tuple(map(torch.cat, zip(*(batch.args for batch in batches), strict=True)))
    return ModelInputs(args, {name: torch.cat([batch.kwargs[name] for batch in batches]) for name in batches[0].kwargs})


def without_targets(batch: Any) -> Any:
    """Return the inputs of a batch that a loader gives: of a tuple or list its first entry, else all of it."""
    return batch[0] if isinstance(batch, (tuple, list)) and batch else batch


def model_inputs(given: object) -> ModelInputs | None:
    """Return a tensor, a tuple or list of tensors, or a dict of tensors as inputs of a call; None of anything else."""
    if isinstance(given, ModelInputs):
        return given
    if isinstance(given, Tensor):
        return ModelInputs((given,))
    if isinstance(given, Mapping):
        found = ModelInputs(kwargs=dict(given))
    elif isinstance(given, (tuple, list)):
        found = ModelInputs(tuple(given))
    else:
        return None
    is_sound = all(isinstance(x, Tensor) for x in found.tensors) and all(isinstance(name, str) for name in found.kwargs)
    return found if found.tensors and is_sound else None


def example_inputs(given: object) -> ModelInputs:
    """Return the example input of a function that runs a network once.

    Raises:
        ArgumentError: it is neither a tensor, nor a tuple of tensors, nor tensors by name in a dict.
    """
    found = model_inputs(given)
    if found is None:
        raise ArgumentError(
            "example_input must be a tensor, a tuple of tensors, or a dict of tensors by the names of the network's "
            f"arguments; got {described(given)}"
        )
    return found


def described(given: object) -> str:
    """Return the type of what was given in place of inputs, and the types in it."""
    kind = type(given).__name__
    if isinstance(given, Mapping):
        strange = [f"{name!r} is {type(x).__name__}" for name, x in given.items() if not isinstance(x, Tensor)]
        return f"{kind}, in which {strange[0]}: make it a tensor, or leave it out" if strange else f"an empty {kind}"
    if isinstance(given, (tuple, list)) and given:
        return f"{kind} of {', '.join(sorted({type(x).__name__ for x in given}))}"
    return kind
