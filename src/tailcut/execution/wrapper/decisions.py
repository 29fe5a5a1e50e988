"""What was settled about calls of a fused network: which run narrowly, which densely, and which need no trial."""

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from tailcut.execution.layers.call_key import device_type, sizes_of, tensors_of, words_of
from tailcut.execution.lazy.unsupported import is_autocast
from tailcut.execution.wrapper.programs import NetworkPrograms

# So many kinds of calls are remembered, and further ones run densely: one that was forgotten might run another way when
# it comes again.
MAX_SETTLED = 1024
# After so many new sizes in a row that ended dense, others are taken for dense without a trial,
ENOUGH_DENSE = 8
# unless they are larger than any of those by this factor: narrow ways pay more, the larger the maps.
LARGER = 1.25
# What makes a call of a module more than its forward.
_HOOKS_OF_CALLS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
# Found once: a call of a small network takes a few microseconds.
_is_grad_enabled, _get_tracing_state = torch.is_grad_enabled, torch._C._get_tracing_state


class Call(NamedTuple):
    """What the way of a call depends on.

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
        """How many numbers its tensors have."""
        return sum(map(math.prod, self.shapes))

    @property
    def family(self) -> object:
        """What it has in common with calls of other sizes."""
        return (tuple(map(len, self.shapes)), *self[1:])


def call_of(args: tuple[Any, ...], kwargs: dict[str, Any], *, kept: int, training: bool) -> Call:
    """The call with these arguments, in the present modes of torch."""
    tensors = tensors_of(args, kwargs)
    places = tuple([(tensor.layout, tensor.device) for tensor in tensors])
    autocast = is_autocast(device_type(tensors))
    words = words_of(args, kwargs)
    return Call(sizes_of(tensors), places, words, kept, training, torch.is_grad_enabled(), autocast)


class SettledCall:
    """The latest call, if it ran densely without gradients on one tensor: others like it need no further look.

    Attributes:
        run: the dense network.
    """

    def __init__(self, call: Call, network: nn.Module, assembly: NetworkPrograms) -> None:
        self.run = assembly.dense.root
        self._is_current, self._is_same = assembly.is_current, assembly.freshness.is_same
        self._shape, self._training = call.shapes[0], call.training
        self._own, self._source = network.__dict__, assembly.source
        self._modules, self._of_source = network._modules, assembly.source.__dict__
        self._hooks = [self._own[name] for name in _HOOKS_OF_CALLS]

    def holds(self, args: tuple[Any, ...]) -> bool:
        """Whether a call of the fused network is like this one, and the dense weights are those of the coefficients.

        The device and the layout are not asked: the dense network gives the right answer, or the error, for all.
        """
        return (
            len(args) == 1
            and type(args[0]) is Tensor
            and args[0].shape == self._shape
            and not _is_grad_enabled()
            and self._of_source["training"] is self._training
            and not any(self._hooks)
            and self._modules["source"] is self._source
            and self._own["strategy"] == "auto"
            and "_compiled_call_impl" not in self._own
            and _get_tracing_state() is None
            and self._is_current()
            and self._is_same()
        )


def is_simple(call: Call, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """Whether a `SettledCall` can remember a call."""
    return not (call.gradients or call.autocast or kwargs) and len(args) == 1 and type(args[0]) is Tensor


class Decisions:
    """Each new call is tried once; its end settles the way of all like it.

    Networks whose inputs have always another size would try them all. So after `ENOUGH_DENSE` new sizes in a row that
    ended dense, others of that family run densely without a trial, unless they are larger than any of those by
    `LARGER`. That depends on the calls before; so it is not done where gradients are enabled: a training that is
    resumed must decide as one that was not interrupted.
    """

    def __init__(self) -> None:
        self._dense: set[Call] = set()
        self._narrow: set[Call] = set()
        self._timed: set[Call] = set()
        self._in_a_row: dict[object, tuple[int, int]] = {}

    def is_dense(self, call: Call) -> bool:
        """Whether calls like this one run densely."""
        return call in self._dense or call in self._timed

    def is_narrow(self, call: Call) -> bool:
        """Whether calls like this one run narrowly."""
        return call in self._narrow

    def take_for_dense(self, call: Call) -> bool:
        """Whether so many others of its family ended dense that this one runs densely from now on, without a trial."""
        times, largest = (0, 0) if call.gradients else self._in_a_row.get(call.family, (0, 0))
        if self._has_room(call) and (times < ENOUGH_DENSE or call.numbers > LARGER * largest):
            return False
        self._remember(self._dense, call)
        return True

    def settle(self, call: Call, *, is_dense: bool) -> None:
        """Calls like this one run so from now on."""
        self._remember(self._dense if is_dense else self._narrow, call)
        if len(self._in_a_row) >= MAX_SETTLED:
            self._in_a_row.clear()
        times, largest = self._in_a_row.pop(call.family, (0, 0))
        if is_dense:
            self._in_a_row[call.family] = times + 1, max(largest, call.numbers)

    def _has_room(self, call: Call) -> bool:
        """Whether a call can be remembered. Those of coefficients that were cut since are forgotten for it."""
        if len(self._dense) + len(self._narrow) >= MAX_SETTLED:
            for settled in (self._dense, self._narrow):
                settled.intersection_update({one for one in settled if one.kept == call.kept})
        return len(self._dense) + len(self._narrow) < MAX_SETTLED

    def _remember(self, settled: set[Call], call: Call) -> None:
        if self._has_room(call):
            settled.add(call)

    def prefer_dense(self, call: Call) -> None:
        """Calls like this one run densely, whatever the cost model says of them."""
        self._timed.add(call)
        self._narrow.discard(call)

    def copied(self) -> "Decisions":
        """The same decisions, for a copy of the network."""
        other = Decisions()
        other._dense, other._narrow, other._timed = self._dense.copy(), self._narrow.copy(), self._timed.copy()
        other._in_a_row = self._in_a_row.copy()
        return other
