"""Cache of dense weights in evaluation mode, valid until the coefficients change.

A network that is loaded, or put into evaluation, runs as fast as the dense one after its first call, at the price of
the dense weights' memory beside the coefficients. What may have changed is looked at before every use: the vector
itself, its place, torch's counters of writes, the mask, the precision, and the numbers, since writes through `.data`
are not counted. Nothing is cached in training, while a tracer records every operation (torch.compile, torch.export,
`torch.jit.trace`, torch.func, modes that see all operations), or for vectors that are no plain parameters.
"""

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad

# Vectors of so many numbers, or of so small a part of their weight's, are compared whole: a small part of a call.
MAX_WHOLE = 1 << 17
WHOLE_PART = 32
# Of longer ones the first so many (the lowest frequencies), and so many of the rest, evenly spread.
NUM_FIRST = 1 << 16
NUM_SPREAD = 1 << 12
# Of a weight that was handed out so many are compared: it is meant to be read only.
NUM_OF_WEIGHT = 1 << 8
_WORDS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


class KeptWeight(NamedTuple):
    """A cached dense weight, with what is needed to detect changes of its vector.

    Attributes:
        weight: the dense weight.
        counted: tensors that must not be written to, with torch's count of writes to each.
        vector: the coefficients.
        pointer: where their memory was.
        dropped: the mask.
        precision: what the coefficients were rounded to.
        compared: numbers as they were, and what reads them as they are now.
    """

    weight: Tensor
    counted: tuple[tuple[Tensor, int], ...]
    vector: Tensor
    pointer: int
    dropped: Tensor
    precision: str
    compared: tuple[tuple[bytes, Callable[[], bytes]], ...]


class Keeper(Protocol):
    """Protocol of a module that computes a weight from its vector and caches it: a `Truncation`."""

    kept: KeptWeight | None
    dropped: Tensor
    precision: str

    def expand(self, vector: Tensor, /) -> Tensor:
        """Return the dense weight of a vector."""

    def project(self, dense: Tensor, /) -> Tensor:
        """Return the vector of a dense weight."""


def can_cache(vector: Tensor, dropped: Tensor) -> bool:
    """Return whether changes of a vector can be detected, and no tracer needs the operations behind its weight."""
    return (
        type(vector) is nn.Parameter
        and not vector.is_meta
        and not (vector.is_inference() or dropped.is_inference())
        and torch._C._len_torch_dispatch_stack() == 0
        and torch._C._get_tracing_state() is None
        and torch._C._functorch.peek_interpreter_stack() is None
        and forward_ad._current_level < 0
        and not torch.compiler.is_exporting()
        and not (vector.is_cuda and torch.cuda.is_current_stream_capturing())
    )


def weight_of(truncation: Keeper, vector: Tensor) -> Tensor:
    """Return the dense weight of a vector, cached if possible (changes the cache of `truncation`). Differentiable."""
    kept = truncation.kept
    if kept is None or not _is_current(kept, truncation, vector):
        kept = truncation.kept = _made(truncation, vector)
    if torch.is_grad_enabled() and vector.requires_grad:
        weight: Tensor = _Expansion.apply(vector, truncation, kept)  # type: ignore[no-untyped-call]
        return weight
    return kept.weight.detach()


def _made(truncation: Keeper, vector: Tensor) -> KeptWeight:
    with torch.inference_mode(False), torch.no_grad():
        weight = truncation.expand(vector)
        places = [*_places(vector, weight.numel()), _spread(weight, NUM_OF_WEIGHT)]
        return KeptWeight(
            weight,
            tuple((tensor, tensor._version) for tensor in (vector, truncation.dropped, weight)),
            vector,
            vector.data_ptr(),
            truncation.dropped,
            truncation.precision,
            tuple((read(), read) for read in map(_reader, places)),
        )


def _is_current(kept: KeptWeight, truncation: Keeper, vector: Tensor) -> bool:
    """Return whether nothing changed since the weight was computed."""
    return (
        kept.vector is vector
        and kept.pointer == vector.data_ptr()
        and kept.dropped is truncation.dropped
        and kept.precision == truncation.precision
        and kept.weight.dtype == vector.dtype
        and all(tensor._version == version for tensor, version in kept.counted)
        and all(read() == before for before, read in kept.compared)
    )


def _places(vector: Tensor, num_dense: int) -> list[Tensor]:
    """Return the bits of a vector to compare: all, or a sample of a long one."""
    if vector.numel() <= max(MAX_WHOLE, num_dense // WHOLE_PART):
        return [_bits(vector)]
    return [_bits(vector)[:NUM_FIRST], _spread(vector.detach()[NUM_FIRST:], NUM_SPREAD)]


def _spread(values: Tensor, count: int) -> Tensor:
    """Return the bits of about `count` of the values, evenly spread."""
    return _bits(values).flatten()[:: -(-values.numel() // count) or 1]


def _reader(place: Tensor) -> Callable[[], bytes]:
    if place.device.type == "cpu":
        return place.numpy().tobytes  # several times quicker than an operation of torch's
    return lambda: place.cpu().numpy().tobytes()


def _bits(values: Tensor) -> Tensor:
    """As integers, since numpy does not know all of torch's types."""
    return values.detach().view(_WORDS[values.element_size()])


class _Expansion(torch.autograd.Function):
    """Autograd function from a vector to its cached weight; backward is the transpose of the transform."""

    @staticmethod
    def forward(ctx: Any, vector: Tensor, truncation: Keeper, kept: KeptWeight) -> Tensor:
        ctx.truncation, ctx.dtype = truncation, vector.dtype
        return kept.weight.detach()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        truncation: Keeper = ctx.truncation
        gradient = truncation.project(gradients[0]).masked_fill(truncation.dropped > 0, 0.0)
        return gradient.to(ctx.dtype), None, None
