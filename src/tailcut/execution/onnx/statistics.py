"""Batch norm by the statistics of the batch, computed in the graph so that float32 suffices. Needs the extra `onnx`."""

import numpy as np
import onnx_ir as ir

from tailcut.execution.onnx.weights import WeightNodes


def compute_statistics_exactly(graph: ir.Graph, nodes: WeightNodes) -> None:
    """Write batch norm over computed statistics in a form that keeps its digits (changes the graph).

    Runtimes add up one number after the other, and compute batch norm as x s + (b - mean s). Over a large image
    this is off by a thousandth. Here means are taken axis by axis, and x - mean is squared and scaled. Batch norm
    over stored statistics is left as it is. `nodes` collects constants.
    """
    for node in list(graph):
        axes = _statistics_axes(node)
        source, var = (node.inputs[0], node.inputs[4]) if axes else (None, None)
        if source is None or var is None or var.shape is None or var.dtype is None:
            continue
        new: list[ir.Node] = []
        mean = _mean(new, source, axes, nodes)
        new.append(ir.node("Sub", [source, mean]))
        centred = new[-1].outputs[0]
        new.append(ir.node("Mul", [centred, centred]))
        spread = _mean(new, new[-1].outputs[0], axes, nodes)
        new.append(ir.node("Squeeze", [spread, nodes.numbers(*axes)]))
        graph.insert_before(node, new)
        node.replace_input_with(0, centred)
        node.replace_input_with(3, nodes.constant(np.zeros(var.shape.numpy(), dtype=var.dtype.numpy())))
        node.replace_input_with(4, new[-1].outputs[0])


def _statistics_axes(node: ir.Node) -> tuple[int, ...]:
    """Return the axes that a batch norm takes its statistics over; none if they are stored or of something else."""
    if node.op_type != "BatchNormalization":
        return ()
    mean = None if node.inputs[3] is None else node.inputs[3].producer()
    var = None if node.inputs[4] is None else node.inputs[4].producer()
    if mean is None or var is None or {mean.op_type, var.op_type} != {"ReduceMean"}:
        return ()
    axes = mean.inputs[1]
    if mean.inputs[0] is not node.inputs[0] or axes is None or axes.const_value is None:
        return ()
    return tuple(int(axis) for axis in axes.const_value.numpy())


def _mean(new: list[ir.Node], value: ir.Value, axes: tuple[int, ...], nodes: WeightNodes) -> ir.Value:
    for axis in reversed(axes):
        new.append(ir.node("ReduceMean", [value, nodes.numbers(axis)], {"keepdims": 1}))
        value = new[-1].outputs[0]
    return value
