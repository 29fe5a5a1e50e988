"""Layers of an ONNX graph whose weight is truncated, split into: project on a few cosines, small core, expand.

Needs the extra `onnx`.
"""

import itertools
import math
from collections.abc import Collection
from dataclasses import dataclass

import onnx_ir as ir

from tailcut.execution.onnx.weights import Corner, WeightNodes

_Step = tuple[str, ir.Value, dict[str, ir.Attr]]


@dataclass(frozen=True)
class _Layer:
    """One use of a weight by a layer.

    Attributes:
        node: the node that gives the layer's output.
        kind: "Conv", "ConvTranspose" or "MatMul".
        input: the layer's input.
        bias: its bias, if any.
        input_axis: axis of the weight that is summed over.
        output_axis: axis of the weight that becomes the channels of the output.
        inputs_per_core: how many positions the core's work at one position stands for in the input.
        outputs_per_core: likewise in the output.
    """

    node: ir.Node
    kind: str
    input: ir.Value
    bias: ir.Value | None
    input_axis: int
    output_axis: int
    inputs_per_core: int = 1
    outputs_per_core: int = 1


def split_layers(graph: ir.Graph, weight: ir.Value, corner: Corner, nodes: WeightNodes) -> None:
    """Replace each layer that multiplies by `weight` with cheaper factors, where it has them (changes the graph).

    Args:
        graph: the network.
        weight: the dense weight, an input of the graph. Uses that are not replaced are left.
        corner: what is stored of it.
        nodes: collects the nodes that compute the factors.
    """
    for node, place in tuple(weight.uses()):
        for layer in _layers(node, place):
            factored = _cheapest(layer, corner)
            if factored and layer.node.graph is graph:
                _split(graph, layer, corner, factored, nodes)
                if not node.outputs[0].uses() and node.graph is graph:
                    graph.remove(node, safe=True)


def _layers(node: ir.Node, place: int) -> list[_Layer]:
    """Return the layers that this use of a weight belongs to; none if it is another kind of use."""
    inputs = [value for value in node.inputs if value is not None]
    if place == 1 and node.op_type in ("Conv", "ConvTranspose") and node.attributes.get_int("group", 1) == 1:
        bias = inputs[2] if len(inputs) > 2 else None
        steps = math.prod(node.attributes.get_ints("strides", ()))
        if node.op_type == "Conv":
            return [_Layer(node, "Conv", inputs[0], bias, 1, 0, inputs_per_core=steps)]
        return [_Layer(node, "ConvTranspose", inputs[0], bias, 0, 1, outputs_per_core=steps)]
    if place == 1 and node.op_type == "Gemm" and not node.attributes.get_int("transA", 0) and _has_no_factors(node):
        summed = 1 if node.attributes.get_int("transB", 0) else 0
        return [_Layer(node, "MatMul", inputs[0], inputs[2] if len(inputs) > 2 else None, summed, 1 - summed)]
    if place == 1 and node.op_type == "MatMul" and _rank(inputs[1]) == 2:
        return [_Layer(node, "MatMul", inputs[0], None, 0, 1)]
    if node.op_type == "Transpose" and _rank(inputs[0]) == 2:
        found = [layer for user, use in node.outputs[0].uses() for layer in _layers(user, use)]
        return [
            _Layer(layer.node, layer.kind, layer.input, layer.bias, layer.output_axis, layer.input_axis)
            for layer in found
            if layer.kind == "MatMul"
        ]
    return []


def _has_no_factors(node: ir.Node) -> bool:
    return node.attributes.get_float("alpha", 1.0) == node.attributes.get_float("beta", 1.0) == 1


def _rank(value: ir.Value) -> int | None:
    return None if value.shape is None else len(value.shape)


def _cheapest(layer: _Layer, corner: Corner) -> frozenset[str]:
    """Return the factors ("input", "output") to split off, by multiplications; none if the layer is cheapest whole."""
    inner, outer = layer.input_axis, layer.output_axis
    full = {"input": corner.shape[inner], "output": corner.shape[outer]}
    kept = {"input": corner.sizes[inner], "output": corner.sizes[outer]}
    kernel = math.prod(corner.shape) / (full["input"] * full["output"])
    positions = {"input": layer.inputs_per_core, "output": layer.outputs_per_core}
    usable = [side for side, axis in (("input", inner), ("output", outer)) if axis in corner.axes]

    def cost(chosen: Collection[str]) -> float:
        core = math.prod(kept[side] if side in chosen else full[side] for side in full)
        return core * kernel + sum(full[side] * kept[side] * positions[side] for side in chosen)

    choices = [frozenset(chosen) for count in range(3) for chosen in itertools.combinations(usable, count)]
    return min(choices, key=cost)


def _split(graph: ir.Graph, layer: _Layer, corner: Corner, factored: Collection[str], nodes: WeightNodes) -> None:
    """Replace the layer's node by up to three nodes and the addition of a bias."""
    axes = {"input": layer.input_axis, "output": layer.output_axis}
    is_product = layer.kind == "MatMul"
    whole = [axis for axis in range(len(corner.shape)) if axis not in [axes[side] for side in factored]]
    core = nodes.weight(corner, whole, [layer.input_axis, layer.output_axis] if is_product else None)
    steps: list[_Step] = [(layer.kind, core, dict(layer.node.attributes) if not is_product else {})]
    if "input" in factored:
        steps.insert(0, _projection(layer, corner, layer.input_axis, nodes, transposed=is_product))
    if "output" in factored:
        steps.append(_projection(layer, corner, layer.output_axis, nodes, transposed=not is_product))
    new: list[ir.Node] = []
    value = layer.input
    for number, (kind, matrix, attributes) in enumerate(steps):
        is_last = number == len(steps) - 1
        bias = [layer.bias] if is_last and not is_product and layer.bias is not None else []
        matrix = nodes.cast(matrix, corner, _dtype(layer))
        new.append(ir.Node("", kind, [value, matrix, *bias], attributes=list(attributes.values())))
        value = new[-1].outputs[0]
    if is_product and layer.bias is not None:
        new.append(ir.node("Add", [value, layer.bias]))
        value = new[-1].outputs[0]
    ir.convenience.replace_nodes_and_values(graph, layer.node, [layer.node], new, [layer.node.outputs[0]], [value])


def _projection(layer: _Layer, corner: Corner, axis: int, nodes: WeightNodes, *, transposed: bool) -> _Step:
    """Multiply the channels by cosines: as a product, or as a convolution with kernels of one position."""
    matrix = nodes.cosines(corner.shape[axis], corner.sizes[axis], corner.dtype)
    if transposed:
        matrix = nodes.op("Transpose", [matrix], perm=[1, 0])
    if layer.kind == "MatMul":
        return "MatMul", matrix, {}
    kernel = nodes.op("Unsqueeze", [matrix, nodes.numbers(*range(2, len(corner.shape)))])
    return "Conv", kernel, {}


def _dtype(layer: _Layer) -> ir.DataType:
    weight = layer.node.inputs[1]
    if weight is None or weight.dtype is None:
        raise TypeError(f"the weight of {layer.node.name} has no type")
    return weight.dtype
