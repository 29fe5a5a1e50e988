"""Pooling, sums and largest numbers along axes, enlargement in a program."""

from dataclasses import replace
from typing import Any

import numpy as np
from torch import fx

from tailcut.errors import StructureError
from tailcut.export_c.lowering.graph import rank
from tailcut.export_c.lowering.lowering import MAX_WINDOW, Handlers, Lowering, pair, resampled, size_of, window
from tailcut.export_c.lowering.operations.edges import largest, largest_of_channels, times_ones
from tailcut.export_c.lowering.operations.pointwise import larger, smaller
from tailcut.export_c.lowering.sequences import axis_of, given_shape
from tailcut.export_c.program.program import ADAPTIVE, Kind, Op, Operation, Resampling, Value, Window

HANDLERS = Handlers()


def check_map(x: fx.Node) -> None:
    """Raise `StructureError` unless a node gives (1, channels, height, width)."""
    if rank(x) != 4:
        raise StructureError(f"of {given_shape(x)}; C code knows it of (1, channels, height, width)")


def poolable(low: Lowering, x: fx.Node) -> Value:
    """Plain, and of maps that have the size they are read in."""
    check_map(x)
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
    value, by = poolable(low, x), window(kernel, stride or kernel, padding)
    if max(by.kernel) > MAX_WINDOW and by.kernel == value.size and by.padding == (0, 0):
        return largest(low, value, {2, 3})
    return resampled(value, node, Resampling.MAX, by)


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
    value = poolable(low, x)
    if divisor_override is None and by.kernel == value.size and by.padding == (0, 0):
        return low.stored(value, Kind.MEAN)
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
    check_map(x)
    value, wanted = low.value(x), size_of(node)
    if value.size == wanted:
        return value
    if wanted == (1, 1):
        return low.stored(value, Kind.MEAN)
    if not any(part % full for full, part in zip(value.size, wanted, strict=True)):  # each mean is of one pixel
        return resampled(poolable(low, x), node, Resampling.NEAREST)
    return resampled(poolable(low, x), node, Resampling.AVERAGE, _steps(x, wanted), True)


@HANDLERS.register("adaptive_max_pool2d")
def _adaptive_max_pool2d(low: Lowering, node: fx.Node, x: fx.Node, size: Any) -> Value:
    """Return the largest numbers; their places, which torch gives too, are refused by `getitem`."""
    check_map(x)
    value, wanted = poolable(low, x), (int(node.meta["val"][0].shape[2]), int(node.meta["val"][0].shape[3]))
    if wanted == (1, 1):
        return largest(low, value, {2, 3})
    steps = _steps(x, wanted)
    return replace(value, size=wanted, resampling=Resampling.MAX, window=steps)


