"""Loss of a network's outputs for targets that are drawn from what the network itself believes."""

import logging
import math
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.modules.conv import _ConvNd

from tailcut.errors import ArgumentError
from tailcut.model_inputs import ModelInputs
from tailcut.structure.module_types import is_linear
from tailcut.structure.outputs import output_tensors

logger = logging.getLogger(__name__)

NO_OUTPUTS = "expected outputs (batch, ...) of floating point from the network, got a {} without such a tensor"

LOGITS = "logits"
"""Name, or beginning or end of the name, of the outputs that count where there are several."""

MASK = "attention_mask"
"""Name of the input (batch, tokens) that is 0 where a sequence is padded, as networks of `transformers` take it."""


CERTAIN = 30.0
"""A class of a logit higher by this than all others: the others have a probability of 1e-13, and no gradient."""


@dataclass
class Certainty:
    """How many of the answers seen name one class alone, as numbers that are no logits seem to do."""

    num_answers: int = 0
    num_certain: int = 0

    def note(self, logits: Tensor) -> None:
        """Count answers (n, classes)."""
        first, second = logits.detach().topk(2, dim=1).values.unbind(1)
        self.num_answers += len(first)
        self.num_certain += int((first - second > CERTAIN).sum())

    def warn(self) -> None:
        """Warn if more than half of the answers name one class alone."""
        if 2 * self.num_certain > self.num_answers:
            logger.warning(
                "the network's outputs are taken for logits of classes, but most of them name one class for sure "
                "(%d of %d are higher by more than %g): if they are numbers, as coordinates are, give "
                'loss="squared_error"',
                self.num_certain,
                self.num_answers,
                CERTAIN,
            )


def squared_error(outputs: object, generator: torch.Generator) -> Tensor:
    """Return a loss of outputs that are numbers, as of a regression: normal errors with a standard deviation of 1.

    All tensors (batch, ...) of floating point count, each of its numbers as much as any other.

    Raises:
        ArgumentError: there is no such tensor.
    """
    every = [x for x in output_tensors(outputs) if x.is_floating_point() and x.ndim]
    if not every:
        raise ArgumentError(NO_OUTPUTS.format(type(outputs).__name__))
    losses = [_by_noise(x, generator) for x in every]
    return torch.stack([loss.to(losses[0]) for loss in losses]).sum()


def drawn_loss(
    batch: ModelInputs,
    outputs: object,
    generator: torch.Generator,
    *,
    are_features: tuple[bool, ...] = (),
    certainty: Certainty | None = None,
) -> Tensor:
    """Return the loss of a batch's outputs, summed over the inputs.

    Args:
        batch: the inputs.
        outputs: what the network gave for them.
        generator: of the draws.
        are_features: of each of the tensors that count, whether a linear layer made it, see `features_of`.
        certainty: counts the answers of classes.

    Raises:
        ArgumentError: it cannot be told which outputs count, or they are not finite.
    """
    found = logits_of(outputs)
    losses = []
    for place, x in enumerate(found):
        if not x.is_floating_point():
            raise ArgumentError(
                f"the network's outputs are of type {str(x.dtype).removeprefix('torch.')}, which have no gradient: "
                "compress the network that gives the numbers before"
            )
        if not bool(x.isfinite().all()):
            raise ArgumentError(f"the network's outputs are not finite, in {str(x.dtype).removeprefix('torch.')}")
        is_last = (place < len(are_features) and are_features[place]) or _are_tokens(x, batch)
        classes_last = x if is_last or x.ndim < 2 else x.movedim(1, -1)
        real = _real_tokens(x, batch)
        losses.append(_loss_of(classes_last if real is None else x[real], generator, certainty))
    return torch.stack([loss.to(losses[0]) for loss in losses]).sum() if len(losses) > 1 else losses[0]


def logits_of(outputs: object) -> list[Tensor]:
    """Return the tensors of a network's outputs that count.

    Those are the one named `logits`; else all whose names begin or end so, as those of the networks of `transformers`
    do; else the only one, a loss and whole numbers beside it apart.

    Raises:
        ArgumentError: there are several, and none has such a name.
    """
    if isinstance(outputs, Tensor):
        return [outputs]
    named = _named(outputs)
    if LOGITS in named:
        return [named[LOGITS]]
    found = [x for name, x in named.items() if name.startswith(LOGITS) or name.endswith(LOGITS)]
    every = [x for x in output_tensors(outputs) if x.is_floating_point() and x.ndim]  # a loss has no axes
    if found or len(every) == 1:
        return found or every
    if not every:
        raise ArgumentError(NO_OUTPUTS.format(type(outputs).__name__))
    shapes = [f"{name} {tuple(x.shape)}" for name, x in named.items()] or [str(tuple(x.shape)) for x in every]
    raise ArgumentError(
        f"the network gives a {type(outputs).__name__} of several tensors, none of them named {LOGITS}: "
        f"{', '.join(shapes)}. Give loss=, a function of the outputs and a generator of random numbers, or "
        '"squared_error" where all of them are numbers, as those of a regression are'
    )


