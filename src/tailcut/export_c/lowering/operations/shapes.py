"""Parts of maps, concatenation, padding and other shapes in a program."""

from dataclasses import replace
from itertools import accumulate
from typing import Any, cast

import torch
from torch import fx

from tailcut.errors import StructureError
from tailcut.export_c.lowering.graph import is_empty, op_name, rank
from tailcut.export_c.lowering.lowering import MAX_SHARED_LEAVES, Handlers, Lowering, resampled, size_of
from tailcut.export_c.lowering.operations.edges import from_on, padded
from tailcut.export_c.lowering.operations.permutation import seen_otherwise
from tailcut.export_c.lowering.operations.places import joined_places
from tailcut.export_c.lowering.operations.resizing import check_map, poolable
from tailcut.export_c.lowering.sequences import axis_of, given_shape, is_canonical, recurrence_of
from tailcut.export_c.program.program import (
    MAX_LEAVES,
    Leaf,
    Map,
    Op,
    Operation,
    Resampling,
    Segment,
    Value,
    Window,
    joined_channels,
    whole_leaf,
)

HANDLERS = Handlers()


@HANDLERS.register("slice")
def _slice(
    low: Lowering, node: fx.Node, x: fx.Node, axis: int = 0, start: Any = None, end: Any = None, step: int = 1
) -> Value:
    shape = tuple(x.meta["val"].shape)
    axis %= len(shape)
    begin, stop, _ = slice(start, end).indices(shape[axis])
    if step == 1 and (begin, stop) == (0, shape[axis]):
        return low.value(x)
    if rank(x) != 4 and (rank(x) != 2 or low.value(x).size != (1, 1)):
        what = ", a flattened map (cut its channels before `flatten`)" if low.value(x).mixes_places else ""
        raise StructureError(f"a part of {given_shape(x)}{what}; C code takes channels of (1, channels, height, width)")
    if axis == 1 and step == 1:
        return low.plain(x).of_channels(begin, stop)
    if axis not in (2, 3) or begin >= stop:
        raise StructureError(
            f"[{begin}:{stop}:{step}] along {axis_of(x, axis)}; C code takes channels in a row, and rows and columns"
        )
    return _rows_or_columns(low, x, node, axis, begin, step)


def _rows_or_columns(low: Lowering, x: fx.Node, node: fx.Node, axis: int, begin: int, step: int = 1) -> Value:
    """Return as many rows (axis 2) or columns (3) from `begin` on as a node gives."""
    value = low.value(x)
    row = _one_step(value, begin) if axis == 2 and rank(node) == 2 else None
    if begin and row is not None:
        return row
    if begin:
        value, step = from_on(low, low.unresized(low.plain_value(value)), axis, begin, step), 1
    size = size_of(node) if rank(node) == 4 else (1, 1)
    picks = value.resampling == Resampling.PICK and not value.ops and value.window.padding == (0, 0)
    if not value.is_plain and not picks:
        value = low.stored(value)
    value = low.unresized(value)
    if value.size == size:
        return value
    stride = (value.window.stride[0] * (step if axis == 2 else 1), value.window.stride[1] * (step if axis == 3 else 1))
    return replace(value, size=size, resampling=Resampling.PICK, window=Window(stride=stride))


def _one_step(value: Value, step: int) -> Value | None:
    """Return one step of a sequence whose maps have the channels of a step side by side, read where it lies."""
    rows: dict[int, Leaf] = {}
    for leaf in value.leaves():
        map_ = leaf.map
        is_whole = (leaf.top, leaf.left, leaf.up) == (0, 0, None) and (leaf.height, leaf.width) == map_.size
        if not value.is_plain or map_.is_input or map_.width > 1 or map_.is_in_planes or not is_whole:
            return None
        row = Map(map_.channels, 1, 1, view_of=map_.owner, first=map_.first + step * map_.channels)
        rows[id(leaf)] = replace(leaf, map=row, height=1)
    for leaf in rows.values():
        leaf.map.owner.is_viewed = True
    segments = [
        Segment(
            segment.channels,
            tuple(op if op.leaf is None else replace(op, leaf=rows[id(op.leaf)]) for op in segment.ops),
        )
        for segment in value.segments
    ]
    return replace(value, segments=tuple(segments), source=(1, 1), size=(1, 1))


