"""Memory of tensors: devices, what shares it, and what names one place several times."""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import chain

import torch
from torch import nn

from tailcut.errors import ArgumentError, first_line

_PLAIN = (torch.Tensor, nn.Parameter, nn.Buffer)  # the memory of other kinds is theirs to know


def device_of(model: nn.Module) -> torch.device:
    """Return where a network's numbers are; the CPU for one without any."""
    numbers = next(chain(model.parameters(), model.buffers()), None)
    return torch.device("cpu") if numbers is None else numbers.device


@dataclass(frozen=True)
class _Stretch:
    """Where a tensor lies: the `order`-th of those asked for, in elements from `start` to before `end`."""

    order: int
    name: str
    tensor: torch.Tensor

    @property
    def start(self) -> int:
        return int(self.tensor.storage_offset())

    @property
    def end(self) -> int:
        pairs = zip(self.tensor.shape, self.tensor.stride(), strict=True)
        return self.start + sum((size - 1) * stride for size, stride in pairs) + 1

    def overlaps(self, other: "_Stretch") -> bool:
        """Return whether the two, which lie in one memory, have a place in common."""
        first = min(self.start, other.start)
        places = torch.zeros(max(self.end, other.end) - first, dtype=torch.bool)
        self._seen_in(places, first).fill_(value=True)
        return bool(other._seen_in(places, first).any())

    def _seen_in(self, places: torch.Tensor, first: int) -> torch.Tensor:
        """Return the view of `places` that the tensor is of its memory; what is repeated once."""
        pairs = zip(self.tensor.shape, self.tensor.stride(), strict=True)
        shape = [1 if stride == 0 else size for size, stride in pairs]
        return places.as_strided(shape, self.tensor.stride(), self.start - first)


def usable_device(name: str | torch.device) -> torch.device:
    """Return the device of this name; raise `ArgumentError` unless tensors can lie there."""
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError, TypeError) as error:
        raise ArgumentError(f"there is no device {name!r} here: {first_line(error)}") from error


def sharing(tensors: Iterable[tuple[str, torch.Tensor]]) -> dict[str, str]:
    """Return the names of tensors that share memory with an earlier one: name -> name of that one.

    What is one tensor under several names does not count, nor do tensors that lie beside each other in one memory, as
    those of recurrent layers do on a GPU, or those of a file that was mapped into memory.
    """
    by_memory: dict[tuple[int, torch.dtype], list[_Stretch]] = defaultdict(list)
    for order, (name, tensor) in enumerate(tensors):
        if type(tensor) in _PLAIN and tensor.layout == torch.strided and not tensor.is_meta and tensor.numel():
            by_memory[tensor.untyped_storage().data_ptr(), tensor.dtype].append(_Stretch(order, name, tensor))
    found: dict[int, tuple[str, str]] = {}
    for stretches in by_memory.values():
        before: list[_Stretch] = []
        for stretch in sorted(stretches, key=lambda entry: entry.start):
            before = [other for other in before if other.end > stretch.start]
            for other in before:
                if other.tensor is not stretch.tensor and stretch.overlaps(other):
                    first, last = sorted((other, stretch), key=lambda entry: entry.order)
                    found.setdefault(last.order, (last.name, first.name))
            before.append(stretch)
    return dict(found[order] for order in sorted(found))


def check_not_shared(what: str, tensors: Iterable[tuple[str, torch.Tensor]]) -> None:
    """Raise `ArgumentError` where two tensors, which `what` would change each for itself, share memory."""
    for name, other in sharing(tensors).items():
        raise ArgumentError(
            f"{name} and {other} are two tensors in the same memory, and {what} would change each for itself: hold one "
            f"parameter, and use it in both places (torch.nn.functional.linear(x, self.{other}.t()), for example)"
        )


def repeats_itself(tensor: torch.Tensor) -> bool:
    """Return whether several of its numbers lie in one place, as after `expand`, so that it cannot be written."""
    if tensor.layout != torch.strided:
        return False
    return any(size > 1 and stride == 0 for size, stride in zip(tensor.shape, tensor.stride(), strict=True))


def separate(tensors: Iterable[torch.Tensor]) -> None:
    """Give tensors that repeat themselves a memory of their own (changes these tensors, not their numbers)."""
    for tensor in tensors:
        if repeats_itself(tensor):
            tensor.data = tensor.data.contiguous()
