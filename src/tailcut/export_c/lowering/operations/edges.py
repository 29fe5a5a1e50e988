"""Edges of maps, and what is one number of a whole axis.

Zeros around maps; the largest of all rows, columns or channels; sums of channels; rows and columns from a later one on.
"""

from dataclasses import replace

import numpy as np

from tailcut.errors import StructureError
from tailcut.export_c.lowering.lowering import MAX_WINDOW, Lowering
from tailcut.export_c.program.program import (
    Kind,
    Leaf,
    Map,
    Op,
    Operation,
    Resampling,
    Segment,
    Stage,
    Value,
    Window,
    of_leaf,
)
from tailcut.export_c.program.weights import Weight


def padded(low: Lowering, value: Value, rows: tuple[int, int], columns: tuple[int, int]) -> Value:
    """Return a plain value with zeros before and behind its rows and columns."""
    if not any((*rows, *columns)):
        return value
    (first, *rest) = value.segments[0].ops
    if len(value.segments) > 1 or rest or first.leaf is None:
        value = low.stored(value)
    (first,) = value.segments[0].ops
    leaf = first.leaf
    if leaf is None:
        raise StructureError("a map that is not in memory")
    size = (value.size[0] + sum(rows), value.size[1] + sum(columns))
    around = Op(Operation.LEAF, replace(leaf, top=leaf.top + rows[0], left=leaf.left + columns[0]))
    return replace(value, segments=(Segment(value.channels, (around,)),), source=size, size=size)


def largest(low: Lowering, value: Value, axes: set[int]) -> Value:
    """Return the largest numbers of a plain value along its rows (axis 2), columns (3) or both."""
    while any(value.size[axis - 2] > 1 for axis in axes):
        value = low.plain_value(value)
        full = value.size[0] if 2 in axes else 1, value.size[1] if 3 in axes else 1
        kernel = min(full[0], MAX_WINDOW), min(full[1], MAX_WINDOW)  # a window may reach over the edge
        size = -(-value.size[0] // kernel[0]), -(-value.size[1] // kernel[1])
        value = replace(value, size=size, resampling=Resampling.MAX, window=Window(kernel, kernel))
    return value


def largest_of_channels(low: Lowering, value: Value) -> Value:
    """Return the largest number of all channels at each place of a value.

    The channels become rows, of which the largest is pooled.
    """
    turned = low.permuted(value, [(0, 1), (1, 0), (2, 2)])
    return low.permuted(largest(low, turned, {2}), [(0, 1), (2, 2)])


def times_ones(low: Lowering, value: Value, channels: int) -> Value:
    """Return as many channels, each the sum of all those of a value: a convolution by ones."""
    sizes, out = (channels, value.channels, 1, 1), Map(channels, *value.size)
    ones = np.ones(channels * value.channels, np.float32)
    low.add(Stage(Kind.CONV, value, out, Weight("ones", ones, sizes, sizes)))
    return of_leaf(Leaf(out, channels, *out.size))


def from_on(low: Lowering, value: Value, axis: int, begin: int, step: int = 1) -> Value:
    """Return every `step`-th row (axis 2) or column (3) of a plain value from `begin` on.

    A convolution of each channel by 0, ..., 0, 1 leaves out those before; it changes no number.
    """
    while begin:
        reach = min(begin, MAX_WINDOW)
        begin -= reach
        own_step = 1 if begin else step
        along, channels = axis - 2, value.channels
        size = [*value.size]
        size[along] = (size[along] - reach - 1) // own_step + 1
        kernel, stride, dilation = [1, 1], [1, 1], [1, 1]
        kernel[along], stride[along], dilation[along] = 2, own_step, reach
        sizes = channels, 1, kernel[0], kernel[1]
        weight = Weight("a part of a map", np.tile(np.array([0, 1], np.float32), channels), sizes, sizes)
        by = Window((kernel[0], kernel[1]), (stride[0], stride[1]), (0, 0), (dilation[0], dilation[1]))
        out = Map(channels, size[0], size[1])
        low.add(Stage(Kind.CONV, value, out, weight, by, channels))
        value = of_leaf(Leaf(out, channels, *out.size))
    return value
