"""Traversal of network outputs: tensors, alone or nested in tuples, lists, dicts and plain objects."""

from collections.abc import Iterator
from types import ModuleType
from typing import Any

from torch import Tensor, nn
from torch.utils import _pytree as pytree


def output_tensors(outputs: Any) -> list[Tensor]:
    """Return the tensors in a network's outputs, in order; those in dataclasses and other plain objects too."""
    return list(_found(outputs, set()))


def _found(value: Any, seen: set[int]) -> Iterator[Tensor]:
    for leaf in pytree.tree_leaves(value):
        if isinstance(leaf, Tensor):
            yield leaf
        elif id(leaf) not in seen and not isinstance(leaf, (type, ModuleType, nn.Module)):
            seen.add(id(leaf))
            yield from _found(_attributes(leaf), seen)


def _attributes(item: object) -> dict[str, Any]:
    slots = [entry for kind in type(item).__mro__ for entry in _as_names(kind.__dict__.get("__slots__", ()))]
    return {**{name: getattr(item, name) for name in slots if hasattr(item, name)}, **getattr(item, "__dict__", {})}


def _as_names(slots: Any) -> tuple[str, ...]:
    return (slots,) if isinstance(slots, str) else tuple(slots)
