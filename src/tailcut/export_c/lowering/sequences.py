"""Axes of a traced network's maps: sequences become maps of one row or column, permuted maps what they were before.

A map (channels, length) becomes one of a single row, (channels, 1, length), unless the input is (length, channels) or a
layer is recurrent: then of a single column, (channels, length, 1), whose numbers lie in memory as (length, channels).
What is permuted becomes the same map with its axes by other names, wherever the layers agree; else it stays an
operation, and so do two that are put around a linear layer or norm along another axis than that of the channels.

The order of a node's axes is told by a letter for each: batch, channels, length; or batch, channels, height, width.
"""

import operator
from collections.abc import Callable, Collection
from typing import Any

import torch
from torch import Tensor, fx

from tailcut.errors import StructureError

# What a node was in the user's network; the constant that it is with other axes.
_GIVEN, _NAMED, _ORDER, _OF = "given_shape", "given_target", "order", "of_constant"
_CANONICAL = {3: "ncl", 4: "nchw"}

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
PERMUTATIONS = ("transpose", "permute", "swapaxes", "swapdims", "movedim", "moveaxis", "mT")
RECURRENT = ("gru", "lstm", "rnn_tanh", "rnn_relu")
ATTENTION = "scaled_dot_product_attention"
"""Of (1, tokens, channels), as `heads` has made it."""
REARRANGED = "pixel_shuffle"
"""A map with its numbers in another order, as `rearranging` has made it."""
RESHAPES = ("flatten", "reshape", "squeeze", "unflatten", "unsqueeze", "view", "_unsafe_view")
# Operations whose second axis is that of the channels, whatever their arguments say; the first have to have it there.
_NORMS = ("batch_norm", "instance_norm", "group_norm", "prelu")
_OF_CHANNELS = (*_NORMS, "expand", "expand_as", "feature_dropout", "stack")
_ALONG_LAST = ("linear", "layer_norm", "rms_norm")
_ALONG_ROWS_AND_COLUMNS = (
    "conv2d",
    "conv_transpose2d",
    "max_pool2d",
    "avg_pool2d",
    "adaptive_avg_pool2d",
    "adaptive_max_pool2d",
    "upsample_nearest2d",
    "upsample_bilinear2d",
    REARRANGED,
)


def rows_of_sequences(graph: fx.Graph, constants: Collection[str], name_of: Callable[[fx.Node], str]) -> bool:
    """Let sequences be maps of one row or column, and permuted maps as they were (changes the graph).

    A network without any is left as it is.

    Args:
        graph: of ATen operations.
        constants: names of the placeholders that are parameters, buffers and constants.
        name_of: what the user calls a node.

    Returns:
        True if the maps are of one column.

    Raises:
        StructureError: numbers would have to change their order.
    """
    fixed = of_constants(graph, constants)
    maps = [node for node in graph.nodes if node not in fixed and node.op != "output"]
    orders = _orders(maps)
    _turn_around(graph, orders, name_of)
    change = _Change(graph, fixed, orders, name_of)
    for node in list(graph.nodes):
        if node.op == "call_function" and node not in fixed:
            change.arguments(node)
    for node in orders:
        change.shape(node)
    return change.is_vertical


def given_shape(node: fx.Node) -> tuple[int, ...]:
    """Return the shape that a node, or its first part, has in the user's network."""
    found = node.meta.get(_GIVEN)
    return tuple(_first(node).shape if found is None else found)


def given_target(node: fx.Node) -> Any:
    """Return the operation that a node is in the user's network."""
    return node.meta.get(_NAMED, node.target)


def name_as(node: fx.Node, target: Any) -> None:
    """Let a node be named as this operation of the user's network."""
    node.meta[_NAMED] = target


def new_node(graph: fx.Graph, target: Any, args: tuple[Any, ...], val: Tensor, of: fx.Node) -> fx.Node:
    """Return a new node where the graph inserts now: it gives a tensor like `val`, and is of another node's layer."""
    made = graph.call_function(target, args)
    made.meta |= {"val": val, "nn_module_stack": of.meta.get("nn_module_stack")}
    return made


