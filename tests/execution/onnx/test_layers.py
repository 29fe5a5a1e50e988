from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
import torch
from tests.execution.onnx.graphs import run_graph
from torch import nn

from tailcut.execution.onnx.layers import split_layers
from tailcut.execution.onnx.weights import Corner, WeightNodes
from tailcut.weights import regularize, to_dense, truncation_of


def split(
    kind: str, layer: nn.Module, x: torch.Tensor, num_kept: int, attributes: dict[str, Any], *, transposed: bool = False
) -> tuple[list[str], torch.Tensor, np.ndarray]:
    """One layer as a graph, split; the kinds of its nodes that depend on the input, and what torch and it give."""
    regularize(layer, num_kept=num_kept)
    tensor = truncation_of(layer, "weight")
    source = ir.val("x", dtype=ir.DataType.FLOAT, shape=tuple(x.shape))
    weight = ir.val("weight", dtype=ir.DataType.FLOAT, shape=tensor.shape)
    nodes = WeightNodes()
    operand, before = weight, []
    if transposed:
        before = [ir.node("Transpose", [weight], {"perm": [1, 0]})]
        operand = before[0].outputs[0]
        operand.dtype, operand.shape = ir.DataType.FLOAT, ir.Shape(tensor.shape[::-1])
    bias = getattr(layer, "bias", None)
    biases = [] if not isinstance(bias, nn.Parameter) else [nodes.constant(bias.detach().numpy(), "bias")]
    node = ir.node(kind, [source, operand, *biases], attributes)
    graph = ir.Graph([source], [node.outputs[0]], nodes=[*before, node], opset_imports={"": 18}, name="test")
    graph.outputs[0].dtype = ir.DataType.FLOAT
    split_layers(graph, weight, Corner.of(tensor), nodes)
    kinds = [node.op_type for node in graph]
    if weight.uses():
        return kinds, torch.empty(0), np.empty(0)
    with torch.no_grad():
        return kinds, to_dense(layer)(x), run_graph(graph, nodes, x=x.numpy())


@pytest.mark.parametrize(
    ("kind", "layer", "shape", "attributes", "kinds"),
    [
        ("Conv", nn.Conv2d(20, 30, 3, 2, 1, bias=False), (2, 20, 9, 8), {"strides": [2, 2], "pads": [1] * 4}, 3),
        ("Conv", nn.Conv2d(20, 30, 3, dilation=2), (2, 20, 9, 8), {"dilations": [2, 2]}, 3),
        ("Conv", nn.Conv1d(20, 30, 5), (2, 20, 9), {}, 3),
        ("Conv", nn.Conv3d(20, 24, 3, padding=1), (1, 20, 4, 3, 5), {"pads": [1] * 6}, 3),
        ("ConvTranspose", nn.ConvTranspose2d(20, 30, 2, 2), (2, 20, 5, 4), {"strides": [2, 2]}, 2),
        ("ConvTranspose", nn.ConvTranspose1d(20, 30, 4, 2, 1), (2, 20, 5), {"strides": [2], "pads": [1, 1]}, 3),
    ],
)
def test_a_convolution_is_split(
    kind: str, layer: nn.Module, shape: tuple[int, ...], attributes: dict[str, Any], kinds: int
) -> None:
    found, expected, result = split(kind, layer, torch.randn(shape), 15, attributes)
    assert found == ["Conv", kind, "Conv"][:kinds]
    np.testing.assert_allclose(result, expected.numpy(), atol=3e-6)


@pytest.mark.parametrize("kind", ["Gemm", "MatMul"])
def test_a_product_is_split(kind: str) -> None:
    """MatMul has its weight transposed by a node of its own."""
    is_whole = kind == "Gemm"
    layer, x = nn.Linear(40, 50, bias=is_whole), torch.randn(*(() if is_whole else (2,)), 7, 40)
    found, expected, result = split(kind, layer, x, 20, {"transB": 1} if is_whole else {}, transposed=not is_whole)
    assert set(found) == ({"MatMul", "Add"} if is_whole else {"MatMul"})
    assert found.count("MatMul") >= 2
    np.testing.assert_allclose(result, expected.numpy(), atol=3e-6)


@pytest.mark.parametrize(
    ("kind", "layer", "shape", "num_kept", "attributes"),
    [
        ("Conv", nn.Conv2d(8, 8, 3, groups=8), (1, 8, 5, 5), 20, {"group": 8}),
        ("Conv", nn.Conv2d(8, 8, 3), (1, 8, 5, 5), 570, {}),
        ("Gemm", nn.Linear(10, 10), (1, 10), 99, {"transB": 1}),
        ("Gemm", nn.Linear(40, 40), (1, 40), 20, {"transB": 1, "alpha": 2.0}),
    ],
)
def test_what_gains_nothing_is_left(
    kind: str, layer: nn.Module, shape: tuple[int, ...], num_kept: int, attributes: dict[str, Any]
) -> None:
    found, *_ = split(kind, layer, torch.randn(shape), num_kept, attributes)
    assert found == [kind]


def test_a_narrow_input_is_not_projected() -> None:
    found, expected, result = split("Conv", nn.Conv2d(3, 60, 3), torch.randn(1, 3, 6, 6), 20, {})
    assert found == ["Conv", "Conv"]
    np.testing.assert_allclose(result, expected.numpy(), atol=3e-6)