@HANDLERS.register("chunk", "split", "split_with_sizes")
def _split(low: Lowering, node: fx.Node, x: fx.Node, sizes: Any, axis: int = 0) -> Value:
    """Return the whole map, of which `getitem` takes a part."""
    axis %= rank(x)
    is_of_channels = axis == 1 and (rank(x) == 4 or low.value(x).size == (1, 1))
    if not is_of_channels and (rank(x) != 4 or axis == 0):
        raise StructureError(
            f"parts of {given_shape(x)} along {axis_of(x, axis)}; C code splits channels, and rows and columns of maps"
        )
    return low.value(x)


@HANDLERS.register("getitem")
def _getitem(low: Lowering, node: fx.Node, parts: fx.Node, index: int) -> Value:
    if recurrence_of(node) is not None:
        if index > 1:
            raise StructureError("the cells of an LSTM; C code gives its states")
        return low.states[parts.name] if index else low.value(parts)
    if _gives_places(parts):
        if index:
            raise StructureError("the places of the largest numbers; C code gives the numbers")
        return low.value(parts)
    x = cast("fx.Node", parts.args[0])
    axis = cast("int", parts.args[2] if len(parts.args) > 2 else parts.kwargs.get("dim", 0)) % rank(x)
    ends = list(accumulate((int(part.shape[axis]) for part in parts.meta["val"]), initial=0))
    if axis == 1:
        return low.plain(parts).of_channels(ends[index], ends[index + 1])
    return _rows_or_columns(low, x, node, axis, ends[index])


def _gives_places(node: fx.Node) -> bool:
    """Return whether a node gives numbers and their places."""
    return any(part.dtype == torch.int64 for part in node.meta["val"])


@HANDLERS.register("select")
def _select(low: Lowering, node: fx.Node, x: fx.Node, axis: int, index: int) -> Value:
    shape = x.meta["val"].shape
    axis %= rank(x)
    index %= shape[axis]
    if node.name in low.given_last:
        return low.value(x)
    found = recurrence_of(x)
    if found is not None and found[1] > 0 and axis == 0:
        size = shape[2]
        return low.plain(x).of_channels(index * size, (index + 1) * size)
    if rank(x) == 4 and axis == 1:
        return low.plain(x).of_channels(index, index + 1)
    is_along = rank(x) == 4 and axis in (2, 3)
    is_left = is_along and (rank(node) == 4 or shape[5 - axis] == 1)  # a map of one row, or one position
    if not is_left:
        raise StructureError("one row or column of a map without its axis; C code keeps the axis: x[:, :, -1:]")
    return _rows_or_columns(low, x, node, axis, index)


@HANDLERS.register("cat", "stack")
def _cat(low: Lowering, node: fx.Node, parts: Any, axis: int = 0) -> Value:
    axis %= len(node.meta["val"].shape)
    parts = [part for part in parts if not is_empty(part)]
    if axis != 1 and op_name(node.target) == "cat":
        return joined_places(low, node, parts, axis)
    if axis != 1:
        raise StructureError(f"maps stacked along {axis_of(node, axis)}; C code knows that of the channels")
    values = [low.plain(part) for part in parts]
    if any(value.mixes_places for value in values):
        raise StructureError("a concatenation of flattened maps")
    return _joined(low, tuple(parts), values)


def _joined(low: Lowering, parts: tuple[fx.Node, ...], values: list[Value]) -> Value:
    """Return the channels of maps one behind the other, written to memory where they are of many.

    What is written is taken again where a later concatenation begins with the same maps, as those of a DenseNet do.
    """
    known = next((count for count in range(len(parts), 1, -1) if parts[:count] in low.joined), 0)
    if known:
        values = [low.joined[parts[:known]], *values[known:]]
    known = max(known, 1)
    while _num_leaves(values) > MAX_LEAVES:
        count = next((count for count in range(len(values), 1, -1) if _num_leaves(values[:count]) <= MAX_LEAVES), 1)
        if count == 1:  # one of the first two is of many maps
            values[:2] = [low.stored(value) for value in values[:2]]
            continue
        known += count - 1
        low.joined[parts[:known]] = low.stored(joined_channels(values[:count]))
        values[:count] = [low.joined[parts[:known]]]
    joined = joined_channels(values)
    if _num_leaves(values) > MAX_SHARED_LEAVES:
        joined = low.joined[parts] = low.stored(joined)
    return joined


