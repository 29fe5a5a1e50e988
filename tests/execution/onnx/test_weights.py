import math

import numpy as np
import onnx_ir as ir
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.execution.onnx.graphs import run_graph
from torch import nn

from tailcut.execution.onnx.weights import Corner, WeightNodes
from tailcut.transform import dct_basis
from tailcut.weights import regularize, truncation_of


class Holder(nn.Module):
    """A module of one parameter of any shape."""

    def __init__(self, shape: tuple[int, ...], dtype: torch.dtype) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(shape, dtype=dtype))


def corner_of(
    shape: tuple[int, ...],
    num_kept: int,
    axes: list[int],
    order_weights: list[int],
    dtype: torch.dtype = torch.float32,
) -> tuple[Corner, torch.Tensor]:
    """What is stored of a random truncated tensor, and the tensor."""
    holder = Holder(shape, dtype)
    regularize(holder, num_kept=num_kept, axes=axes, order_weights=order_weights, include="weight")
    return Corner.of(truncation_of(holder, "weight")), holder.weight.detach()


def evaluated(value: ir.Value, nodes: WeightNodes, dtype: ir.DataType = ir.DataType.FLOAT) -> np.ndarray:
    """Run the nodes in onnxruntime."""
    last = ir.node("Identity", [value])
    last.outputs[0].name, last.outputs[0].dtype = "result", dtype
    graph = ir.Graph([], last.outputs, nodes=[last], opset_imports={"": 18}, name="test")
    return run_graph(graph, nodes)


@pytest.mark.parametrize(("size", "num_kept"), [(1, 1), (2, 2), (7, 3), (1024, 5), (4096, 200)])
def test_cosines_are_as_good_as_rounded(size: int, num_kept: int) -> None:
    nodes = WeightNodes()
    found = evaluated(nodes.cosines(size, num_kept, ir.DataType.FLOAT), nodes)
    basis = dct_basis(size, num_kept, dtype=torch.float64).numpy()
    scale = np.full((num_kept, 1), math.sqrt(2 / size))
    scale[0] = math.sqrt(1 / size)
    assert np.abs(found - basis / scale).max() < 1.3e-7


@settings(max_examples=40)
@given(st.data())
def test_a_rebuilt_weight_is_the_weight(data: st.DataObject) -> None:
    shape = tuple(data.draw(st.lists(st.integers(1, 6), min_size=1, max_size=5)))
    axes = data.draw(st.lists(st.sampled_from(range(len(shape))), min_size=1, unique=True))
    order_weights = data.draw(st.lists(st.integers(1, 3), min_size=len(axes), max_size=len(axes)))
    num_kept = data.draw(st.integers(1, math.prod(shape)))
    corner, weight = corner_of(shape, num_kept, sorted(axes), order_weights)
    for stored_whole in (corner.is_full, False):
        nodes = WeightNodes()
        value = nodes.weight(corner, range(len(shape))) if stored_whole else scattered(corner, nodes)
        expected = weight.numpy() if stored_whole else corner.filled()
        np.testing.assert_allclose(evaluated(value, nodes), expected, atol=2e-6)


def scattered(corner: Corner, nodes: WeightNodes) -> ir.Value:
    """The corner by positions that the graph computes, also where storing it whole would be smaller."""
    values = nodes.constant(corner.values, "values")
    empty = nodes.op("ConstantOfShape", [nodes.numbers(*corner.sizes)])
    return nodes.op("ScatterND", [empty, nodes._positions(corner), values])


def test_a_large_corner_is_stored_by_its_coefficients() -> None:
    corner, weight = corner_of((40, 30, 3, 3), 300, [0, 1, 2, 3], [1, 1, 1, 1])
    assert not corner.is_full
    nodes = WeightNodes()
    np.testing.assert_allclose(evaluated(nodes.weight(corner, range(4)), nodes), weight.numpy(), atol=2e-6)


def test_axes_may_be_left_in_the_corner_and_ordered() -> None:
    corner, weight = corner_of((20, 30), 7, [0, 1], [1, 1])
    nodes = WeightNodes()
    found = evaluated(nodes.weight(corner, [1], order=[1, 0]), nodes)
    basis = dct_basis(20, corner.sizes[0], dtype=torch.float64).numpy()
    bare = basis / np.linalg.norm(basis, axis=1, keepdims=True) * math.sqrt(20 / 2)
    bare[0] *= math.sqrt(2)
    np.testing.assert_allclose(found @ bare, weight.numpy().T, atol=2e-6)


def test_a_float64_weight_keeps_its_digits() -> None:
    corner, weight = corner_of((20, 30), 7, [0, 1], [1, 1], torch.float64)
    nodes = WeightNodes()
    found = evaluated(nodes.weight(corner, [0, 1]), nodes, ir.DataType.DOUBLE)
    np.testing.assert_allclose(found, weight.numpy(), atol=1e-14)


def test_a_masked_tail_is_not_stored() -> None:
    holder = Holder((20, 30), torch.float32)
    regularize(holder, num_kept=90, include="weight")
    tensor = truncation_of(holder, "weight")
    tensor.truncation.cut(11)
    corner = Corner.of(tensor)
    assert corner.values.shape == (11,)
    nodes = WeightNodes()
    expected = holder.weight.detach().numpy()
    np.testing.assert_allclose(evaluated(nodes.weight(corner, [0, 1]), nodes), expected, atol=2e-6)


def test_what_is_asked_for_twice_is_made_once() -> None:
    nodes = WeightNodes()
    first = nodes.cosines(64, 4, ir.DataType.FLOAT)
    assert nodes.cosines(64, 4, ir.DataType.FLOAT) is first
    assert nodes.cosines(64, 5, ir.DataType.FLOAT) is not first
    assert nodes.numbers(1, 2) is nodes.numbers(1, 2)


def test_a_weight_is_cast_to_the_type_of_the_network() -> None:
    corner, _ = corner_of((20, 30), 7, [0, 1], [1, 1])
    nodes = WeightNodes()
    half = nodes.cast(nodes.weight(corner, [0, 1]), corner, ir.DataType.FLOAT16)
    node = half.producer()
    assert node is not None
    assert node.op_type == "Cast"
    same = nodes.weight(corner, [0, 1])
    assert nodes.cast(same, corner, ir.DataType.FLOAT) is same
