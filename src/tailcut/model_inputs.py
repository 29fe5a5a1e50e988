"""Inputs of one call of a network: tensors by place, by name, or both."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
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

Choose = Callable[[Any], InputTensors]
"""Gives the inputs of a batch of a loader."""

Loader = Tensor | Mapping[str, Tensor] | Iterable[Any]
"""Batches as users have them: a `DataLoader`, a list or an iterator of batches; or one batch, a tensor or a dict."""


def joined(batches: Sequence[ModelInputs]) -> ModelInputs:
    """Return one batch of the inputs of several that are like each other, or the only one."""
    if len(batches) == 1:
        return batches[0]
    args = tuple(map(torch.cat, zip(*(batch.args for batch in batches), strict=True)))
    return ModelInputs(args, {name: torch.cat([batch.kwargs[name] for batch in batches]) for name in batches[0].kwargs})


def loader_inputs(loader: Loader, choose: Choose | None = None, *, allow_meta: bool = False) -> Iterator[ModelInputs]:
    """Yield the inputs alone, batch by batch.

    Args:
        loader: batches, or one batch that is a tensor or a dict. A batch is a tensor; a dict of tensors, which the
            network takes by name; or a tuple that begins with inputs, as `(inputs, targets)` of a `DataLoader` does,
            of which the rest is left out. Inputs of a network that takes several by place are a tuple themselves:
            `((image, mask), targets)`, or `((image, mask),)`. Where their lengths along axis 0 differ, as those of
            the nodes and edges of a graph, a batch is never taken apart.
        choose: gives the inputs of a batch instead.
        allow_meta: also yield tensors on the meta device, which have no numbers.

    Raises:
        ArgumentError: a batch is something else, or has a sparse tensor.
    """
    check_loader(loader)
    batches = [loader] if isinstance(loader, (Tensor, Mapping)) else loader
    for number, batch in enumerate(batches):
        chosen = without_targets(batch) if choose is None else choose(batch)
        found = model_inputs(chosen)
        if found is None or not any(x.ndim for x in found.tensors):
            raise ArgumentError(_no_inputs(number, batch, chosen, is_chosen=choose is not None))
        if any(x.is_meta for x in found.tensors) and not allow_meta:
            raise ArgumentError(
                f"batch {number} of the loader has a tensor on the meta device among {found.shapes}: it has no numbers"
            )
        if any(x.layout != torch.strided for x in found.tensors):
            raise ArgumentError(
                f"batch {number} of the loader has a sparse tensor among {found.shapes}: give it by .to_dense()"
            )
        yield found


def check_loader(loader: object, what: str = "loader must be a tensor or batches of inputs") -> None:
    """Raise `ArgumentError` unless `loader` can be iterated; the message begins with what it must be."""
    if not isinstance(loader, Iterable):
        raise ArgumentError(f"{what}, got {type(loader).__name__}")


def first_inputs(loader: Loader, count: int, *, whole: int = 1) -> list[ModelInputs]:
    """Return batches until they have `count` inputs, or all: a loader of a whole data set would not fit memory.

    A batch that cannot be taken apart, such as a graph, counts as `whole` inputs.
    """
    found: list[ModelInputs] = []
    num = 0
    for batch in loader_inputs(loader):
        found.append(batch)
        num += batch.batch_size if batch.is_batch else whole
        if num >= count:
            break
    return found


def _no_inputs(number: int, batch: object, chosen: object, *, is_chosen: bool) -> str:
    """Return the message for a batch whose inputs are none."""
    what = "a tensor without axes" if isinstance(chosen, Tensor) else described(chosen)
    if is_chosen:
        return (
            f"inputs must give a tensor, a tuple of tensors or a dict of tensors; batch {number} is "
            f"{type(batch).__name__}, its inputs {what}"
        )
    inside = what if chosen is batch else f"{described(batch)}, which begins with {what}"
    return f"the loader must yield tensors or dicts of inputs, or (inputs, targets); batch {number} is {inside}"


def without_targets(batch: Any) -> Any:
    """Return the inputs of a batch that a loader gives: of a tuple or list its first entry, else all of it."""
    return batch[0] if isinstance(batch, (tuple, list)) and batch else batch


def model_inputs(given: object) -> ModelInputs | None:
    """Return a tensor, a tuple or list of tensors, or a dict of tensors as inputs of a call; None of anything else.

    Tensors of a class of their own, as other libraries' loaders give them, become torch's.
    """
    if isinstance(given, ModelInputs):
        return given
    if isinstance(given, Tensor):
        return ModelInputs((_plain(given),))
    if isinstance(given, Mapping):
        found = ModelInputs(kwargs=dict(given))
    elif isinstance(given, (tuple, list)):
        found = ModelInputs(tuple(given))
    else:
        return None
    is_sound = all(isinstance(x, Tensor) for x in found.tensors) and all(isinstance(name, str) for name in found.kwargs)
    return found.map(_plain) if found.tensors and is_sound else None


def has_own_functions(x: Tensor) -> bool:
    """Return whether torch's functions of this tensor are another class's, such as MONAI's `MetaTensor`."""
    return type(x) not in (Tensor, nn.Parameter, nn.Buffer) and (
        getattr(type(x), "__torch_dispatch__", None) == Tensor.__torch_dispatch__
    )


def _plain(x: Tensor) -> Tensor:
    return x.as_subclass(Tensor) if has_own_functions(x) else x


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