def features_of(model: nn.Module, batch: ModelInputs) -> tuple[bool, ...]:
    """Return of each output tensor that counts whether linear layers made it, whose features lie along the last axis.

    That is so if of the layers whose output has the shape of the tensor the last one to run is linear. Where none has
    it, the tensor was put together of several outputs, cut or reshaped, and the layers count that have its positions:
    all axes but that of their features. The network, which is not changed, runs once, without gradients.
    """
    made: list[_Made] = []

    def note(module: nn.Module, _: object, output: object) -> None:
        if isinstance(output, Tensor) and output.ndim:
            made.append(_Made(not isinstance(module, _ConvNd), output.shape))

    with ExitStack() as hooks, torch.no_grad():
        for module in model.modules():
            if isinstance(module, _ConvNd) or is_linear(module):
                hooks.enter_context(module.register_forward_hook(note))
        found = logits_of(batch.run(model))
    return tuple(_is_of_linear(x.shape, made) for x in found)


class _Made(NamedTuple):
    """The output of a linear layer, or of a convolution."""

    is_linear: bool
    shape: torch.Size

    def has_positions(self, shape: torch.Size) -> bool:
        """Return whether a tensor of this shape has the same axes, but for that of the features."""
        if self.is_linear:
            return shape[:-1] == self.shape[:-1]
        return len(self.shape) == len(shape) and _without_axis_1(shape) == _without_axis_1(self.shape)

    def has_rows(self, shape: torch.Size) -> bool:
        """Return whether it is linear, and gives as many rows of features as a tensor of this shape has."""
        return self.is_linear and math.prod(shape[:-1]) == math.prod(self.shape[:-1])


def _is_of_linear(shape: torch.Size, made: Sequence[_Made]) -> bool:
    if len(shape) < 3:  # axis 1 is the last one
        return False
    known = [one for one in made if one.shape == shape] or [one for one in made if one.has_positions(shape)]
    if known:
        return known[-1].is_linear
    # (batch * tokens, features) as (batch, tokens, features). One row is a signal rather, of one channel.
    all_linear = all(one.is_linear for one in made)
    return shape[1] > 1 and any(one.has_rows(shape) and (all_linear or one.shape[-1] == shape[-1]) for one in made)


def _without_axis_1(shape: torch.Size) -> tuple[int, ...]:
    return (*shape[:1], *shape[2:])


def _named(outputs: object) -> dict[str, Tensor]:
    fields: Any = getattr(outputs, "_asdict", None)  # of a named tuple
    named = (
        outputs if isinstance(outputs, Mapping) else fields() if callable(fields) else getattr(outputs, "__dict__", {})
    )
    return {str(name): x for name, x in named.items() if isinstance(x, Tensor) and x.is_floating_point()}


def _are_tokens(x: Tensor, batch: ModelInputs) -> bool:
    """Return whether an output is (batch, tokens, classes) for whole numbers (batch, tokens)."""
    tokens = [given.shape for given in batch.tensors if given.ndim == 2 and not given.is_floating_point()]
    return x.ndim == 3 and x.shape[:2] in tokens


def _real_tokens(x: Tensor, batch: ModelInputs) -> Tensor | None:
    """Return which tokens of an output (batch, tokens, classes) are no padding; None where nothing says so."""
    mask = batch.kwargs.get(MASK)
    return mask != 0 if mask is not None and x.ndim == 3 and mask.shape == x.shape[:2] else None


def _loss_of(x: Tensor, generator: torch.Generator, certainty: Certainty | None) -> Tensor:
    """Return the loss of one output, with its classes along the last axis."""
    if x.ndim >= 2 and x.shape[-1] >= 2:
        flat = x.reshape(-1, x.shape[-1])
        if certainty is not None:
            certainty.note(flat)
        labels = torch.multinomial(functional.softmax(flat.detach(), 1).cpu(), 1, generator=generator).to(x.device)
        return functional.cross_entropy(flat, labels[:, 0], reduction="sum")
    return _by_noise(x, generator)


def _by_noise(x: Tensor, generator: torch.Generator) -> Tensor:
    """Return the loss of numbers for errors drawn from a normal distribution."""
    noise = torch.randn(x.shape, generator=generator, device="cpu").to(x.device, x.dtype)
    return (x * noise).sum()