def given_constant(node: Any) -> Any:
    """Return the constant of the user's network that a node is with other axes; the node itself if it is none."""
    return node.meta.get(_OF, node) if isinstance(node, fx.Node) else node


def given_order(node: fx.Node) -> str:
    """Return the letters of a node's axes in the user's network; "nhw" without channels, "nc" for features."""
    found: str | None = node.meta.get(_ORDER)
    return found if found is not None else {4: "nchw", 3: "nhw"}.get(_first(node).ndim, "nc")


def is_canonical(node: fx.Node) -> bool:
    """Return whether the axes of a node are in the user's network in the order of a map in C."""
    return given_order(node) in ("ncl", "nchw", "nhw", "nc")


def channels_last(node: fx.Node) -> bool:
    """Return whether the channels of a map are the last axis in the user's network."""
    return bool(node.meta.get(_ORDER, "n")[-1] == "c")


def axis_of(node: fx.Node, axes: Any) -> str:
    """Return what axes of a node are in the user's network."""
    given = [axes] if isinstance(axes, int) else list(axes)
    rank = _first(node).ndim
    if _ORDER in node.meta:
        order = node.meta[_ORDER]
        letters = ("n", "c", "h", "w") if "h" in order else ("n", "c", "l", "l")
        given = list(dict.fromkeys(order.index(letters[axis % rank]) for axis in given))
    return f"axis {given[0]}" if isinstance(axes, int) else f"the axes {given}"


def permutation_of(node: fx.Node) -> tuple[int, ...] | None:
    """Return for each axis that a node gives the axis of its input that it is; None if it does not permute axes."""
    rank = _rank(node)
    given: Any = node.args[1:]
    if node.op != "call_function" or _name(node) not in PERMUTATIONS or rank < 2:
        return None
    axes = list(range(rank))
    if _name(node) == "permute":
        return tuple(int(axis) % rank for axis in given[0])
    if _name(node) in ("movedim", "moveaxis"):
        sources, targets = ([one % rank for one in ([item] if isinstance(item, int) else item)] for item in given)
        moved = dict(zip(targets, sources, strict=True))
        left = iter(axis for axis in axes if axis not in sources)
        return tuple(moved[axis] if axis in moved else next(left) for axis in axes)
    one, two = (-2, -1) if _name(node) == "mT" else given
    axes[one], axes[two] = axes[two], axes[one]
    return tuple(axes)


def recurrence_of(node: Any) -> tuple[fx.Node, int] | None:
    """Return the recurrent layer, and which of its outputs, that a node gives; None for any other node."""
    if not isinstance(node, fx.Node) or node.target is not operator.getitem:
        return None
    layer, index = node.args
    return (layer, int(index)) if isinstance(layer, fx.Node) and _name(layer) in RECURRENT else None  # type: ignore[arg-type]


def of_constants(graph: fx.Graph, constants: Collection[str]) -> set[fx.Node]:
    """Return the nodes that depend on constants alone."""
    found: set[fx.Node] = set()
    for node in graph.nodes:
        sources = node.all_input_nodes
        if node.name in constants or (node.op == "call_function" and found.issuperset(sources)):
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
    if node.target is operator.getitem:
        return "getitem"
    packet = getattr(node.target, "overloadpacket", None)
    return "" if packet is None else packet.__name__.rstrip("_")


