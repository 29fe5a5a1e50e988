"""Permuted axes, where they are more than other names, and maps seen in another shape."""

from collections.abc import Callable, Sequence
from functools import partial
from itertools import permutations
from typing import Any

from torch import fx

from tailcut.errors import StructureError
from tailcut.export_c.lowering.graph import rank
from tailcut.export_c.lowering.lowering import MAX_SIZE, Handlers, Lowering
from tailcut.export_c.lowering.rearranging.join import rearrangement_of
from tailcut.export_c.lowering.rearranging.moves import Axes, Move, Order, shortest_way
from tailcut.export_c.lowering.sequences import (
    PERMUTATIONS,
    REARRANGED,
    given_order,
    given_shape,
    recurrence_of,
)
from tailcut.export_c.program.program import Leaf, Map, Value, of_leaf, whole_leaf

HANDLERS = Handlers()

_AS_WRITTEN = (1, 0, 2)
"""Rows, channels, columns: the order in which the runtime writes a map."""


@HANDLERS.register(*PERMUTATIONS)
def _permute(low: Lowering, node: fx.Node, x: fx.Node, axes: Any = None, *_: Any) -> Value:
    """Move the axes of a map; `axes` are pairs: an axis of the map that is read, and of the one that is written."""
    found = recurrence_of(x)
    if found is not None and found[1] > 0 and node.meta["val"].shape[0] == 1:
        return low.value(x)  # states one behind the other, (layers, 1, hidden), seen as those of a batch of one
    if not isinstance(axes, (list, tuple)) or not axes or not isinstance(axes[0], (list, tuple)):
        raise low.unknown()
    return low.permuted(low.value(x), [(pair[0], pair[1]) for pair in axes])


def seen_otherwise(low: Lowering, node: fx.Node, x: fx.Node) -> Value:
    """Return the numbers that a node gives in the order of the user's network, in the shape of another node."""
    return seen_as(low, node, low.as_given(x))


def seen_as(low: Lowering, node: fx.Node, memory: Map) -> Value:
    """Return numbers in memory, in the order of the user's network, in the shape of a node."""
    shape, order = given_shape(node)[1:], given_order(node)
    if rank(node) == 2:
        (count,) = shape
        return low.seen(memory, *((count, 1, 1) if count <= MAX_SIZE else memory.sizes), is_flat=True)
    if order in ("ncl", "nchw", "nhw"):
        return low.seen(memory, *(1, *node.meta["val"].shape[1:])[-3:])
    if order[-1] == "c" and "l" in order and low.is_vertical:
        return low.seen(memory, shape[-1], given_shape(node)[order.index("l")], 1, row_stride=shape[-1])
    if order[0] != "n":
        raise StructureError(f"{memory.sizes} seen as {given_shape(node)}, with the length before the batch")
    places = (0, 1, 2) if len(shape) == 3 else (0, 2)
    sizes = shape if len(shape) == 3 else (shape[0], 1, shape[1])
    axes = [(place, low.axis(letter)) for place, letter in zip(places, order[1:], strict=True)]
    return low.permuted(low.seen(memory, *sizes), axes)


@HANDLERS.register(REARRANGED)
def _rearranged(low: Lowering, node: fx.Node, x: fx.Node, *_: Any) -> Value:
    """Copy a map with its numbers in another order, as few times as three axes at a time allow."""
    found = rearrangement_of(node)
    axes, begin = Axes(found.sizes, found.order), _Beginning(low, x)
    read, made = (tuple(one.meta["val"].shape[1:]) if _is_map(one) else () for one in (x, node))
    is_read_as_map = read and axes.cut(axes.before, read)
    is_made_as_map = made and axes.cut(axes.after, made)
    if is_read_as_map:
        begin.of_map(axes.grouped(axes.before, read))
    else:
        begin.as_given(tuple(axes.before))
    as_given = tuple(axes.after)
    as_map = _joined(axes.grouped(axes.after, made), _AS_WRITTEN) if is_made_as_map else as_given
    goals = {as_given} if as_map in begin.costs else {as_given, as_map}
    way = shortest_way(begin.costs, goals, axes.sizes, MAX_SIZE)
    memory = begin.memory(way.start)
    for place, move in enumerate(way.moves, 1):
        is_map = place == len(way.moves) and way.goal != as_given
        memory = _moved(low, low.seen(memory, *move.sizes), move, Map(*made) if is_map else None)
    return seen_as(low, node, memory) if way.goal == as_given else of_leaf(Leaf(memory, memory.channels, *memory.size))


class _Beginning:
    """The orders of axes in which a value lies in memory, or may be written.

    Attributes:
        costs: of each order, how many copies it takes.
    """

    def __init__(self, low: Lowering, x: fx.Node) -> None:
        self.low, self.x, self.value = low, x, low.value(x)
        self.costs: dict[Order, int] = {}
        self._memory: dict[Order, Callable[[], Map]] = {}

    def as_given(self, order: Order) -> None:
        """Take the order of the user's network alone."""
        self.costs[order] = 0
        self._memory[order] = lambda: self.low.as_given(self.x)

    def of_map(self, parts: list[Order]) -> None:
        """Take any order of channels, rows and columns, which are these axes."""
        leaf, sizes = whole_leaf(self.value), (self.value.channels, *self.value.size)
        for one, two, three in permutations(range(3)):
            order = one, two, three
            move = Move(sizes, order)
            is_there = leaf is not None and leaf.map.has_strides(move.strides)
            axes = _joined(parts, order)
            if is_there and leaf is not None:
                self.costs[axes] = 0
                self._memory[axes] = partial(getattr, leaf, "map")
            elif axes not in self.costs:
                self.costs[axes] = 1
                self._memory[axes] = partial(self._written, move)

    def memory(self, order: Order) -> Map:
        """Return the numbers in memory in one of the orders."""
        return self._memory[order]()

    def _written(self, move: Move) -> Map:
        if move.order == _AS_WRITTEN:
            return self.low.stored(self.value).leaves()[0].map
        return _moved(self.low, self.value, move)


def _moved(low: Lowering, value: Value, move: Move, out: Map | None = None) -> Map:
    """Return the memory of a copy of a value, whose channels, rows and columns are the groups of the move."""
    rows, channels, columns = move.written
    return low.written(value, out or Map(channels, rows, columns), move.strides).leaves()[0].map


def _is_map(node: fx.Node) -> bool:
    """Tell if a node gives (1, channels, height, width)."""
    return rank(node) == 4 and given_order(node) == "nchw"


def _joined(parts: Sequence[Order], order: Sequence[int]) -> Order:
    return tuple(axis for part in order for axis in parts[part])
