"""The arguments of a forward that may have to be taken back."""

from collections import OrderedDict
from enum import Enum
from types import NoneType
from typing import Any

import torch
from torch import Tensor

# Of these nothing can be changed.
_CONSTANTS = (
    *(NoneType, bool, int, float, complex, str, bytes, slice, range, Enum),
    *(torch.dtype, torch.device, torch.layout, torch.memory_format),
)
# Of these it is seen what was changed, and put back. Classes made of them may have rules of their own.
_CONTAINERS = (list, dict, OrderedDict)


class Arguments:
    """What the arguments of a call hold, as it was before the call.

    Attributes:
        are_plain: they are tensors and constants, alone or in tuples, lists and dicts. Anything else, such as a cache
            of keys and values, may keep what a forward gives it where nobody sees it.
    """

    def __init__(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self.are_plain = True
        self._tensors: list[tuple[Tensor, int | None]] = []
        self._containers: dict[int, tuple[Any, Any]] = {}
        for value in (*args, *kwargs.values()):
            self._note(value)

    def are_written(self) -> bool:
        """Whether somebody may have written to a tensor among them."""
        return any(version is None or _version(tensor) != version for tensor, version in self._tensors)

    def restore(self) -> None:
        """Give lists and dicts what they held."""
        for container, before in self._containers.values():
            container.clear()
            if isinstance(container, list):
                container.extend(before)
            else:
                container.update(before)

    def _note(self, value: Any) -> None:
        if isinstance(value, Tensor):
            self._tensors.append((value, _version(value)))
        elif isinstance(value, tuple):
            for item in value:
                self._note(item)
        elif type(value) in _CONTAINERS:
            if id(value) not in self._containers:
                self._containers[id(value)] = (value, value.copy())
                for item in value if isinstance(value, list) else value.values():
                    self._note(item)
        elif not isinstance(value, _CONSTANTS):
            self.are_plain = False


def _version(tensor: Tensor) -> int | None:
    """Counts writes; None where nobody counts."""
    return None if tensor.is_inference() else tensor._version
