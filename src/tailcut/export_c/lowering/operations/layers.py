"""Layers in a program: convolutions, linear layers, batch norm."""

from dataclasses import replace
from typing import Any

import numpy as np
from torch import fx

from tailcut.errors import StructureError
from tailcut.export_c.lowering.graph import rank
from tailcut.export_c.lowering.lowering import Handlers, Lowering, has_channels, pair, size_of, window
from tailcut.export_c.lowering.operations.edges import padded
from tailcut.export_c.lowering.sequences import channels_last, given_shape
from tailcut.export_c.program.program import Kind, Leaf, Map, Norm, Op, Operation, Stage, Value, of_leaf

HANDLERS = Handlers()


@HANDLERS.register("conv2d")
def _conv2d(
    low: Lowering,
    node: fx.Node,
    x: fx.Node,
    weight: fx.Node,
    bias: Any = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> Value:
    value, found = low.value(x), low.weight(weight)
    if padding == "valid":
        padding = 0
    elif padding == "same":
        reach = [step * (size - 1) for step, size in zip(pair(dilation), found.sizes[2:], strict=True)]
        padding = [part // 2 for part in reach]
        if any(part % 2 for part in reach):  # one more zero behind, as in torch
            value = padded(low, low.unresized(low.plain(x)), (0, reach[0] % 2), (0, reach[1] % 2))
    by = window(found.sizes[2:], stride, padding, dilation)
    is_narrow = found.is_narrow_out and groups == 1
    out = Map(found.corner[0] if is_narrow or groups == 1 else found.sizes[0], *size_of(node))
    is_whole = value.size == by.kernel and by.padding == (0, 0) and by.dilation == (1, 1) and groups == 1
    kind = Kind.WHOLE if is_whole and found.is_truncated else Kind.CONV
    low.add(Stage(kind, value, out, found, by, groups))
    return _with_bias(low, Leaf(out, found.sizes[0], out.height, out.width, is_narrow=is_narrow), bias)


@HANDLERS.register("conv_transpose2d")
def _conv_transpose2d(
    low: Lowering,
    node: fx.Node,
    x: fx.Node,
    weight: fx.Node,
    bias: Any = None,
    stride: Any = 1,
    padding: Any = 0,
    output_padding: Any = 0,
    groups: int = 1,
    dilation: Any = 1,
) -> Value:
    if groups != 1:
        raise StructureError(f"groups={groups}; C code knows transposed convolutions with groups=1")
    value, found = low.value(x), low.weight(weight, is_swapped=True)
    by, (height, width) = window(found.sizes[2:], stride, padding, dilation), size_of(node)
    is_dense = all(step == 1 or size == 1 for step, size in zip(by.dilation, by.kernel, strict=True))
    is_side_by_side = by.kernel == by.stride and {*by.padding, *pair(output_padding)} == {0} and is_dense
    if is_side_by_side and found.is_truncated:
        # Spread over its kernel where it is read: the larger map is never stored.
        narrow = Map(found.corner[1] if found.is_narrow_in else value.channels, *value.size)
        low.add(Stage(Kind.PROJECT, value, narrow, found))
        leaf = Leaf(narrow, found.sizes[0], height, width, is_narrow=found.is_narrow_out, up=found)
        return _with_bias(low, leaf, bias)
    out = Map(found.corner[0], height, width)
    low.add(Stage(Kind.CONV_TRANSPOSED, value, out, found, by))
    return _with_bias(low, Leaf(out, found.sizes[0], height, width, is_narrow=found.is_narrow_out), bias)


@HANDLERS.register("linear")
def _linear(low: Lowering, node: fx.Node, x: fx.Node, weight: fx.Node, bias: Any = None) -> Value:
    value, found = low.value(x), low.weight(weight)
    is_at_each_step = rank(node) == 4 and channels_last(node)
    if rank(node) != 2 and not is_at_each_step:
        raise StructureError(
            f"a linear layer over {given_shape(x)}; C code knows (batch, features), and in networks over sequences "
            "(1, length, channels)"
        )
    if is_at_each_step:
        kind, out = Kind.CONV, Map(found.corner[0], *value.size)
    else:
        kind = Kind.FLAT if value.size != (1, 1) else Kind.WHOLE if found.is_truncated else Kind.CONV
        out = Map(found.corner[0], 1, 1)
    low.add(Stage(kind, value, out, found))
    return _with_bias(low, Leaf(out, found.sizes[0], *out.size, is_narrow=found.is_narrow_out), bias)


def _with_bias(low: Lowering, leaf: Leaf, bias: Any) -> Value:
    numbers = low.constant(bias)
    return of_leaf(leaf) if numbers is None else of_leaf(leaf).then(Op(Operation.SCALE, shift=numbers))


@HANDLERS.register("batch_norm", "instance_norm")  # of one image they are the same
def _batch_norm(
    low: Lowering,
    node: fx.Node,
    x: fx.Node,
    weight: Any,
    bias: Any,
    mean: Any,
    variance: Any,
    training: bool,
    momentum: float,
    epsilon: float,
    cudnn: bool = False,
) -> Value:
    value = low.value(x)
    if not has_channels(x, value):
        where = " once it is flattened" if value.mixes_places else ""
        raise StructureError(
            f"batch norm of a map of shape {given_shape(x)}{where}; C code knows it of channels, before `flatten`, or "
            "of features"
        )
    gamma, beta = low.constant(weight), low.constant(bias)
    if training:
        return _measured_norm(low, value, gamma, beta, epsilon)
    means, variances = low.constant(mean), low.constant(variance)
    if means is None or variances is None:
        raise StructureError("batch norm without statistics")
    scale = np.ones(len(means)) if gamma is None else gamma.astype(np.float64)
    scale = scale / np.sqrt(variances.astype(np.float64) + epsilon)
    shift = (0.0 if beta is None else beta.astype(np.float64)) - means.astype(np.float64) * scale
    return value.then(Op(Operation.SCALE, scale=scale.astype(np.float32), shift=shift.astype(np.float32)))


def _measured_norm(low: Lowering, value: Value, gamma: Any, beta: Any, epsilon: float) -> Value:
    """Batch norm by the statistics of its own input, which the stage before it measures."""
    norm = Norm(value.channels, gamma, beta, epsilon)
    stage = low.program.stages[-1] if low.program.stages else None
    (first, *rest) = value.segments[0].ops
    leaf = first.leaf
    if leaf is None:
        return low.stored(value, norm=norm)
    is_bias = all(op.kind == Operation.SCALE and op.scale is None and op.low == 1.0 for op in rest)
    is_fresh = stage is not None and stage.out is leaf.map and stage.norm is None
    is_single = value.is_plain and len(value.segments) == 1
    if is_fresh and is_single and is_bias and stage is not None and _is_all(value, leaf) and stage.kind in _MEASURE:
        stage.norm = norm  # a constant is no part of what the statistics leave
        return of_leaf(replace(leaf, norm=norm))
    return low.stored(value, norm=norm)


# The stages that write a map channel by channel as it lies, and can measure it on the way.
_MEASURE = (Kind.CONV, Kind.CONV_TRANSPOSED, Kind.WHOLE, Kind.FLAT, Kind.STORE)


def _is_all(value: Value, leaf: Leaf) -> bool:
    """Return whether a value reads its leaf's map from the first number to the last, without zeros around it."""
    is_placed = (leaf.first, leaf.top, leaf.left) == (0, 0, 0) and leaf.norm is None and leaf.up is None
    is_whole = leaf.num_channels == value.channels and value.size == leaf.map.size
    return is_placed and is_whole and (leaf.is_narrow or leaf.map.channels == value.channels)
