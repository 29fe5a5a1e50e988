"""Decisions about calls of a fused network: fused, dense, or dense without a look at the call."""

import math
from enum import Enum
from pathlib import PurePath
from types import NoneType
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from tailcut.execution.layers.module_copy import GLOBAL_HOOKS, HOOKS
from tailcut.execution.lazy.context import LayerRecord
from tailcut.execution.wrapper.programs import NetworkPrograms
from tailcut.model_inputs import has_own_functions

# Number of kinds of calls that are remembered; further ones run densely, since a forgotten one might run otherwise when
# it comes again.
MAX_DECIDED = 1024
LARGER = 1.25
# Immutable types.
_CONSTANTS = (
    *(NoneType, bool, int, float, complex, str, bytes, slice, range, tuple, frozenset, Enum, type, PurePath),
    *(torch.dtype, torch.device, torch.layout, torch.memory_format, np.generic, np.dtype),
)
# Found once: a call of a small network takes a few microseconds.
_is_grad_enabled, _get_tracing_state = torch.is_grad_enabled, torch._C._get_tracing_state


class Call(NamedTuple):
    """Key of a call, on which its strategy depends.

    Numbers among the arguments are left out: such as the time in a diffusion differ from call to call, and seldom
    choose a strategy.

    Attributes:
        shapes: of the tensors among its arguments; empty for nested ones, which may have none.
        places: their layouts and devices.
        tensor_cores: dense products run on a GPU's matrix units; see `runs_on_tensor_cores`.
        words: switches and names among the arguments, and the keywords.
        kept: length of all vectors of coefficients.
        training: the network is in training mode.
        gradients: they are enabled.
    """

    shapes: tuple[tuple[int, ...], ...]
    places: tuple[tuple[torch.layout, torch.device], ...]
    tensor_cores: bool
    words: tuple[object, ...]
    kept: int
    training: bool
    gradients: bool

    @property
    def numbers(self) -> int:
        """Total number of elements of its tensors."""
        return sum(map(math.prod, self.shapes))

    @property
    def family(self) -> object:
        """Key that calls of other sizes share."""
        return (tuple(map(len, self.shapes)), *self[1:])


def call_of(args: tuple[Any, ...], kwargs: dict[str, Any], *, kept: int, training: bool) -> Call:
    """Return the call with these arguments, in the present mode of gradients."""
    tensors = tensors_of(args, kwargs)
    shapes = tuple([() if tensor.is_nested else tuple(tensor.shape) for tensor in tensors])
    places = tuple([(tensor.layout, tensor.device) for tensor in tensors])
    leaves = pytree.tree_leaves((args, kwargs))
    words = (*kwargs, *(leaf for leaf in leaves if leaf is None or isinstance(leaf, (bool, str, Enum))))
    return Call(shapes, places, runs_on_tensor_cores(tensors), words, kept, training, torch.is_grad_enabled())


