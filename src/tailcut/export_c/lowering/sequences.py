"""Networks over sequences (Conv1d): a map (channels, length) becomes one of a single row or column.

Of a single row, (channels, 1, length), unless the input is (length, channels): then of a single column, (channels,
length, 1), whose numbers lie in memory as the input's. Transposed maps, (length, channels), become the same maps.
"""

from collections.abc import Callable, Collection
from typing import Any

import torch
from torch import Tensor, fx

from tailcut.errors import StructureError

# What a node was in the user's network; the constant that it is with other axes.
_GIVEN, _NAMED, _LAST, _OF = "given_shape", "given_target", "channels_last", "of_constant"

_aten = torch.ops.aten
_TWO_AXES: dict[Any, Any] = {
    _aten.conv1d.default: _aten.conv2d.default,
    _aten.conv1d.padding: _aten.conv2d.padding,
    _aten.conv_transpose1d.default: _aten.conv_transpose2d.input,
    _aten.max_pool1d.default: _aten.max_pool2d.default,
    _aten.avg_pool1d.default: _aten.avg_pool2d.default,
    _aten.adaptive_avg_pool1d.default: _aten.adaptive_avg_pool2d.default,
    _aten.adaptive_max_pool1d.default: _aten.adaptive_max_pool2d.default,
    _aten.upsample_nearest1d.vec: _aten.upsample_nearest2d.vec,
    _aten.upsample_linear1d.vec: _aten.upsample_bilinear2d.vec,
}
# What an argument is along the axis that is added.
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
_TRANSPOSES = ("transpose", "permute", "swapaxes", "swapdims", "movedim", "mT")
RESHAPES = ("flatten", "reshape", "squeeze", "unflatten", "unsqueeze", "view", "_unsafe_view")
# Operations whose second axis is that of the channels, whatever their arguments say.
_OF_CHANNELS = ("batch_norm", "instance_norm", "group_norm", "prelu", "expand", "expand_as", "feature_dropout", "stack")


def rows_of_sequences(graph: fx.Graph, constants: Collection[str], name_of: Callable[[fx.Node], str]) -> bool:
    """Let sequences be maps of one row or column (changes the graph); a network without any is left as it is.

    Args:
        graph: of ATen operations.
        constants: names of the placeholders that are parameters, buffers and constants.
        name_of: what the user calls a node.

    Returns:
        True if the maps are of one column.

    Raises:
        StructureError: numbers would have to change their order.
    """
    fixed = _of_constants(graph, constants)
    maps = [node for node in graph.nodes if node not in fixed and node.op != "output"]
    change = _Change(graph, fixed, _layouts(maps, name_of), name_of)
    for node in maps:
        if node.op == "call_function":
            change.arguments(node)
    for node in change.layouts:
        change.shape(node)
    return change.is_vertical


def given_shape(node: fx.Node) -> tuple[int, ...]:
    """Return the shape that a node, or its first part, has in the user's network."""
    found = node.meta.get(_GIVEN)
    return tuple(_first(node).shape if found is None else found)


def given_target(node: fx.Node) -> Any:
    """Return the operation that a node is in the user's network."""
    return node.meta.get(_NAMED, node.target)


def given_constant(node: Any) -> Any:
    """Return the constant of the user's network that a node is with other axes; the node itself if it is none."""
    return node.meta.get(_OF, node) if isinstance(node, fx.Node) else node


def channels_last(node: fx.Node) -> bool:
    """Return whether a node is (1, length, channels) in the user's network, and (1, channels, ...) now."""
    return bool(node.meta.get(_LAST, False))


def axis_of(node: fx.Node, axes: Any) -> str:
    """Return what axes of a node are in the user's network."""
    given = [axes] if isinstance(axes, int) else list(axes)
    rank = _first(node).ndim
    if _GIVEN in node.meta:
        order = (0, 2, 1, 1) if channels_last(node) else (0, 1, 2, 2)
        given = list(dict.fromkeys(order[axis % rank] for axis in given))
    return f"axis {given[0]}" if isinstance(axes, int) else f"the axes {given}"


