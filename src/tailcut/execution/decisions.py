"""What was settled about calls of a fused network: which run narrowly, which densely, and which need no trial."""

import math
from typing import Any, NamedTuple

import torch

from tailcut.execution.calls import device_type, sizes_of, tensors_of, words_of
from tailcut.execution.detours import is_autocast

# So many kinds of calls are remembered; then the list begins anew, and a call of each is tried once more.
MAX_SETTLED = 1024
# After so many new sizes in a row that ended dense, others are taken for dense without a trial,
ENOUGH_DENSE = 8
# unless they are larger than any of those by this factor: narrow ways pay more, the larger the maps.
LARGER = 1.25


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

    def needs_no_trial(self, call: Call) -> bool:
        """Whether so many others of its family ended dense that this one is taken for dense."""
        if call.gradients or not self._in_a_row:
            return False
        times, largest = self._in_a_row.get(call.family, (0, 0))
        return times >= ENOUGH_DENSE and call.numbers <= LARGER * largest

    def settle(self, call: Call, *, is_dense: bool) -> None:
        """Calls like this one run so from now on."""
        settled = self._dense if is_dense else self._narrow
        if len(settled) >= MAX_SETTLED:
            settled.clear()
        settled.add(call)
        if len(self._in_a_row) >= MAX_SETTLED:
            self._in_a_row.clear()
        times, largest = self._in_a_row.pop(call.family, (0, 0))
        if is_dense:
            self._in_a_row[call.family] = times + 1, max(largest, call.numbers)

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
