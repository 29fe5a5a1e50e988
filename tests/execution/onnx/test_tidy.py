import numpy as np
import onnx_ir as ir
from tests.execution.onnx.graphs import run_model

from tailcut.execution.onnx.tidy import name_axes, tidy


def model_of(*constants: np.ndarray) -> ir.Model:
    """x + constant + constant ..., each added by a node with a long name and a note."""
    x = ir.val("x", dtype=ir.DataType.FLOAT, shape=("s7", 2, "2*s7"))
    value, nodes, stored = x, [], []
    for number, constant in enumerate(constants):
        entry = ir.val(f"layer.{number}.bias", const_value=ir.tensor(constant))
        stored.append(entry)
        nodes.append(ir.node("Add", [value, entry], name=f"a long name {number}", doc_string="a note"))
        value = nodes[-1].outputs[0]
        value.name, value.dtype = f"intermediate_value_{number}", ir.DataType.FLOAT
    nodes.append(ir.node("Softmax", [value], {"axis": -1}))
    nodes[-1].outputs[0].name, nodes[-1].outputs[0].dtype = "output", ir.DataType.FLOAT
    graph = ir.Graph([x], nodes[-1].outputs, nodes=nodes, initializers=stored, opset_imports={"": 18}, name="test")
    return ir.Model(graph, ir_version=10)


def test_the_tidy_program_gives_the_same_and_is_smaller() -> None:
    generator = np.random.default_rng(0)
    x, noise = (generator.normal(size=(3, 2, 6)).astype(np.float32) for _ in range(2))
    constants = [noise, noise, np.full((3, 2, 6), 0.5, dtype=np.float32)]
    model = model_of(*constants)
    before, size = run_model(model, x=x), ir.to_proto(model).ByteSize()
    tidy(model, ["layer.0.bias"])
    np.testing.assert_allclose(run_model(model, x=x), before, rtol=1e-6)
    assert ir.to_proto(model).ByteSize() < size - noise.nbytes - constants[2].nbytes
    stored = model.graph.initializers
    assert "layer.0.bias" in stored
    assert sum(value.const_value.size for value in stored.values() if value.const_value is not None) < noise.size + 8
    assert [output.name for output in model.graph.outputs] == ["output"]
    last = model.graph[-1]
    assert (last.name, last.doc_string, dict(last.attributes)) == ("", None, {})


def test_numbers_avoid_names_that_are_kept() -> None:
    model = model_of(*[np.arange(12, dtype=np.float32).reshape(1, 2, 6) + n for n in range(2)])
    model.graph.initializers["layer.1.bias"].name = "c0"
    tidy(model, ["c0"])
    assert set(model.graph.initializers) == {"c0", "c1"}


def test_axes_get_names_in_formulas_too() -> None:
    model = model_of(np.zeros((1, 1, 1), dtype=np.float32))
    name_axes(model, {"s7": "batch"})
    shape = model.graph.inputs[0].shape
    assert shape is not None
    assert [str(size) for size in shape] == ["batch", "2", "2*batch"]