def _of_constants(graph: fx.Graph, constants: Collection[str]) -> set[fx.Node]:
    """Return the nodes that depend on constants alone."""
    found: set[fx.Node] = set()
    for node in graph.nodes:
        sources = node.all_input_nodes
        if node.name in constants or (node.op == "call_function" and sources and found.issuperset(sources)):
            found.add(node)
    return found


def _first(node: fx.Node) -> Any:
    """Return what a node gives, or its first part."""
    given = node.meta.get("val")
    return given[0] if isinstance(given, (list, tuple)) and given else given


def _rank(node: Any) -> int:
    given = _first(node) if isinstance(node, fx.Node) else None
    return given.ndim if isinstance(given, Tensor) else 0


def _name(node: fx.Node) -> str:
    packet = getattr(node.target, "overloadpacket", None)
    return "" if packet is None else packet.__name__.rstrip("_")


def _is_transpose(node: fx.Node) -> bool:
    """Tell if a node swaps the last two of three axes."""
    if _name(node) not in _TRANSPOSES or _rank(node) != 3:
        return False
    given: Any = node.args[1:]
    if _name(node) == "permute":
        return [axis % 3 for axis in given[0]] == [0, 2, 1]
    if _name(node) == "mT":
        return True
    return all(isinstance(axis, int) for axis in given) and {axis % 3 for axis in given} == {1, 2}


def _layouts(maps: list[fx.Node], name_of: Callable[[fx.Node], str]) -> dict[fx.Node, bool]:
    """Return for each sequence, a map of three axes joined with a layer over sequences, if its channels are last."""
    joined: dict[fx.Node, list[tuple[fx.Node, bool]]] = {node: [] for node in maps}
    found: dict[fx.Node, bool] = {}
    for node in maps:
        for source in node.all_input_nodes:
            if source in joined and _rank(node) == _rank(source) == 3:
                joined[node].append((source, _is_transpose(node)))
                joined[source].append((node, _is_transpose(node)))
        if node.target in _TWO_AXES:
            found |= {one: False for one in (node, node.args[0]) if isinstance(one, fx.Node) and _rank(one) == 3}
    reached = list(found)
    for node in reached:
        for other, is_turned in joined[node]:
            if other not in found:
                found[other] = found[node] != is_turned
                reached.append(other)
            elif found[other] != (found[node] != is_turned):
                raise StructureError(
                    f"{name_of(other)}: channels and length of a sequence change their places; C code knows "
                    "layers along the one and the other not in one network"
                )
    return found


