"""Running graphs in onnxruntime, for the tests of the export."""

import numpy as np
import onnx_ir as ir
import onnxruntime
from onnx_ir.passes.common import NameFixPass

from tailcut.execution.onnx.weights import WeightNodes


def run_model(model: ir.Model, **inputs: np.ndarray) -> np.ndarray:
    """The first output of a model."""
    result = onnxruntime.InferenceSession(ir.to_proto(model).SerializeToString()).run(None, inputs)[0]
    assert isinstance(result, np.ndarray)
    return result


def run_graph(graph: ir.Graph, nodes: WeightNodes, **inputs: np.ndarray) -> np.ndarray:
    """The first output of a graph, into which the nodes are put."""
    nodes.insert(graph)
    model = ir.Model(graph, ir_version=10)
    NameFixPass()(model)
    return run_model(model, **inputs)