def _num_leaves(values: list[Value]) -> int:
    return len(joined_channels(values).leaves())


@HANDLERS.register("pad", "constant_pad_nd")
def _pad(low: Lowering, node: fx.Node, x: fx.Node, pads: Any, mode: Any = "constant", value: Any = None) -> Value:
    number = value if isinstance(mode, str) else mode
    if min(pads, default=0) < 0:
        raise StructureError(f"negative padding, {list(pads)}; C code knows padding by 0 and more")
    if mode in ("replicate", "reflect") and len(pads) == 4:
        around = Window(stride=(1, 1), padding=(pads[2], pads[0]))
        return resampled(poolable(low, x), node, Resampling.PICK, around, flag=mode == "reflect")
    if isinstance(mode, str) and mode != "constant":
        raise StructureError(
            f"mode={mode!r} by {list(pads)}; C code pads with zeros, or by 'replicate' or 'reflect' rows and columns"
        )
    if number:
        raise StructureError(f"padding with {number}; C code pads with zeros, or mode='replicate' or 'reflect'")
    left, right, top, bottom, before, after = (*pads, 0, 0, 0, 0, 0, 0)[:6]
    if not any(pads):
        return low.value(x)
    check_map(x)
    if any(pads[6:]):
        raise StructureError(f"padding of the batch, by {list(pads)}; C code pads channels, rows and columns")
    found = padded(low, low.plain(x), (top, bottom), (left, right))
    zeros = [Segment(count, (Op(Operation.ZERO),)) if count else None for count in (before, after)]
    parts = (zeros[0], *found.segments, zeros[1])
    return replace(found, segments=tuple(part for part in parts if part is not None))


@HANDLERS.register("flatten", "view", "reshape", "_unsafe_view", "unflatten", "squeeze", "unsqueeze")
def _reshape(low: Lowering, node: fx.Node, x: fx.Node, *_: Any, **__: Any) -> Value:
    value, shape = low.value(x), tuple(node.meta["val"].shape)
    if shape == (1,) and value.channels == 1 and value.size == (1, 1):  # the one number that a network ends with
        return replace(value, is_flat=True)
    if len(shape) not in (2, 3, 4) or shape[0] != 1:
        raise StructureError(f"a map of shape {given_shape(x)} seen as {given_shape(node)}")
    if not is_canonical(node) or (not is_canonical(x) and value.size != (1, 1)):
        return seen_otherwise(low, node, x)
    if len(shape) == 2:
        return replace(value, is_flat=True)
    if len(shape) == 3 and value.size == (1, 1):  # on the way to (1, channels, 1, 1)
        return value
    wanted = (1, *shape[1:])[-3:]
    if wanted == (value.channels, *value.size):
        return replace(value, is_flat=False)
    leaf = whole_leaf(value) or whole_leaf(low.stored(value))
    if leaf is None or not leaf.map.is_planar:
        return low.seen(low.as_given(x), *wanted)
    return low.seen(leaf.map, *wanted)


@HANDLERS.register("dropout", "dropout_", "feature_dropout")
def _dropout(low: Lowering, node: fx.Node, x: fx.Node, ratio: float, train: bool) -> Value:
    if train and ratio > 0:
        raise StructureError(
            f"dropout of {ratio} that is active in evaluation too, as torch.nn.functional.dropout is where it is not "
            "given the mode of the module; C code drops nothing"
        )
    return low.value(x)


@HANDLERS.register("alias", "contiguous", "detach", "clone", "lift_fresh_copy", "to")
def _same(low: Lowering, node: fx.Node, x: fx.Node, *_: Any, **__: Any) -> Value:
    return low.value(x)