class _Change:
    """What is done to the nodes of a graph."""

    def __init__(
        self, graph: fx.Graph, fixed: set[fx.Node], layouts: dict[fx.Node, bool], name_of: Callable[[fx.Node], str]
    ) -> None:
        self.graph, self.fixed, self.layouts, self.name_of = graph, fixed, layouts, name_of
        self.is_vertical = any(node.op == "placeholder" and is_last for node, is_last in layouts.items())
        self.length = 2 if self.is_vertical else 3

    def shape(self, node: fx.Node) -> None:
        """Give a sequence the shape of its map."""
        given = node.meta["val"]
        node.meta[_GIVEN], node.meta[_LAST] = tuple(_first(node).shape), self.layouts[node]
        is_list = isinstance(given, (list, tuple))
        node.meta["val"] = [self._map(part, node) for part in given] if is_list else self._map(given, node)

    def _map(self, given: Any, node: fx.Node) -> Any:
        batch, channels, length = given.shape
        if self.layouts[node]:
            channels, length = length, channels
        sizes = (length, 1) if self.is_vertical else (1, length)
        return torch.empty(batch, channels, *sizes, dtype=given.dtype, device="meta")

    def arguments(self, node: fx.Node) -> None:
        """Change an operation over sequences, whose values still have three axes, to that over maps."""
        target: Any = node.target
        schema = getattr(target, "_schema", None)
        if schema is None:  # a part of a list
            return
        of = node.args[0] if isinstance(node.args[0], fx.Node) else node
        if node in self.layouts or of in self.layouts:
            self._check(node)
        names = [argument.name for argument in schema.arguments]
        if target in _TWO_AXES and node in self.layouts:
            node.meta[_NAMED], node.target = target, _TWO_AXES[target]
            self._each(node, names, self._beside)
        elif node in self.layouts and _is_transpose(node):
            node.meta[_NAMED], node.target, node.args, node.kwargs = target, _aten.alias.default, (of,), {}
        elif of in self.layouts:
            self._each(node, names, lambda name, value: self._of_map(name, value, is_last=self.layouts[of]))
        if node in self.layouts and _name(node) in _ARITHMETIC:
            node.args = tuple(self._beside_maps(node, value) for value in node.args)

    def _each(self, node: fx.Node, names: list[str], change: Callable[[str, Any], Any]) -> None:
        node.args = tuple(change(name, value) for name, value in zip(names, node.args, strict=False))
        node.kwargs = {name: change(name, value) for name, value in node.kwargs.items()}

    def _check(self, node: fx.Node) -> None:
        """Raise `StructureError` if a node takes or gives (1, length, channels) in an order that the map has not."""
        sources = [one for one in node.all_input_nodes if one in self.layouts]
        last = [one for one in (*sources, node) if self.layouts.get(one) and min(_first(one).shape[1:]) > 1]
        if _name(node) == "linear" and not self.layouts.get(node):
            shape = tuple(_first(sources[0]).shape) if sources else None
            raise StructureError(
                f"{self.name_of(node)}: a linear layer along the length of {shape}; C code knows it along the "
                "channels, (1, length, channels)"
            )
        is_reshape = _name(node) in RESHAPES and any(_first(one).shape != _first(node).shape for one in sources)
        if last and (is_reshape or _name(node) in _OF_CHANNELS or (_name(node) in RESHAPES and not sources)):
            raise StructureError(
                f"{self.name_of(node)}: of (1, length, channels), {tuple(_first(last[0]).shape)}; C code knows it of "
                "(1, channels, length): transpose(1, 2) before it"
            )

    def _beside(self, name: str, value: Any) -> Any:
        """Return an argument for both axes; "same", None and no stride at all are as they are."""
        if name not in _NEUTRAL or not isinstance(value, (list, tuple)) or not value:
            return value
        return [*value, _NEUTRAL[name]] if self.is_vertical else [_NEUTRAL[name], *value]

    def _beside_maps(self, node: fx.Node, value: Any) -> Any:
        """Return an argument as it meets a map: a constant of numbers for each channel gets the axes of maps."""
        is_last = self.layouts[node]
        if not isinstance(value, fx.Node) or value not in self.fixed or _rank(value) < (1 if is_last else 2):
            return value
        given = value
        with self.graph.inserting_before(node):
            if is_last and _rank(given) == 1:
                value = self.graph.call_function(_aten.unsqueeze.default, (value, 0))
            if is_last:
                value = self.graph.call_function(_aten.mT.default, (value,))
            value = self.graph.call_function(_aten.unsqueeze.default, (value, -1 if self.is_vertical else -2))
        value.meta[_OF] = given
        return value

    def _of_map(self, name: str, value: Any, *, is_last: bool) -> Any:
        """Return an argument of a sequence as one of a map: an axis, or padding; a mean along the length is of both."""
        if name == "pad":
            pads = [*value, *[0] * (4 - len(value))] if is_last else [*value]
            length, rest = (pads[2:4], [*pads[:2], *pads[4:]]) if is_last else (pads[:2], pads[2:])
            return [*([0, 0, *length] if self.is_vertical else [*length, 0, 0]), *rest]
        if name != "dim" or value is None:
            return value
        if isinstance(value, (list, tuple)):
            return [axis for given in value for axis in self._axes(given, is_last)]
        axes = self._axes(value, is_last)
        return self.length if len(axes) > 1 else axes[0]

    def _axes(self, given: int, is_last: bool) -> tuple[int, ...]:
        """Return the axes of a map that an axis of a sequence is: both of the length."""
        length = 1 if is_last else 2
        return (0,) if given % 3 == 0 else (2, 3) if given % 3 == length else (1,)
