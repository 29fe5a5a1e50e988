"""Pooling, enlargement, parts of maps, concatenation and other shapes in a program."""

from dataclasses import replace
from itertools import accumulate
from typing import Any

from torch import fx

from tailcut.errors import StructureError
from tailcut.export_c.lowering import Handlers, Lowering, of_leaf, pair, rank, resampled, size_of, window
from tailcut.export_c.program import Kind, Leaf, Map, Op, Operation, Resampling, Segment, Value, Window

HANDLERS = Handlers()


def _check_map(x: fx.Node) -> None:
    """Raise `StructureError` unless a node gives (1, channels, height, width)."""
    if rank(x) != 4:
        raise StructureError(f"of {tuple(x.meta['val'].shape)}; C code knows it of (1, channels, height, width)")


def _poolable(low: Lowering, x: fx.Node) -> Value:
    """Plain, and of maps that have the size they are read in."""
    _check_map(x)
    return low.unresized(low.plain(x))


@HANDLERS.register("max_pool2d")
def _max_pool2d(
    low: Lowering,
    node: fx.Node,
    x: fx.Node,
    kernel: Any,
    stride: Any = (),
    padding: Any = 0,
    dilation: Any = 1,
    ceil_mode: bool = False,
) -> Value:
    if pair(dilation) != (1, 1):
        raise StructureError(f"max pooling with dilation={dilation}; C code knows dilation=1")
    return resampled(_poolable(low, x), node, Resampling.MAX, window(kernel, stride or kernel, padding))


@HANDLERS.register("avg_pool2d")
def _avg_pool2d(
    low: Lowering,
    node: fx.Node,
    x: fx.Node,
    kernel: Any,
    stride: Any = (),
    padding: Any = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: Any = None,
) -> Value:
    by = window(kernel, stride or kernel, padding)
    value = _poolable(low, x)
    fits = [
        (size - 1) * step + length <= full + 2 * pad
        for size, step, length, full, pad in zip(
            size_of(node), by.stride, by.kernel, value.size, by.padding, strict=True
        )
    ]
    if divisor_override is not None:
        raise StructureError(f"divisor_override={divisor_override}; C code divides by the size of the window")
    if not all(fits):
        raise StructureError("ceil_mode, with windows that reach over the edge; C code knows windows within the map")
    return resampled(value, node, Resampling.AVERAGE, by, count_include_pad)