def _wanted_order(node: fx.Node, of: fx.Node) -> str | None:
    """Return the order of axes that a layer has to read, None if it takes any."""
    name, rank = _name(node), _rank(of)
    if node.target in _TWO_AXES or (name in _NORMS and rank in _CANONICAL):
        return _CANONICAL.get(rank)
    if name in _ALONG_ROWS_AND_COLUMNS and rank == 4:
        return _CANONICAL[rank]
    if name in _ALONG_LAST and rank in (3, 4):
        is_one = name == "linear" or len(node.args[1]) == 1  # type: ignore[arg-type]
        is_batch_second = rank == 3 and _first(of).shape[0] > _first(of).shape[1] == 1
        return ("lnc" if is_batch_second else {3: "nlc", 4: "nhwc"}[rank]) if is_one else None
    if name == ATTENTION and rank == 3:
        return "nlc"
    if name in RECURRENT and rank == 3:
        return "nlc" if node.args[-1] else "lnc"
    return None


class _Parts:
    """Maps that have the axes in one order: joined by any operation but those that permute or reshape."""

    def __init__(self, maps: list[fx.Node]) -> None:
        self.parent = {node: node for node in maps if _rank(node) in _CANONICAL and not _is_state(node)}
        self.wanted: dict[fx.Node, set[str]] = {}
        self.links: list[tuple[fx.Node, fx.Node, tuple[int, ...]]] = []
        for node in self.parent:
            for source in node.all_input_nodes:
                if source in self.parent and _rank(source) == _rank(node):
                    self._meet(node, source)
        for node in maps:
            for place, of in enumerate(node.all_input_nodes):
                order = _wanted_order(node, of) if place == 0 and of in self.parent else None
                if order is not None:
                    self.wanted.setdefault(self.root(of), set()).add(order)
                    if node in self.parent and _rank(node) == _rank(of):
                        self.wanted.setdefault(self.root(node), set()).add(order)
            if node in self.parent and node.op == "placeholder" and _rank(node) == 4:
                self.wanted.setdefault(self.root(node), set()).add("nchw")

    def root(self, node: fx.Node) -> fx.Node:
        while self.parent[node] is not node:
            node = self.parent[node]
        return node

    def _meet(self, node: fx.Node, source: fx.Node) -> None:
        if _name(node) == REARRANGED:
            return
        axes = permutation_of(node)
        is_reshape = _name(node) in RESHAPES and _first(node).shape != _first(source).shape
        if axes is not None:
            self.links.append((source, node, axes))
        elif not is_reshape:
            self.parent[self.root(node)] = self.root(source)
        elif _rank(node) == 3:
            self.links.append((source, node, (0, 1, 2)))


def _is_state(node: fx.Node) -> bool:
    """Tell if a node is the last state of a recurrent layer, (layers, 1, hidden)."""
    found = recurrence_of(node)
    return found is not None and found[1] > 0


def _orders(maps: list[fx.Node]) -> dict[fx.Node, str]:
    """Return the order of axes of each sequence, and of each map whose axes are not in the canonical one."""
    parts = _Parts(maps)
    found: dict[fx.Node, str] = {}
    for root, wanted in parts.wanted.items():
        root = parts.root(root)
        has_canonical = found.get(root) in _CANONICAL.values() or wanted & set(_CANONICAL.values())
        if has_canonical:
            found[root] = _CANONICAL[_rank(root)]
        elif root not in found and _rank(root) == 3:
            found[root] = min(wanted, key=("nlc", "lnc").index)
    _spread(parts, found)
    for root in parts.parent:  # maps of which nothing is said are what they seem
        if parts.root(root) is root and _rank(root) == 4 and root not in found:
            found[root] = "nchw"
            _spread(parts, found)
    orders = {node: found[parts.root(node)] for node in parts.parent if parts.root(node) in found}
    return {node: order for node, order in orders.items() if order != "nchw"}


def _spread(parts: _Parts, found: dict[fx.Node, str]) -> None:
    """Give parts without an order that of a permutation of another's."""
    is_new = True
    while is_new:
        is_new = False
        for source, node, axes in parts.links:
            one, two = parts.root(source), parts.root(node)
            if one in found and two not in found:
                found[two] = "".join(found[one][axis] for axis in axes)
                is_new = True
            elif two in found and one not in found:
                found[one] = "".join(found[two][axes.index(axis)] for axis in range(len(axes)))
                is_new = True