def _steps(x: fx.Node, wanted: tuple[int, int]) -> Window:
    """Return the windows of an adaptive pooling; they follow from both sizes where one divides not the other."""
    sizes = size_of(x)
    if any(full % part for full, part in zip(sizes, wanted, strict=True)):
        return Window(stride=ADAPTIVE)
    steps = (sizes[0] // wanted[0], sizes[1] // wanted[1])
    return Window(steps, steps)


def _along(x: fx.Node, axes: Any, shape: tuple[int, ...]) -> set[int]:
    """Return the axes, rows (2) and columns (3), that a mean or maximum is over; one alone where a map is left."""
    found = None if axes is None else {axis % rank(x) for axis in ([axes] if isinstance(axes, int) else axes)}
    if rank(x) == 4 and found in ({2}, {3}) and size_of(x)[1 if found == {2} else 0] == 1:
        found = {2, 3}  # of a map of one row or column
    is_map = found in ({2}, {3}) and len(shape) == 4
    if rank(x) != 4 or found is None or not (found == {2, 3} or is_map):
        over = "all axes" if found is None else axis_of(x, axes)
        raise StructureError(
            f"of {given_shape(x)} over {over}; C code knows it over channels, or over rows and columns"
        )
    return found


@HANDLERS.register("mean")
def _mean(
    low: Lowering, node: fx.Node, x: fx.Node, axes: Any = None, keepdim: bool = False, dtype: Any = None
) -> Value:
    if _is_over_channels(low, x, axes):
        value = times_ones(low, low.value(x), 1)
        return value.then(Op(Operation.SCALE, low=1 / low.value(x).channels))
    along = _along(x, axes, node.meta["val"].shape)
    if along == {2, 3}:
        return low.stored(low.value(x), Kind.MEAN)
    value = poolable(low, x)
    kernel = value.size[0] if 2 in along else 1, value.size[1] if 3 in along else 1
    size = value.size[0] // kernel[0], value.size[1] // kernel[1]
    return replace(value, size=size, resampling=Resampling.AVERAGE, window=Window(kernel, kernel), flag=True)


@HANDLERS.register("sum")
def _sum(low: Lowering, node: fx.Node, x: fx.Node, axes: Any = None, keepdim: bool = False, dtype: Any = None) -> Value:
    if _is_over_channels(low, x, axes):
        return times_ones(low, low.value(x), 1)
    value = _mean(low, node, x, axes, keepdim, dtype)
    height, width = size_of(x)
    count = height * width // (value.size[0] * value.size[1])
    return value.then(Op(Operation.SCALE, low=float(count)))


@HANDLERS.register("amax")
def _amax(low: Lowering, node: fx.Node, x: fx.Node, axes: Any = (), keepdim: bool = False) -> Value:
    return _largest(low, poolable(low, x), x, axes or None, node.meta["val"].shape)


@HANDLERS.register("amin")
def _amin(low: Lowering, node: fx.Node, x: fx.Node, axes: Any = (), keepdim: bool = False) -> Value:
    value = _largest(low, _negative(poolable(low, x)), x, axes or None, node.meta["val"].shape)
    return _negative(value)


@HANDLERS.register("max")
def _max(low: Lowering, node: fx.Node, x: fx.Node, axis: Any = None, keepdim: bool = False) -> Value:
    """Return the largest numbers along one axis; their places, which torch gives too, are refused by `getitem`."""
    if isinstance(axis, fx.Node):
        return larger(low, x, axis)
    shape = node.meta["val"].shape if axis is None else node.meta["val"][0].shape
    return _largest(low, poolable(low, x), x, axis, shape)


@HANDLERS.register("min")
def _min(low: Lowering, node: fx.Node, x: fx.Node, axis: Any = None, keepdim: bool = False) -> Value:
    """Return the smallest numbers as `_max` does the largest."""
    if isinstance(axis, fx.Node):
        return smaller(low, x, axis)
    shape = node.meta["val"].shape if axis is None else node.meta["val"][0].shape
    return _negative(_largest(low, _negative(poolable(low, x)), x, axis, shape))


def _largest(low: Lowering, value: Value, x: fx.Node, axes: Any, shape: tuple[int, ...]) -> Value:
    """Return the largest numbers of the value of a node, over axes that leave this shape."""
    if _is_over_channels(low, x, axes):
        return largest_of_channels(low, value)
    return largest(low, value, _along(x, axes, shape))


def _negative(value: Value) -> Value:
    return value.then(Op(Operation.SCALE, low=-1.0))


def _is_over_channels(low: Lowering, x: fx.Node, axes: Any) -> bool:
    """Tell if axes are that of the channels of a map, or of features, alone."""
    given = [axes] if isinstance(axes, int) else list(axes or ())
    has_them = rank(x) == 4 or (rank(x) == 2 and low.value(x).size == (1, 1))
    return has_them and [axis % rank(x) for axis in given] == [1]


@HANDLERS.register("expand", "expand_as")
def _expand(low: Lowering, node: fx.Node, x: fx.Node, *_: Any, **__: Any) -> Value:
    shape, wanted = (tuple(one.meta["val"].shape) for one in (x, node))
    if shape == wanted:
        return low.value(x)
    if rank(x) != 4 or shape[2:] != (1, 1) or shape[:2] != wanted[:2]:
        raise StructureError(f"from {shape} to {wanted}; C code knows it of (1, channels, 1, 1) along rows and columns")
    return resampled(poolable(low, x), node, Resampling.NEAREST)


@HANDLERS.register("upsample_bilinear2d")
def _bilinear(low: Lowering, node: fx.Node, x: fx.Node, size: Any, align_corners: bool, scales: Any = None) -> Value:
    value = poolable(low, x)
    if not align_corners and scales is not None:
        _check_scales(value, node, scales)
    return resampled(value, node, Resampling.BILINEAR, flag=align_corners)


@HANDLERS.register("upsample_nearest2d")
def _nearest(low: Lowering, node: fx.Node, x: fx.Node, size: Any, scales: Any = None) -> Value:
    value = poolable(low, x)
    if scales is not None:
        _check_scales(value, node, scales)
    for full, size, scale in zip(value.size, size_of(node), scales or (None, None), strict=True):
        _check_nearest(full, size, scale)
    return resampled(value, node, Resampling.NEAREST)


def _check_nearest(full: int, size: int, scale: float | None) -> None:
    """Raise `StructureError` where torch, which rounds the factor, takes another row or column than the nearest."""
    places = np.arange(size)
    step = np.float32(full) / np.float32(size) if scale is None else np.float32(1.0 / scale)
    taken = np.minimum((places.astype(np.float32) * step).astype(np.int64), full - 1)
    differing = np.flatnonzero(taken != places * full // size)
    if len(differing):
        raise StructureError(
            f"nearest enlargement of {full} to {size}, of which torch takes number {taken[differing[0]]} at "
            f"{differing[0]} by rounding, and C code the one before or after: enlarge by a whole factor"
        )


def _check_scales(value: Value, node: fx.Node, scales: Any) -> None:
    if any(full * by != size for full, by, size in zip(value.size, scales, size_of(node), strict=True)):
        raise StructureError(
            f"a scale factor of {tuple(scales)}, which gives no whole size of {value.size}; C code takes size= instead"
        )
