"""Numbers for each place of a map: position embeddings, class tokens, maps one behind the other along the length."""

from dataclasses import replace
from typing import Any

import numpy as np
from torch import fx

from tailcut.errors import StructureError
from tailcut.export_c.lowering.graph import op_name, rank
from tailcut.export_c.lowering.lowering import MOST_BEFORE as MOST_BEFORE
from tailcut.export_c.lowering.lowering import Lowering
from tailcut.export_c.lowering.operations.edges import padded
from tailcut.export_c.lowering.sequences import axis_of, given_constant, given_order
from tailcut.export_c.program.program import (
    MAX_LEAVES,
    Kind,
    Leaf,
    Map,
    Op,
    Operation,
    Segment,
    Stage,
    Table,
    Value,
    of_leaf,
)
from tailcut.export_c.program.weights import Floats, Weight

_SAME = ("alias", "clone", "contiguous", "detach", "expand", "expand_as", "lift_fresh_copy", "slice", "to")


def table_of(low: Lowering, node: Any, x: fx.Node, factor: float = 1.0) -> Weight | None:
    """Return a constant as numbers for each place of what x gives; None if it has one number, or one for each channel.

    Truncated ones stay coefficients.
    """
    if rank(x) != 4 or not isinstance(node, fx.Node) or node.name not in low.constants:
        return None
    numbers, value = low.constant(node), low.value(x)
    along = (value.channels, 1, 1)
    if numbers is None or numbers.size == 1 or (numbers.size, numbers.shape[-3:]) == (value.channels, along):
        return None
    try:
        whole = np.broadcast_to(numbers, (1, value.channels, *value.size))[0]
    except ValueError:
        return None
    kept = _kept_table(low, given_constant(node), given_order(x), value.channels, value.size, factor)
    return kept or _dense_table(low.name_of(node), whole * np.float32(factor))


def with_table(low: Lowering, value: Value, weight: Weight, first: int = 0) -> Value:
    """Write a value to memory with numbers added, from a row on; return what reads it there."""
    out = Map(value.channels, *value.size)
    low.add(Stage(Kind.TABLE, value, out, table=Table(weight, first), may_replace=low.attends))
    return of_leaf(Leaf(out, value.channels, *value.size))


def joined_places(low: Lowering, node: fx.Node, parts: list[fx.Node], axis: int) -> Value:
    """Return maps and constants one behind the other along rows (axis 2) or columns (3)."""
    if rank(node) != 4 or axis not in (2, 3):
        raise StructureError(f"a concatenation along {axis_of(node, axis)}; C code knows channels, rows and columns")
    shape, order = node.meta["val"].shape, given_order(node)
    if shape[axis] > MOST_BEFORE:
        raise StructureError(f"a concatenation of {shape[axis]:,} places; C code knows {MOST_BEFORE:,}")
    begin, values, tables = 0, [], []
    for part in parts:
        is_constant = part.name in low.constants
        given = _in_order_of_maps(low, part, order) if is_constant else None
        count = int(part.meta["val"].shape[axis] if given is None else given.shape[axis - 1])
        if given is None:
            rest = int(shape[axis]) - begin - count
            zeros = [(0, 0), (0, 0)]
            zeros[axis - 2] = begin, rest
            values.append(padded(low, low.unresized(low.plain(part)), *zeros))
        else:
            tables.append((begin, part, given))
        begin += count
    value = _sum(low, values)
    for begin, part, given in tables:
        whole, first = given, begin
        if axis == 3:
            whole, first = np.zeros(tuple(shape[1:]), np.float32), 0
            whole[:, :, begin : begin + given.shape[2]] = given
        kept = _kept_table(low, part, order, given.shape[0], (given.shape[1], given.shape[2]), 1.0)
        value = with_table(low, value, kept or _dense_table(low.name_of(part), whole), first)
    return value


def _sum(low: Lowering, values: list[Value]) -> Value:
    """Return the sum of values that are one map each, with zeros around."""
    first, *rest = values
    for value in rest:
        if len(first.leaves()) == MAX_LEAVES:
            first = low.stored(first)
        ops = (*first.segments[0].ops, *value.segments[0].ops, Op(Operation.ADD))
        first = replace(first, segments=(Segment(first.channels, ops),))
    return low.stored(first) if len(rest) > 1 else first


def _in_order_of_maps(low: Lowering, node: fx.Node, order: str) -> Floats:
    """Return the numbers of a constant as (channels, rows, columns)."""
    numbers = low.constant(node)
    if numbers is None or numbers.ndim != len(order) or numbers.shape[order.index("n")] != 1:
        raise StructureError(f"{low.name_of(node)} does not depend on the input; C code needs a map here")
    letters, numbers = order.replace("n", ""), numbers.squeeze(order.index("n"))
    axes = sorted(range(len(letters)), key=lambda place: low.axis(letters[place]))
    sizes = [1, 1, 1]
    for letter, size in zip(letters, numbers.shape, strict=True):
        sizes[low.axis(letter)] = size
    return np.ascontiguousarray(numbers.transpose(axes)).reshape(sizes)


def _dense_table(name: str, numbers: Floats) -> Weight:
    """Return (channels, rows, columns) as a table."""
    channels, rows, columns = numbers.shape
    sizes = rows, channels, 1, columns
    return Weight(name, np.ascontiguousarray(numbers.swapaxes(0, 1)).reshape(-1), sizes, sizes)


def _kept_table(
    low: Lowering, node: Any, order: str, channels: int, size: tuple[int, int], factor: float
) -> Weight | None:
    """Return the table of a parameter that is kept as coefficients, None for any other."""
    while isinstance(node, fx.Node) and node.op == "call_function" and op_name(node.target) in _SAME:
        source = node.args[0]
        if not isinstance(source, fx.Node) or source.meta["val"].shape != node.meta["val"].shape:
            return None
        node = source
    name = low.names.get(str(node), str(node))
    kept = low.kept_of(node)
    if kept is None or order not in ("nlc", "lnc") or not low.is_vertical:
        return None
    axes = [place for place in range(len(kept.shape)) if order[place - len(kept.shape) :][0] != "n"]
    if [kept.shape[axis] for axis in axes] != [size[0], channels]:
        return None
    chosen = [(axes.index(axis), by) for axis, by in zip(kept.axes, kept.order_weights, strict=True) if axis in axes]
    corner = kept.corner[axes[0]], kept.corner[axes[1]]
    numbers = kept.numbers * np.float32(factor)
    places, weights = tuple(place for place, _ in chosen), tuple(by for _, by in chosen)
    return Weight(name, numbers, (size[0], channels, 1, 1), (*corner, 1, 1), places, weights, is_truncated=True)