def _turn_around(graph: fx.Graph, orders: dict[fx.Node, str], name_of: Callable[[fx.Node], str]) -> None:
    """Put permutations around layers that want another order of axes than their maps have."""
    for node in list(graph.nodes):
        of = node.args[0] if node.op == "call_function" and node.args else None
        if not isinstance(of, fx.Node) or _name(node) not in (*_ALONG_LAST, *RECURRENT):
            continue
        wanted = _wanted_order(node, of)
        if _name(node) in RECURRENT and wanted is not None and _first(of).shape[wanted.index("n")] != 1:
            raise StructureError(
                f"{name_of(node)}: reads {tuple(_first(of).shape)} as {_first(of).shape[wanted.index('n')]} sequences; "
                "C code knows one, (1, length, features), its batch first"
            )
        own = orders.get(of, _CANONICAL.get(_rank(of), "n") if _rank(of) == 4 else "")
        if wanted is None or not own or own[-1] == "c":
            continue
        if _name(node) in RECURRENT:
            raise StructureError(f"{name_of(node)}: along another axis than layers before it take for the length")
        with graph.inserting_before(node):
            before = new_node(graph, _aten.permute.default, (of, list(range(len(own)))), of.meta["val"], node)
        node.replace_input_with(of, before)
        orders[before] = wanted
        with graph.inserting_after(node):
            after = new_node(graph, _aten.permute.default, (node, list(range(len(own)))), node.meta["val"], node)
        node.replace_all_uses_with(after, delete_user_cb=lambda user, after=after: user is not after)
        if own != "nchw":
            orders[after] = own
        else:
            orders.pop(after, None)
        orders[node] = wanted


