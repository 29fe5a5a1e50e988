"""The arguments of a forward that may have to be taken back."""

import copy
from collections import OrderedDict
from collections.abc import Sequence
from enum import Enum
from pathlib import PurePath
from types import NoneType
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

# Of these nothing can be changed.
_CONSTANTS = (
    *(NoneType, bool, int, float, complex, str, bytes, slice, range, Enum),
    *(torch.dtype, torch.device, torch.layout, torch.memory_format),
    *(np.generic, np.dtype, PurePath, type),
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
        elif isinstance(value, (tuple, frozenset)):
            for item in value:
                self._note(item)
        elif type(value) in _CONTAINERS:
            if id(value) not in self._containers:
                self._containers[id(value)] = (value, value.copy())
                for item in value if isinstance(value, list) else value.values():
                    self._note(item)
        elif not isinstance(value, _CONSTANTS):
            self.are_plain = False


def copies_of(args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """What may be given to a forward in place of its arguments, and be changed by it.

    Gradients of the copies' tensors lead nowhere, and no tensor takes more memory than its own numbers.

    Raises:
        Exception: an object among them refuses to be copied, in its own way.
    """
    with _TensorsAlone():
        copied: tuple[tuple[Any, ...], dict[str, Any]] = copy.deepcopy((args, kwargs))
    return copied


class _TensorsAlone(TorchFunctionMode):
    """Tensors are copied without what they were made of (torch refuses those) and what they are a part of."""

    def __torch_function__(
        self, func: Any, types: Sequence[type], args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is Tensor.__deepcopy__ and type(args[0]) is Tensor:
            tensor, memo = args
            if id(tensor) not in memo:
                alone = tensor.detach().requires_grad_(tensor.requires_grad)
                memo[id(tensor)] = alone.clone()
            return memo[id(tensor)]
        return func(*args, **(kwargs or {}))


def _version(tensor: Tensor) -> int | None:
    """Counts writes; None where nobody counts."""
    return None if tensor.is_inference() else tensor._version
