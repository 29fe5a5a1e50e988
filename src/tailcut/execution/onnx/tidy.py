"""A smaller ONNX graph that computes the same: no tensor twice, no long names, no notes. Needs the extra `onnx`."""

import itertools
import math
import re
from collections.abc import Collection, Mapping, Sequence

import numpy as np
import onnx
import onnx_ir as ir
from onnx_ir.passes import common

# A stored tensor of equal numbers costs more than the node that makes it from this many on.
UNIFORM_MIN_SIZE = 16
DEDUPLICATED_SIZE = 1 << 20
IDENTIFIER = re.compile(r"[A-Za-z_]\w*")


def tidy(model: ir.Model, kept_names: Collection[str]) -> None:
    """Store equal tensors once, equal numbers as one, and drop all that does not change results (in place).

    Args:
        model: the program.
        kept_names: names that stored tensors keep. Inputs and outputs keep theirs; all else is numbered.
    """
    _compute_uniform_tensors(model.graph)
    for each in (
        common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0),
        common.DeduplicateInitializersPass(size_limit=DEDUPLICATED_SIZE),
        common.CommonSubexpressionEliminationPass(),
        # What a loop's body gives must come from a node of its own, which that pass overlooks.
        *(() if _has_bodies(model.graph) else (common.IdentityEliminationPass(),)),
        common.RemoveUnusedNodesPass(),
        common.RemoveUnusedFunctionsPass(),  # type: ignore[no-untyped-call]
        common.RemoveUnusedOpsetsPass(),
        common.ClearMetadataAndDocStringPass(),
    ):
        each(model)
    _drop_default_attributes(model.graph, model.opset_imports[""])
    _shorten_names(model.graph, kept_names)


def name_outputs(graph: ir.Graph, names: Sequence[str]) -> None:
    """Name the outputs; those that are an input, or the value of another one, get a value of their own (in place)."""
    seen = set(map(id, graph.inputs))
    for place, name in enumerate(names):
        value = graph.outputs[place]
        if id(value) in seen:
            node = ir.node("Identity", [value])
            copied = node.outputs[0]
            copied.shape, copied.type = value.shape, value.type
            graph.append(node)
            graph.outputs[place] = value = copied
        seen.add(id(value))
        value.name = name


def _has_bodies(graph: ir.Graph) -> bool:
    """Return whether nodes have graphs of their own, as loops and branches have."""
    return sum(1 for _ in graph.all_nodes()) > len(graph)


def name_axes(model: ir.Model, names: Mapping[str, str]) -> None:
    """Give the symbols in the shapes of inputs and outputs readable names (in place)."""
    for value in (*model.graph.inputs, *model.graph.outputs):
        if value.shape is not None:
            value.shape = ir.Shape([dim if isinstance(dim, int) else _renamed(dim, names) for dim in value.shape])


def _renamed(dim: ir.SymbolicDim, names: Mapping[str, str]) -> str | int | None:
    if dim.value is None:
        return None
    text = IDENTIFIER.sub(lambda found: names.get(found[0], found[0]), str(dim.value))
    return int(text) if text.isdigit() else text


def _compute_uniform_tensors(graph: ir.Graph) -> None:
    for name, value in list(graph.initializers.items()):
        tensor = value.const_value
        if tensor is None or math.prod(tensor.shape.numpy()) < UNIFORM_MIN_SIZE:
            continue
        array = tensor.numpy()
        if not (array == array.flat[0]).all() or name in {output.name for output in graph.outputs}:
            continue
        shape = ir.Value(name=f"{name} shape", const_value=ir.tensor(np.array(array.shape, dtype=np.int64)))
        graph.register_initializer(shape)
        number = ir.tensor(array.flat[:1].copy())
        node = ir.node("ConstantOfShape", [shape], {"value": number})
        graph.insert_before(graph[0], node)
        value.replace_all_uses_with(node.outputs[0])
        del graph.initializers[name]


def _drop_default_attributes(graph: ir.Graph, opset: int) -> None:
    for node in graph.all_nodes():
        if node.domain != "":
            continue
        schema = onnx.defs.get_schema(node.op_type, opset)
        for name, attribute in list(node.attributes.items()):
            if name in schema.attributes and schema.attributes[name].default_value == ir.to_proto(attribute):
                del node.attributes[name]


def _shorten_names(graph: ir.Graph, kept: Collection[str]) -> None:
    """Give numbers to all values whose names are not kept, and drop types and shapes, which can be inferred."""
    names = {value.name for value in (*graph.inputs, *graph.outputs)} | set(kept)
    for letter, values in (
        ("c", list(graph.initializers.values())),
        ("v", [output for node in graph.all_nodes() for output in node.outputs]),
    ):
        numbered = (name for name in map(f"{letter}{{}}".format, itertools.count()) if name not in names)
        for value in values:
            if value.name not in names:
                value.name = next(numbered)
            if letter == "v" and not value.is_graph_output():
                value.shape, value.type = None, None
    for node in graph.all_nodes():
        node.name = ""
