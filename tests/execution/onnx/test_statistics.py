import numpy as np
import onnx_ir as ir
from tests.execution.onnx.graphs import run_graph

from tailcut.execution.onnx.statistics import compute_statistics_exactly
from tailcut.execution.onnx.weights import WeightNodes


def graph_of(*, computed: bool) -> tuple[ir.Graph, WeightNodes]:
    """Batch norm of two channels, by the statistics of the batch as torch's exporter writes it, or by stored ones."""
    nodes = WeightNodes()
    x = ir.val("x", dtype=ir.DataType.FLOAT, shape=("n", 2, "h", "w"))
    scale, bias = (nodes.constant(np.array([n, n], dtype=np.float32), f"c{n}") for n in (1, 0))
    axes = nodes.numbers(0, 2, 3)
    apart = ir.node("Sub", [x, ir.val("mean0", dtype=ir.DataType.FLOAT)])
    mean, kept = (ir.node("ReduceMean", [x, axes], {"keepdims": keep}) for keep in (0, 1))
    apart.replace_input_with(1, kept.outputs[0])
    square = ir.node("Mul", [apart.outputs[0], apart.outputs[0]])
    var = ir.node("ReduceMean", [square.outputs[0], axes], {"keepdims": 0})
    for node in (mean, var):
        node.outputs[0].dtype, node.outputs[0].shape = ir.DataType.FLOAT, ir.Shape([2])
    statistics = [mean.outputs[0], var.outputs[0]] if computed else [bias, scale]
    norm = ir.node("BatchNormalization", [x, scale, bias, *statistics])
    norm.outputs[0].dtype = ir.DataType.FLOAT
    before = [mean, kept, apart, square, var] if computed else []
    return ir.Graph([x], norm.outputs, nodes=[*before, norm], opset_imports={"": 18}, name="test"), nodes


def test_a_large_mean_over_a_large_image_costs_few_digits() -> None:
    graph, nodes = graph_of(computed=True)
    compute_statistics_exactly(graph, nodes)
    generator = np.random.default_rng(0)
    x = generator.normal(100, 1, (1, 2, 1000, 1200)).astype(np.float32)
    exact = x.astype(np.float64)
    centred = exact - exact.mean((0, 2, 3), keepdims=True)
    expected = centred / np.sqrt((centred**2).mean((0, 2, 3), keepdims=True) + 1e-5)
    error = np.abs(run_graph(graph, nodes, x=x) - expected).max()
    assert error < 1e-4
    assert np.abs(run_graph(*graph_of(computed=True), x=x) - expected).max() > 3 * error


def test_stored_statistics_are_left() -> None:
    graph, nodes = graph_of(computed=False)
    compute_statistics_exactly(graph, nodes)
    assert [node.op_type for node in graph] == ["BatchNormalization"]
