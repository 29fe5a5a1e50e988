"""Permuted axes, where they are more than other names, and maps seen in another shape."""

from typing import Any

from torch import fx

from tailcut.errors import StructureError
from tailcut.export_c.lowering.graph import rank
from tailcut.export_c.lowering.lowering import MAX_SIZE, Handlers, Lowering
from tailcut.export_c.lowering.sequences import (
    PERMUTATIONS,
    given_order,
    given_shape,
    recurrence_of,
)
from tailcut.export_c.program.program import Value

HANDLERS = Handlers()


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
    memory = low.as_given(x)
    shape, order = given_shape(node)[1:], given_order(node)
    if rank(node) == 2:
        (count,) = shape
        sizes = (count, 1, 1) if count <= MAX_SIZE else (1, *given_shape(x)[1:])[-3:]
        return low.seen(memory, *sizes, is_flat=True)
    if order in ("ncl", "nchw", "nhw"):
        return low.seen(memory, *(1, *node.meta["val"].shape[1:])[-3:])
    if order[-1] == "c" and "l" in order and low.is_vertical:
        return low.seen(memory, shape[-1], given_shape(node)[order.index("l")], 1, row_stride=shape[-1])
    if order[0] != "n":
        raise StructureError(f"{given_shape(x)} seen as {given_shape(node)}, with the length before the batch")
    places = (0, 1, 2) if len(shape) == 3 else (0, 2)
    sizes = shape if len(shape) == 3 else (shape[0], 1, shape[1])
    axes = [(place, low.axis(letter)) for place, letter in zip(places, order[1:], strict=True)]
    return low.permuted(low.seen(memory, *sizes), axes)