class _Change:
    """What is done to the nodes of a graph."""

    def __init__(
        self, graph: fx.Graph, fixed: set[fx.Node], orders: dict[fx.Node, str], name_of: Callable[[fx.Node], str]
    ) -> None:
        self.graph, self.fixed, self.orders, self.name_of = graph, fixed, orders, name_of
        along = (*RECURRENT, ATTENTION)
        is_along = any(node.op == "call_function" and _name(node) in along for node in graph.nodes)
        self.is_vertical = is_along or any(
            node.op == "placeholder" and order == "nlc" for node, order in orders.items()
        )
        # The axis of a map in C that each axis is.
        self.axis = {"n": 0, "c": 1, "h": 2, "w": 3, "l": 2 if self.is_vertical else 3}

    def shape(self, node: fx.Node) -> None:
        """Give a sequence the shape of its map."""
        given = node.meta["val"]
        node.meta[_GIVEN], node.meta[_ORDER] = tuple(_first(node).shape), self.orders[node]
        is_list = isinstance(given, (list, tuple))
        node.meta["val"] = [self._map(part, node) for part in given] if is_list else self._map(given, node)

    def _map(self, given: Any, node: fx.Node) -> Any:
        sizes = [1, 1, 1, 1]
        if given.ndim != len(self.orders[node]):  # a state beside a sequence
            return given
        for letter, size in zip(self.orders[node], given.shape, strict=True):
            sizes[self.axis[letter]] = size
        return torch.empty(sizes, dtype=given.dtype, device="meta")

    def arguments(self, node: fx.Node) -> None:
        """Change an operation over sequences, whose values still have their axes, to that over maps."""
        target: Any = node.target
        schema = getattr(target, "_schema", None)
        if schema is None:  # a part of a list
            return
        of = node.args[0] if node.args and isinstance(node.args[0], fx.Node) else node
        if node in self.orders or of in self.orders:
            self._check(node)
        names = [argument.name for argument in schema.arguments]
        axes = permutation_of(node)
        if _name(node) == "cat" and len(node.args) == 1 and not node.kwargs:
            node.args = (*node.args, 0)  # its default, which may be the length
        if target in _TWO_AXES and node in self.orders:
            node.meta[_NAMED], node.target = target, _TWO_AXES[target]
            self._each(node, names, self._beside)
        elif axes is not None:
            self._permutation(node, of, axes)
        elif of in self.orders:
            self._each(node, names, lambda name, value: self._of_map(name, value, self.orders[of]))
        if node in self.orders and _name(node) in _ARITHMETIC:
            node.args = tuple(self._beside_maps(node, value) for value in node.args)

    def _permutation(self, node: fx.Node, of: fx.Node, axes: tuple[int, ...]) -> None:
        """Let a permutation that gives the axes other names do nothing; what is left is told the axes that it moves."""
        orders = [self.orders.get(one, "nchw" if _rank(one) == 4 else "") for one in (of, node)]
        if not all(orders):
            return
        moved = [(orders[0][axis], letter) for axis, letter in zip(axes, orders[1], strict=True)]
        if all(one == two for one, two in moved):
            node.meta[_NAMED], node.target, node.args, node.kwargs = node.target, _aten.alias.default, (of,), {}
            return
        if any("n" in pair and pair[0] != pair[1] for pair in moved):
            raise StructureError(
                f"{self.name_of(node)}: moves the axis of the batch; C code knows batches of one, in their place"
            )
        pairs = [[self.axis[one] - 1, self.axis[two] - 1] for one, two in moved if one != "n"]
        node.meta[_NAMED], node.target = node.target, _aten.permute.default
        node.args, node.kwargs = (of, pairs), {}

    def _each(self, node: fx.Node, names: list[str], change: Callable[[str, Any], Any]) -> None:
        node.args = tuple(change(name, value) for name, value in zip(names, node.args, strict=False))
        node.kwargs = {name: change(name, value) for name, value in node.kwargs.items()}

    def _check(self, node: fx.Node) -> None:
        """Raise `StructureError` if a node takes or gives (1, length, channels) in an order that the map has not."""
        sources = [one for one in node.all_input_nodes if one in self.orders]
        last = [
            one for one in (*sources, node) if self.orders.get(one, "n")[-1] == "c" and min(_first(one).shape[1:]) > 1
        ]
        if last and _name(node) in _OF_CHANNELS:
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
        order, rank = self.orders[node], _rank(value)
        if not isinstance(value, fx.Node) or value not in self.fixed or rank < 1:
            return value
        given, canonical = value, "nchw" if "h" in order else "ncl"
        with self.graph.inserting_before(node):
            for _ in range(len(order) - rank):
                value = self.graph.call_function(_aten.unsqueeze.default, (value, 0))
            if order != canonical:
                axes = [order.index(letter) for letter in canonical]
                value = self.graph.call_function(_aten.permute.default, (value, axes))
            if "l" in order:
                value = self.graph.call_function(_aten.unsqueeze.default, (value, -1 if self.is_vertical else -2))
        value.meta[_OF] = given
        return value

    def _of_map(self, name: str, value: Any, order: str) -> Any:
        """Return an argument of a sequence as one of a map: an axis, or padding; a mean along the length is of both."""
        if name == "pad":
            pads = [0] * 8
            for place, letter in enumerate(order[::-1][: len(value) // 2]):
                at = 2 * (3 - self.axis[letter])
                pads[at : at + 2] = value[2 * place : 2 * place + 2]
            while len(pads) > 4 and not any(pads[-2:]):
                pads = pads[:-2]
            return pads
        if name != "dim" or value is None:
            return value
        if isinstance(value, (list, tuple)):
            return [axis for given in value for axis in self._axes(given, order)]
        axes = self._axes(value, order)
        return self.axis["l"] if len(axes) > 1 else axes[0]

    def _axes(self, given: int, order: str) -> tuple[int, ...]:
        """Return the axes of a map that an axis of a sequence is: both of the length."""
        letter = order[given % len(order)]
        return (2, 3) if letter == "l" else (self.axis[letter],)
