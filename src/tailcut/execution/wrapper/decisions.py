"""Decisions about calls of a fused network: fused, dense, or dense without a look at the call."""

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from tailcut.execution.layers.call_key import device_type, sizes_of, tensors_of, words_of
from tailcut.execution.layers.module_copy import GLOBAL_HOOKS, HOOKS
from tailcut.execution.lazy.context import LayerRecord
from tailcut.execution.lazy.unsupported import is_autocast
from tailcut.execution.wrapper.programs import NetworkPrograms

# Number of kinds of calls that are remembered; further ones run densely, since a forgotten one might run otherwise when
# it comes again.
MAX_DECIDED = 1024
LARGER = 1.25
# Found once: a call of a small network takes a few microseconds.
_is_grad_enabled, _get_tracing_state = torch.is_grad_enabled, torch._C._get_tracing_state


class Call(NamedTuple):
    """Key of a call, on which its strategy depends.

    Attributes:
        shapes: of the tensors among its arguments.
        places: their layouts and devices.
        words: switches and names among the arguments.
        kept: length of all vectors of coefficients.
        training: the network is in training mode.
        gradients: they are enabled.
        autocast: it is on.
    """

    shapes: tuple[tuple[int, ...], ...]
    places: tuple[tuple[torch.layout, torch.device], ...]
    words: tuple[object, ...]
    kept: int
    training: bool
    gradients: bool
    autocast: bool

    @property
    def numbers(self) -> int:
        """Total number of elements of its tensors."""
        return sum(map(math.prod, self.shapes))

    @property
    def family(self) -> object:
        """Key that calls of other sizes share."""
        return (tuple(map(len, self.shapes)), *self[1:])


def call_of(args: tuple[Any, ...], kwargs: dict[str, Any], *, kept: int, training: bool) -> Call:
    """Return the call with these arguments, in the present modes of torch."""
    tensors = tensors_of(args, kwargs)
    places = tuple([(tensor.layout, tensor.device) for tensor in tensors])
    autocast = is_autocast(device_type(tensors))
    words = words_of(args, kwargs)
    return Call(sizes_of(tensors), places, words, kept, training, torch.is_grad_enabled(), autocast)


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
    return not (call.gradients or call.autocast or kwargs) and len(args) == 1 and type(args[0]) is Tensor


class Decisions:
    """Decisions by key: each new call is tried once, and the result holds for all like it.

    Attributes:
        records: what the report says of calls that run densely.

    Without gradients, a call that is not `LARGER` than one that ended dense is taken for dense without a probe: fusing
    pays more, the larger the maps. With gradients each is tried: a training that is resumed must decide as one that was
    not interrupted.
    """

    def __init__(self) -> None:
        self._is_dense: dict[Call, bool] = {}
        self.records: dict[Call, list[LayerRecord]] = {}
        self._largest_dense: dict[object, int] = {}

    def is_dense(self, call: Call) -> bool | None:
        """Return whether calls like this one run densely; None where that is not decided."""
        found = self._is_dense.get(call)
        if found is not None or call.gradients:
            return found
        if call.numbers > LARGER * self._largest_dense.get(call.family, 0) and self._has_room(call):
            return None
        self._remember(call, is_dense=True)
        return True

    def decide(self, call: Call, dense: list[LayerRecord] | None) -> None:
        """Let calls like this one run densely from now on, with these records for the report; or fused (None)."""
        self._remember(call, is_dense=dense is not None)
        if dense is not None:
            self.records[call] = dense
            self._largest_dense[call.family] = max(call.numbers, self._largest_dense.get(call.family, 0))

    def prefer_dense(self, call: Call, records: list[LayerRecord]) -> None:
        """Let calls like this one, and no others, run densely, whatever the cost model says of them."""
        self._is_dense[call] = True
        self.records[call] = records

    def _has_room(self, call: Call) -> bool:
        """Return whether a call can be remembered. Those of coefficients that were cut since are forgotten for it."""
        if len(self._is_dense) >= MAX_DECIDED:
            self._is_dense = {one: is_dense for one, is_dense in self._is_dense.items() if one.kept == call.kept}
            self.records = {one: records for one, records in self.records.items() if one in self._is_dense}
            self._largest_dense.clear()
        return len(self._is_dense) < MAX_DECIDED

    def _remember(self, call: Call, *, is_dense: bool) -> None:
        if self._has_room(call):
            self._is_dense[call] = is_dense