@HANDLERS.register("adaptive_avg_pool2d")
def _adaptive_avg_pool2d(low: Lowering, node: fx.Node, x: fx.Node, size: Any) -> Value:
    _check_map(x)
    value, wanted = low.value(x), size_of(node)
    if value.size == wanted:
        return value
    if wanted == (1, 1):
        return low.stored(value, Kind.MEAN)
    if not any(part % full for full, part in zip(value.size, wanted, strict=True)):  # each mean is of one pixel
        return resampled(_poolable(low, x), node, Resampling.NEAREST)
    if any(full % part for full, part in zip(value.size, wanted, strict=True)):
        raise StructureError(f"an adaptive pooling from {value.size} to {wanted}, of which neither divides the other")
    value = _poolable(low, x)
    steps = (value.size[0] // wanted[0], value.size[1] // wanted[1])
    return resampled(value, node, Resampling.AVERAGE, Window(steps, steps), True)


@HANDLERS.register("mean")
def _mean(
    low: Lowering, node: fx.Node, x: fx.Node, axes: Any = None, keepdim: bool = False, dtype: Any = None
) -> Value:
    if rank(x) != 4 or axes is None or sorted(axis % 4 for axis in axes) != [2, 3]:
        over = "all axes" if axes is None else f"the axes {list(axes)}"
        raise StructureError(f"of {tuple(x.meta['val'].shape)} over {over}; C code knows it over rows and columns")
    return low.stored(low.value(x), Kind.MEAN)


@HANDLERS.register("sum")
def _sum(low: Lowering, node: fx.Node, x: fx.Node, axes: Any = None, keepdim: bool = False, dtype: Any = None) -> Value:
    height, width = size_of(x)
    return _mean(low, node, x, axes, keepdim, dtype).then(Op(Operation.SCALE, low=float(height * width)))


@HANDLERS.register("expand", "expand_as")
def _expand(low: Lowering, node: fx.Node, x: fx.Node, *_: Any, **__: Any) -> Value:
    shape, wanted = (tuple(one.meta["val"].shape) for one in (x, node))
    if shape == wanted:
        return low.value(x)
    if rank(x) != 4 or shape[2:] != (1, 1) or shape[:2] != wanted[:2]:
        raise StructureError(f"from {shape} to {wanted}; C code knows it of (1, channels, 1, 1) along rows and columns")
    return resampled(_poolable(low, x), node, Resampling.NEAREST)


@HANDLERS.register("upsample_bilinear2d")
def _bilinear(low: Lowering, node: fx.Node, x: fx.Node, size: Any, align_corners: bool, scales: Any = None) -> Value:
    value = _poolable(low, x)
    if not align_corners and scales is not None:
        _check_scales(value, node, scales)
    return resampled(value, node, Resampling.BILINEAR, flag=align_corners)


@HANDLERS.register("upsample_nearest2d")
def _nearest(low: Lowering, node: fx.Node, x: fx.Node, size: Any, scales: Any = None) -> Value:
    value = _poolable(low, x)
    if scales is not None:
        _check_scales(value, node, scales)
    return resampled(value, node, Resampling.NEAREST)


def _check_scales(value: Value, node: fx.Node, scales: Any) -> None:
    if any(full * by != size for full, by, size in zip(value.size, scales, size_of(node), strict=True)):
        raise StructureError(
            f"a scale factor of {tuple(scales)}, which gives no whole size of {value.size}; C code takes size= instead"
        )


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
        raise StructureError(f"a part of {shape}; C code takes channels of (1, channels, height, width)")
    if axis == 1 and step == 1:
        return _channels(low.plain(x), begin, stop)
    if axis not in (2, 3) or begin != 0:
        raise StructureError(
            f"[{begin}:{stop}:{step}] along axis {axis}; C code takes channels in a row, and rows and columns from the "
            "first on"
        )
    value = low.value(x)
    picks = value.resampling == Resampling.PICK and not value.ops and value.window.padding == (0, 0)
    if not value.is_plain and not picks:
        value = low.stored(value)
    value = low.unresized(value)
    stride = (value.window.stride[0] * (step if axis == 2 else 1), value.window.stride[1] * (step if axis == 3 else 1))
    return resampled(value, node, Resampling.PICK, Window(stride=stride))


@HANDLERS.register("chunk", "split", "split_with_sizes")
def _split(low: Lowering, node: fx.Node, x: fx.Node, sizes: Any, axis: int = 0) -> Value:
    """Return the whole map, of which `getitem` takes a part."""
    if axis % rank(x) != 1 or (rank(x) != 4 and low.value(x).size != (1, 1)):
        raise StructureError(f"parts of {tuple(x.meta['val'].shape)} along axis {axis}; C code splits channels")
    return low.value(x)


@HANDLERS.register("getitem")
def _getitem(low: Lowering, node: fx.Node, parts: fx.Node, index: int) -> Value:
    ends = list(accumulate((int(part.shape[1]) for part in parts.meta["val"]), initial=0))
    return _channels(low.plain(parts), ends[index], ends[index + 1])


@HANDLERS.register("select")
def _select(low: Lowering, node: fx.Node, x: fx.Node, axis: int, index: int) -> Value:
    if rank(x) != 4 or axis % 4 != 1:
        raise StructureError("one row or column of a map; C code selects channels")
    index %= x.meta["val"].shape[1]
    return _channels(low.plain(x), index, index + 1)


def _channels(value: Value, begin: int, stop: int) -> Value:
    """Return some of the channels of a plain value."""
    segments, first = [], 0
    for segment in value.segments:
        part = slice(max(begin - first, 0), min(stop - first, segment.channels))
        if part.start < part.stop:
            segments.append(Segment(part.stop - part.start, tuple(op.of_channels(part) for op in segment.ops)))
        first += segment.channels
    return replace(value, segments=tuple(segments))


@HANDLERS.register("cat", "stack")
def _cat(low: Lowering, node: fx.Node, parts: Any, axis: int = 0) -> Value:
    if axis % len(node.meta["val"].shape) != 1:
        raise StructureError(f"a concatenation along axis {axis}; C code knows that of the channels")
    values = [low.plain(part) for part in parts]
    if any(value.is_flat and value.size != (1, 1) for value in values):
        raise StructureError("a concatenation of flattened maps")
    joined = replace(values[0], segments=tuple(segment for value in values for segment in value.segments))
    return low.stored(joined) if len(joined.leaves()) > 4 else joined


@HANDLERS.register("pad", "constant_pad_nd")
def _pad(low: Lowering, node: fx.Node, x: fx.Node, pads: Any, mode: Any = "constant", value: Any = None) -> Value:
    number = value if isinstance(mode, str) else mode
    if min(pads, default=0) < 0:
        raise StructureError(f"negative padding, {list(pads)}; C code knows padding by 0 and more")
    if mode == "replicate" and len(pads) == 4:
        edge = Window(stride=(1, 1), padding=(pads[2], pads[0]))
        return resampled(_poolable(low, x), node, Resampling.PICK, edge)
    if isinstance(mode, str) and mode != "constant":
        raise StructureError(
            f"mode={mode!r} by {list(pads)}; C code pads with zeros, or mode='replicate' along rows and columns"
        )
    if number:
        raise StructureError(f"padding with {number}; C code pads with zeros, or mode='replicate'")
    left, right, top, bottom, before, after = (*pads, 0, 0, 0, 0, 0, 0)[:6]
    if not any(pads):
        return low.value(x)
    _check_map(x)
    if any(pads[6:]):
        raise StructureError(f"padding of the batch, by {list(pads)}; C code pads channels, rows and columns")
    found = low.plain(x)
    if left or right or top or bottom:
        (first, *rest) = found.segments[0].ops
        if len(found.segments) > 1 or rest or first.leaf is None:
            found = low.stored(found)
        (first,) = found.segments[0].ops
        leaf = first.leaf
        if leaf is None:
            raise StructureError("a map that is not in memory")
        size = (found.size[0] + top + bottom, found.size[1] + left + right)
        padded = Op(Operation.LEAF, replace(leaf, top=leaf.top + top, left=leaf.left + left))
        found = replace(found, segments=(Segment(found.channels, (padded,)),), source=size, size=size)
    zeros = [Segment(count, (Op(Operation.ZERO),)) if count else None for count in (before, after)]
    parts = (zeros[0], *found.segments, zeros[1])
    return replace(found, segments=tuple(part for part in parts if part is not None))


@HANDLERS.register("flatten", "view", "reshape", "_unsafe_view", "unflatten", "squeeze", "unsqueeze")
def _reshape(low: Lowering, node: fx.Node, x: fx.Node, *_: Any, **__: Any) -> Value:
    value, shape = low.value(x), tuple(node.meta["val"].shape)
    if len(shape) not in (2, 3, 4) or shape[0] != 1:
        raise StructureError(f"a map of shape {tuple(x.meta['val'].shape)} seen as {shape}")
    if len(shape) == 2:
        return replace(value, is_flat=True)
    if len(shape) == 3:  # (1, height, width) of one channel, or on the way to (1, channels, 1, 1)
        if value.size == (1, 1) or value.channels == 1:
            return value
        raise StructureError(f"a map of shape {tuple(x.meta['val'].shape)} seen as {shape}")
    channels, height, width = shape[1:]
    if (channels, height, width) == (value.channels, *value.size):
        return replace(value, is_flat=False)
    if value.size != (1, 1) or channels * height * width != value.channels:
        raise StructureError(f"a map of shape {tuple(x.meta['val'].shape)} seen as {shape}")
    stored = low.stored(value)
    leaf = stored.segments[0].ops[0].leaf
    if leaf is None:
        raise StructureError("a map that is not in memory")
    seen = Map(channels, height, width, view_of=leaf.map)
    return of_leaf(Leaf(seen, channels, height, width))


@HANDLERS.register(
    "dropout", "dropout_", "alias", "contiguous", "detach", "clone", "lift_fresh_copy", "to", "feature_dropout"
)
def _same(low: Lowering, node: fx.Node, x: fx.Node, *_: Any, **__: Any) -> Value:
    return low.value(x)
