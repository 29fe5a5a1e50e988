"""Convolutions whose output is stored pooled: the larger map of all positions is never in memory."""

import numpy as np

from tailcut.export_c.program.program import Kind, Leaf, Map, Op, Operation, Program, Resampling, Segment, Stage, Value


def pool_outputs(program: Program) -> None:
    """Let each convolution pool its own output, if max pooling alone reads it and that takes neither memory nor time.

    Its wide channels are made at once then, since the largest of sums is not the sum of the largest. Operations
    between both are done afterwards, which changes nothing as long as they keep the order of numbers.
    """
    for stage in program.stages:
        readers = [(reader, leaf) for reader in program.stages for leaf in reader.value.leaves() if _is_of(leaf, stage)]
        if len(readers) == 1 and _can_pool(stage, *readers[0]):
            _pool(stage, readers[0][0])


def _is_of(leaf: Leaf, stage: Stage) -> bool:
    return leaf.map.owner is stage.out


def _can_pool(stage: Stage, reader: Stage, leaf: Leaf) -> bool:
    value, out, weight = reader.value, stage.out, stage.weight
    if out is None or weight is None or stage.kind != Kind.CONV or stage.groups > 1 or stage.norm is not None:
        return False
    by = value.window
    tiles = [kernel * size == full for kernel, size, full in zip(by.kernel, value.size, value.source, strict=True)]
    is_tiled = by.kernel == by.stride and by.padding == (0, 0) and all(tiles)
    if value.resampling != Resampling.MAX or not is_tiled or len(value.segments) > 1:
        return False
    is_whole = leaf.map is out and leaf.num_channels == value.channels and value.source == (out.height, out.width)
    return is_whole and all(map(_keeps_order, value.segments[0].ops[1:])) and _is_cheap(stage, value)


def _keeps_order(op: Op) -> bool:
    if op.kind in (Operation.SCALE, Operation.LEAKY):
        return bool(np.min(op.low if op.scale is None else op.scale) >= 0)
    if op.kind == Operation.ELU:
        return op.low * op.high >= 0
    return op.kind in (Operation.CLAMP, Operation.SIGMOID, Operation.TANH, Operation.SOFTPLUS)


def _is_cheap(stage: Stage, value: Value) -> bool:
    """Compare products for each position, and floats: of all channels, and of the narrow ones with their expansion."""
    out, weight = stage.out, stage.weight
    if out is None or weight is None or not weight.is_narrow_out:
        return True
    wide, narrow, products = weight.sizes[0], weight.corner[0], weight.floats_per_output
    return wide * products <= narrow * (products + wide) and value.floats <= out.floats


def _pool(stage: Stage, reader: Stage) -> None:
    value = reader.value
    stage.pool = value.window.kernel
    stage.out = Map(value.channels, *value.size)
    read = Op(Operation.LEAF, Leaf(stage.out, value.channels, *value.size))
    ops = (read, *value.segments[0].ops[1:], *value.ops)
    reader.value = Value((Segment(value.channels, ops),), value.size, value.size, is_flat=value.is_flat)