def tensors_of(args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[Tensor]:
    """Return all tensors among the arguments, in lists, tuples and dicts too."""
    return [leaf for leaf in pytree.tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]


def device_type(tensors: list[Tensor]) -> str:
    """Return the kind of device that a call on these tensors runs on."""
    return tensors[0].device.type if tensors else "cpu"


def runs_on_tensor_cores(tensors: list[Tensor]) -> bool:
    """Return whether dense convolutions of these tensors run on a GPU's matrix units.

    Those of 16-bit numbers do, and those of float32 while torch may round them to TF32, as it does unless it is told
    otherwise (`torch.backends.cudnn.conv.fp32_precision`).
    """
    types = {tensor.dtype for tensor in tensors if tensor.is_cuda and tensor.is_floating_point()}
    settings: Any = torch.backends.cudnn  # mypy does not know all of it
    is_rounded = torch.float32 in types and settings.conv.fp32_precision == "tf32"
    return is_rounded or not types.isdisjoint((torch.float16, torch.bfloat16))


def unsupported_argument(args: tuple[Any, ...], kwargs: dict[str, Any]) -> str:
    """Return why an argument keeps a call from running fused; empty if none does.

    A forward may change an object unseen, such as a cache of keys and values; a tensor of another class has functions
    of that class.
    """
    for leaf in pytree.tree_leaves((args, kwargs)):
        kind = type(leaf)
        if kind is Tensor or isinstance(leaf, _CONSTANTS):
            continue
        if not isinstance(leaf, Tensor):
            return f"an argument is a {kind.__name__}, which a forward may change"
        if has_own_functions(leaf):
            return f"an argument is a {kind.__name__}; give x.as_subclass(torch.Tensor) to run fused"
    return ""


class DenseCalls:
    """Calls of one tensor, without gradients, that are known to run densely: they need no further look.

    Attributes:
        records: what the report says of them, by the tensor's shape.
        latest: the shape of the latest call, where it was one of these.
        run: the dense program.
    """

    __slots__ = ("_hooks", "_is_current", "_is_same", "_kind", "latest", "records", "run")

    def __init__(self, network: nn.Module, programs: NetworkPrograms) -> None:
        self.records: dict[tuple[int, ...], list[LayerRecord]] = {}
        self.latest: tuple[int, ...] | None = None
        self._kind: tuple[object, ...] = ()
        self._hooks = [*(network.__dict__[name] for name in HOOKS), *GLOBAL_HOOKS]
        # A copied root has no hooks, so its forward is called directly.
        dense: Any = programs.dense
        is_plain = dense is not programs.source and type(dense).__call__ is nn.Module.__call__
        self.run = dense.forward if is_plain else dense
        self._is_same, self._is_current = programs.guard.is_same, programs.versions.is_same

    def remember(self, call: Call, records: list[LayerRecord]) -> None:
        """Note a call (see `is_simple`), of which the dense program just ran. Those of another mode are forgotten."""
        kind = call.training, call.kept
        if kind != self._kind or len(self.records) >= MAX_DECIDED:
            self.records.clear()
        self._kind = kind
        self.records[call.shapes[0]] = records

    def holds(self, x: Any) -> bool:
        """Return whether the call is one of these, and the dense weights are those of the coefficients.

        The device, the layout and the type are not asked: the dense program gives the right answer, or the error, for
        all.
        """
        if type(x) is Tensor and not _is_grad_enabled() and _get_tracing_state() is None:
            if x.is_nested:  # it has no shape
                return False
            shape = x.shape
            if shape in self.records and self._is_same() and self._is_current() and not any(self._hooks):
                self.latest = shape
                return True
        return False


def is_simple(call: Call, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """Return whether `DenseCalls` can remember a call."""
    return not (call.gradients or kwargs) and len(args) == 1 and type(args[0]) is Tensor


class Decisions:
    """Decisions by key: each new call is tried once, and the result holds for all like it.

    Without gradients, a call that is not `LARGER` than one that ended dense is taken for dense without a probe: fusing
    pays more, the larger the maps. With gradients each is tried: a training that is resumed must decide as one that was
    not interrupted.
    """

    def __init__(self) -> None:
        # What the report says of calls that run densely; None for those that run fused.
        self._dense: dict[Call, list[LayerRecord] | None] = {}
        self._largest_dense: dict[object, int] = {}

    def is_dense(self, call: Call) -> bool | None:
        """Return whether calls like this one run densely; None where that is not decided."""
        if call in self._dense:
            return self._dense[call] is not None
        if call.gradients:
            return None
        if call.numbers > LARGER * self._largest_dense.get(call.family, 0) and self._has_room(call):
            return None
        self._remember(call, [])
        return True

    def records(self, call: Call) -> list[LayerRecord]:
        """Return what the report says of a call that runs densely; empty if it was not probed itself."""
        return self._dense.get(call) or []

    def decide(self, call: Call, dense: list[LayerRecord] | None) -> None:
        """Let calls like this one run densely from now on, with these records for the report; or fused (None)."""
        self._remember(call, dense)
        if dense is not None:
            self._largest_dense[call.family] = max(call.numbers, self._largest_dense.get(call.family, 0))

    def prefer_dense(self, call: Call, records: list[LayerRecord]) -> None:
        """Let calls like this one, and no others, run densely, whatever the cost model says of them."""
        self._dense[call] = records

    def _has_room(self, call: Call) -> bool:
        """Return whether a call can be remembered. Those of coefficients that were cut since are forgotten for it."""
        if len(self._dense) >= MAX_DECIDED:
            self._dense = {one: records for one, records in self._dense.items() if one.kept == call.kept}
            self._largest_dense.clear()
        return len(self._dense) < MAX_DECIDED

    def _remember(self, call: Call, dense: list[LayerRecord] | None) -> None:
        if self._has_room(call):
            self._dense[call] = dense
