"""Networks over sequences (Conv1d): a map (channels, length) becomes one of a single row, (channels, 1, length)."""

from collections.abc import Collection
from typing import Any

import torch
from torch import Tensor, fx

_GIVEN, _NAMED = "given_shape", "given_target"  # what a node was before its map became one of a single row

_aten = torch.ops.aten
_TWO_AXES: dict[Any, Any] = {
    _aten.conv1d.default: _aten.conv2d.default,
    _aten.conv1d.padding: _aten.conv2d.padding,
    _aten.conv_transpose1d.default: _aten.conv_transpose2d.input,
    _aten.max_pool1d.default: _aten.max_pool2d.default,
    _aten.avg_pool1d.default: _aten.avg_pool2d.default,
    _aten.adaptive_avg_pool1d.default: _aten.adaptive_avg_pool2d.default,
    _aten.upsample_nearest1d.vec: _aten.upsample_nearest2d.vec,
    _aten.upsample_linear1d.vec: _aten.upsample_bilinear2d.vec,
}
# What an argument is along the row that is added.
_NEUTRAL = {
    "kernel_size": 1,
    "stride": 1,
    "padding": 0,
    "output_padding": 0,
    "dilation": 1,
    "output_size": 1,
    "scale_factors": 1.0,
}
_ARITHMETIC = ("add", "sub", "rsub", "mul", "div")


def rows_of_sequences(graph: fx.Graph, constants: Collection[str]) -> None:
    """Let a network over sequences be one over maps of one row (changes the graph); leaves any other as it is.

    Args:
        graph: of ATen operations.
        constants: names of the placeholders that are parameters, buffers and constants.
    """
    fixed = _of_constants(graph, constants)
    maps = [node for node in graph.nodes if node not in fixed and node.op != "output"]
    if not any(node.target in _TWO_AXES for node in maps) or any(_rank(node) == 4 for node in maps):
        return
    for node in maps:
        if node.op == "call_function":
            _two_axes(graph, node, fixed)
    for node in maps:
        _add_row(node)


def given_shape(node: fx.Node) -> tuple[int, ...]:
    """Return the shape that a node has in the user's network."""
    return tuple(node.meta.get(_GIVEN, node.meta["val"].shape))


def given_target(node: fx.Node) -> Any:
    """Return the operation that a node is in the user's network."""
    return node.meta.get(_NAMED, node.target)


def _of_constants(graph: fx.Graph, constants: Collection[str]) -> set[fx.Node]:
    """Return the nodes that depend on constants alone."""
    found: set[fx.Node] = set()
    for node in graph.nodes:
        sources = node.all_input_nodes
        if node.name in constants or (node.op == "call_function" and sources and found.issuperset(sources)):
            found.add(node)
    return found


def _rank(node: Any) -> int:
    given = node.meta.get("val")
    return given.ndim if isinstance(given, Tensor) else 0


def _add_row(node: fx.Node) -> None:
    given = node.meta.get("val")
    if isinstance(given, (list, tuple)):
        node.meta["val"] = [_with_row(part) for part in given]
    elif isinstance(given, Tensor) and given.ndim == 3:
        node.meta[_GIVEN] = tuple(given.shape)
        node.meta["val"] = _with_row(given)


def _with_row(given: Any) -> Any:
    is_sequence = isinstance(given, Tensor) and given.ndim == 3
    return torch.empty(*given.shape[:2], 1, given.shape[2], dtype=given.dtype, device="meta") if is_sequence else given


def _two_axes(graph: fx.Graph, node: fx.Node, fixed: set[fx.Node]) -> None:
    """Change an operation over sequences, whose values still have three axes, to that over maps of one row."""
    target: Any = node.target
    schema = getattr(target, "_schema", None)
    if schema is None:  # a part of a list
        return
    names = [argument.name for argument in schema.arguments]
    if target in _TWO_AXES:
        node.meta[_NAMED], node.target = target, _TWO_AXES[target]
        node.args = tuple(_beside_row(name, value) for name, value in zip(names, node.args, strict=False))
        node.kwargs = {name: _beside_row(name, value) for name, value in node.kwargs.items()}
    elif _rank(node.args[0] if isinstance(node.args[0], fx.Node) else node) == 3:
        node.args = tuple(_of_map(name, value) for name, value in zip(names, node.args, strict=False))
        node.kwargs = {name: _of_map(name, value) for name, value in node.kwargs.items()}
    if target.overloadpacket.__name__.rstrip("_") in _ARITHMETIC:
        node.args = tuple(_beside_maps(graph, node, value, fixed) for value in node.args)


def _beside_row(name: str, value: Any) -> Any:
    """Return an argument for both axes; "same", None and no stride at all are as they are."""
    return [_NEUTRAL[name], *value] if name in _NEUTRAL and isinstance(value, (list, tuple)) and value else value


def _beside_maps(graph: fx.Graph, node: fx.Node, value: Any, fixed: set[fx.Node]) -> Any:
    """Return an argument as it meets a map of one row: a constant of two axes or more gets that row too."""
    if not isinstance(value, fx.Node) or value not in fixed or _rank(value) < 2:
        return value
    with graph.inserting_before(node):
        return graph.call_function(_aten.unsqueeze.default, (value, -2))


def _of_map(name: str, value: Any) -> Any:
    """Return an argument of a sequence as one of a map: an axis, or padding; a mean along the length is along both."""
    if name == "pad":
        return [*value[:2], 0, 0, *value[2:]]
    if name != "dim" or value is None:
        return value
    if isinstance(value, (list, tuple)):
        return [axis for given in value for axis in ((2, 3) if given % 3 == 2 else (given % 3,))]
    return 3 if value % 3 == 2 else value % 3
