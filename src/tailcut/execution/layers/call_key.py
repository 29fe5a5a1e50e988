"""Keys of calls, made of tensors and other arguments, which decide how they run."""

from enum import Enum
from pathlib import PurePath
from types import NoneType
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from tailcut.execution.lazy.unsupported import is_transformed

# Immutable types.
_CONSTANTS = (
    *(NoneType, bool, int, float, complex, str, bytes, slice, range, tuple, frozenset, Enum, type, PurePath),
    *(torch.dtype, torch.device, torch.layout, torch.memory_format, np.generic, np.dtype),
)


def tensors_of(args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[Tensor]:
    """Return all tensors among the arguments, in lists, tuples and dicts too."""
    if not kwargs and all(isinstance(value, Tensor) for value in args):
        return list(args)
    return [leaf for leaf in pytree.tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]


def has_other_objects(args: tuple[Any, ...], kwargs: dict[str, Any]) -> str:
    """Return the class of an argument that a forward may change unseen, such as a cache of keys and values; or ""."""
    if not kwargs and all(isinstance(value, Tensor) for value in args):
        return ""
    leaves = pytree.tree_leaves((args, kwargs))
    return next((type(leaf).__name__ for leaf in leaves if not isinstance(leaf, (Tensor, *_CONSTANTS))), "")


def words_of(args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[object, ...]:
    """Return all else that may choose a branch of a network: switches, names, the arguments that were given.

    Numbers are left out: such as the time in a diffusion differ from call to call, and seldom choose a strategy. What
    torch.func asks is told apart, since it runs densely.
    """
    around = ("transformed",) if is_transformed() else ()
    if not kwargs and all(isinstance(value, Tensor) for value in args):
        return around
    leaves = pytree.tree_leaves((args, kwargs))
    return (*around, *kwargs, *(leaf for leaf in leaves if leaf is None or isinstance(leaf, (bool, str, Enum))))


def is_plain(tensor: Tensor) -> bool:
    """Return whether it is an ordinary array: neither nested nor sparse."""
    return not tensor.is_nested and tensor.layout is torch.strided


def sizes_of(tensors: list[Tensor]) -> tuple[tuple[int, ...], ...]:
    """Return the shape of each tensor; empty for nested tensors, which may have none."""
    return tuple([() if tensor.is_nested else tuple(tensor.shape) for tensor in tensors])


def device_type(tensors: list[Tensor]) -> str:
    """Return the kind of device that a call runs on."""
    return tensors[0].device.type if tensors else "cpu"
