"""Attention in a traced network: whatever it is written with becomes one operation over sequences of tokens.

Heads are parts of the channels of a token, and stay so: what reshapes and permutes tokens into heads, and back, is
taken out of the graph. Linear layers over (tokens, channels) become those over (1, tokens, channels).
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx

from tailcut.errors import StructureError
from tailcut.export_c.lowering.graph import check_changes_in_place, computed, op_name
from tailcut.export_c.lowering.heads.einsum import write_out
from tailcut.export_c.lowering.heads.scores import Scores, softmax_of
from tailcut.export_c.lowering.heads.views import View, Views, is_view
from tailcut.export_c.lowering.sequences import ATTENTION, name_as, new_node

HEADS = "heads"
"""Where a node of attention keeps its `Heads`."""
PRODUCTS = ("matmul", "bmm", "baddbmm", "einsum")

_aten = torch.ops.aten


@dataclass(frozen=True, eq=False)
class Heads:
    """How attention reads its tokens; heads one behind the other.

    Attributes:
        num: count of the heads.
        queries, keys, values: channels of the three sequences that it reads.
        factor: of the scores, before the mask is added.
        mask: (heads or 1, tokens, tokens), what is added to the scores; None for nothing.
        is_causal: whether no token reads a later one.
    """

    num: int
    queries: list[int]
    keys: list[int]
    values: list[int]
    factor: float
    mask: Tensor | None
    is_causal: bool


def join_heads(graph: fx.Graph, constants: dict[str, Any], name_of: Callable[[fx.Node], str]) -> bool:
    """Let all attention of a graph be nodes `scaled_dot_product_attention` of sequences (1, tokens, channels).

    Their `Heads` tell the rest. A network without attention, and without products of matrices, is left as it is.

    Args:
        graph: of ATen operations; it is changed.
        constants: parameters, buffers and constants by placeholder; what is computed from them is added.
        name_of: what the user calls a node.

    Returns:
        True if there is attention.

    Raises:
        StructureError: attention of a form that C code has not.
    """
    if not any(op_name(node.target) in (ATTENTION, *PRODUCTS) for node in graph.nodes):
        return False
    check_changes_in_place(graph)
    for node in graph.nodes:
        made = computed(node, constants) if node.op == "call_function" else None
        if made is not None:
            constants[node.name] = made
    _remove_unused(graph, constants)
    write_out(graph)
    join = _Join(graph, Views(constants), name_of)
    for node in list(graph.nodes):
        if node.op == "call_function" and node.users and node.name not in constants:
            join.look_at(node)
    _remove_unused(graph, constants)
    for softmax in join.weights:
        if softmax.users:
            raise StructureError(
                f"{name_of(softmax)}: gives out the weights of attention; C code keeps none of them: give out what "
                "the layer makes of its values alone"
            )
    return bool(join.made)


def _remove_unused(graph: fx.Graph, constants: dict[str, Any]) -> None:
    for node in reversed(list(graph.nodes)):
        changes = op_name(node.target).endswith("_") and node.name not in constants
        if node.op == "call_function" and not node.users and not changes:
            graph.erase_node(node)


class _Join:
    """What is done to a graph, node by node.

    Attributes:
        made: nodes that were put into the graph and give tokens.
        weights: what gives the weights of attention, where that is written out.
    """

    def __init__(self, graph: fx.Graph, views: Views, name_of: Callable[[fx.Node], str]) -> None:
        self.graph, self.views, self.name_of = graph, views, name_of
        self.made: set[fx.Node] = set()
        self.weights: list[fx.Node] = []
        self._turned: dict[tuple[fx.Node, tuple[int, ...]], fx.Node] = {}

    def look_at(self, node: fx.Node) -> None:
        """Join attention that ends with a node, or take out a node that gives tokens as they were."""
        name = op_name(node.target)
        if name == ATTENTION:
            self._attention(node)
        elif name in ("matmul", "bmm"):
            self._product(node)
        elif name == "linear":
            self._linear(node)
        elif is_view(node):
            view = self.views.of(node)
            tokens = self._tokens(view, tuple(node.meta["val"].shape)) if view.base in self.made else None
            if tokens is not None and view.base is not node:
                node.replace_all_uses_with(tokens)

    def _attention(self, node: fx.Node) -> None:
        """Join `scaled_dot_product_attention` of heads."""
        schema = [argument.name for argument in node.target._schema.arguments]  # type: ignore[union-attr]
        given: dict[str, Any] = dict(zip(schema, node.args, strict=False)) | node.kwargs
        if given.get("dropout_p"):
            raise StructureError(f"{self.name_of(node)}: dropout_p={given['dropout_p']}; C code drops nothing")
        size = given["query"].meta["val"].shape[-1]
        scale = given.get("scale")
        scores = Scores(
            self.views.of(given["query"]), self.views.of(given["key"]), size**-0.5 if scale is None else float(scale)
        )
        mask = given.get("attn_mask")
        if mask is not None:
            scores.mask = self._mask(node, mask)
        self._join(node, scores, self.views.of(given["value"]), is_causal=bool(given.get("is_causal")))

    def _mask(self, node: fx.Node, mask: Any) -> Tensor:
        numbers = self.views.constants.get(mask.name)
        if numbers is None:
            raise StructureError(f"{self.name_of(node)}: a mask that depends on the input; C code knows constant ones")
        rows, columns = numbers.shape[-2:] if numbers.ndim > 1 else (1, *numbers.shape)
        if numbers.dtype == torch.bool:
            numbers = torch.zeros(numbers.shape).masked_fill(~numbers, -torch.inf)
        made: Tensor = numbers.to(torch.float64).reshape(-1, rows, columns)
        return made

    def _product(self, node: fx.Node) -> None:
        """Join attention that is written out, if a product is that of its weights and values."""
        one, two = node.args[:2]
        softmax, value, is_turned = softmax_of(one), two, False
        if softmax is None:
            softmax, value, is_turned = softmax_of(two, is_turned=True), one, True
        if softmax is None or not isinstance(value, fx.Node):
            return
        scores = Scores.of(softmax, self.views, self.name_of)
        if scores is None:
            return
        self.weights.append(softmax)
        view = self.views.of(value)
        if is_turned:
            view = View(view.base, view.places.mT, view.factor)
        self._join(node, scores, view, is_turned=is_turned)

    def _join(
        self, node: fx.Node, scores: Scores, value: View, *, is_causal: bool = False, is_turned: bool = False
    ) -> None:
        """Put attention of tokens in the place of a node that gives (..., tokens, channels of a head)."""
        queries, keys, values = (part.places for part in (scores.query, scores.key, value))
        if keys.ndim == queries.ndim > 2 and keys.shape[-3] != queries.shape[-3] and op_name(node.target) == ATTENTION:
            times = queries.shape[-3] // keys.shape[-3]  # enable_gqa
            keys, values = (part.repeat_interleave(times, -3) for part in (keys, values))
        counts = (queries.shape[-2], keys.shape[-2], values.shape[-2])
        if len(set(counts)) > 1:
            raise StructureError(
                f"{self.name_of(node)}: queries of {counts[0]} tokens and keys of {counts[1]}; C code knows attention "
                "of as many"
            )
        heads = torch.broadcast_shapes(*(part.shape[:-2] for part in (queries, keys, values)))
        parts = [
            self._part(node, view, places.expand(*heads, *places.shape[-2:]))
            for view, places in ((scores.query, queries), (scores.key, keys), (value, values))
        ]
        factor = scores.factor * scores.query.factor * scores.key.factor
        num, (tokens, size) = heads.numel(), values.shape[-2:]
        mask = scores.mask
        if mask is not None:
            mask = mask.expand(mask.shape[0], tokens, tokens)
        sequences = tuple(part[0] for part in parts)
        joined = self._new(node, _aten.scaled_dot_product_attention.default, sequences, (1, tokens, num * size))
        joined.meta[HEADS] = Heads(num, parts[0][1], parts[1][1], parts[2][1], factor, mask, is_causal)
        name_as(joined, node.target)
        self.made.add(joined)
        places = torch.arange(tokens * num * size).reshape(tokens, num, size).transpose(0, 1)
        places = places.reshape(*heads, tokens, size)
        view = View(joined, places.mT if is_turned else places, value.factor)
        made = self._tokens(view, tuple(node.meta["val"].shape))
        node.replace_all_uses_with(self._in_turn(node, view, size, is_turned=is_turned) if made is None else made)

    def _in_turn(self, node: fx.Node, view: View, size: int, *, is_turned: bool) -> fx.Node:
        """Return a node that reads all heads of tokens one behind the other, in the shape of another node."""
        _, tokens, channels = view.base.meta["val"].shape
        made, shape = view.base, tuple(node.meta["val"].shape)
        steps: list[tuple[Any, Any, tuple[int, ...]]] = [
            (_aten.view.default, [1, tokens, channels // size, size], (1, tokens, channels // size, size)),
            (_aten.permute.default, [0, 2, 1, 3], (1, channels // size, tokens, size)),
            (_aten.reshape.default, list(shape), shape),
        ]
        if is_turned:
            steps[1] = (_aten.permute.default, [0, 2, 3, 1], (1, channels // size, size, tokens))
        for target, argument, given in steps:
            made = self._new(node, target, (made, argument), given)
        if view.factor != 1.0:
            made = self._new(node, _aten.mul.Tensor, (made, view.factor), shape)
        self.views.say(made, view)
        return made

    def _linear(self, node: fx.Node) -> None:
        """Let a linear layer over (tokens, channels) be one over the sequence that these are."""
        x, *rest = node.args
        if not isinstance(x, fx.Node) or x.meta["val"].ndim != 2 or x.meta["val"].shape[0] == 1:
            return
        view, (tokens, channels) = self.views.of(x), x.meta["val"].shape
        shape = tuple(view.base.meta["val"].shape)
        if not view.is_in_order or shape not in ((1, tokens, channels), (tokens, 1, channels)):
            return
        own = tuple(node.meta["val"].shape)
        layer = self._new(node, node.target, (view.base, *rest), (*shape[:2], own[1]))
        self.made.add(layer)
        seen = self._new(node, _aten.view.default, (layer, list(own)), own)
        self.views.say(seen, View(layer, torch.arange(own[0] * own[1]).reshape(own)))
        node.replace_all_uses_with(seen)

    def _tokens(self, view: View, shape: tuple[int, ...]) -> fx.Node | None:
        """Return tokens in the shape that a node has; None if its numbers are no tokens in order."""
        base = view.base
        one, two, channels = base.meta["val"].shape
        if view.is_in_order and shape in ((one, two, channels), (two, one, channels)):
            return base if shape == (one, two, channels) else self._turn(base, (1, 0, 2))
        places = torch.arange(one * two * channels).reshape(-1, channels).mT.flatten()
        is_turned = one == 1 and shape[:2] == (1, channels) and len(shape) in (3, 4) and view.factor == 1.0
        if not is_turned or view.places.shape != shape or not torch.equal(view.places.flatten(), places):
            return None
        turned = self._turn(base, (0, 2, 1))
        return turned if len(shape) == 3 else self._shaped(turned, shape)

    def _part(self, node: fx.Node, view: View, places: Tensor) -> tuple[fx.Node, list[int]]:
        """Return a sequence, (1, tokens, channels), and which of its channels the heads are; their places are given."""
        places = places.reshape(-1, *places.shape[-2:])
        tokens, shape = places.shape[1], tuple(view.base.meta["val"].shape)
        channels = view.base.meta["val"].numel() // tokens
        step = int(places[0, 1, 0] - places[0, 0, 0]) if tokens > 1 else channels
        own = places[:, 0].flatten()
        is_even = torch.equal(places, places[:, :1] + step * torch.arange(tokens)[:, None])
        sequence = None
        if is_even and step == channels and shape[-1] == channels and int(own.max()) < channels:
            sequence = self._sequence(view.base, shape, tokens)
        elif is_even and step == 1 and not (own % tokens).any():
            own = own // tokens
            sequence = self._sequence_of_map(view.base, shape, channels, tokens)
        if sequence is None:
            raise StructureError(
                f"{self.name_of(node)}: heads of {shape}; C code knows channels of the tokens of one sequence, "
                "(1, tokens, channels)"
            )
        return sequence, own.tolist()

    def _sequence(self, base: fx.Node, shape: tuple[int, ...], tokens: int) -> fx.Node | None:
        if shape[:2] == (1, tokens) and len(shape) == 3:
            return base
        if shape[:2] == (tokens, 1) and len(shape) == 3:
            return self._turn(base, (1, 0, 2))
        is_map = len(shape) == 4 and shape[0] == 1 and shape[1] * shape[2] == tokens
        return self._shaped(base, (1, tokens, shape[-1])) if is_map else None

    def _sequence_of_map(self, base: fx.Node, shape: tuple[int, ...], channels: int, tokens: int) -> fx.Node | None:
        if shape[:2] != (1, channels) or len(shape) not in (3, 4):
            return None
        return self._turn(base if len(shape) == 3 else self._shaped(base, (1, channels, tokens)), (0, 2, 1))

    def _turn(self, base: fx.Node, axes: tuple[int, ...]) -> fx.Node:
        """Return a node with its axes in another order."""
        shape = base.meta["val"].shape
        return self._after(base, _aten.permute.default, axes, tuple(shape[axis] for axis in axes))

    def _shaped(self, base: fx.Node, shape: tuple[int, ...]) -> fx.Node:
        return self._after(base, _aten.reshape.default, shape, shape)

    def _after(self, base: fx.Node, target: Any, argument: tuple[int, ...], shape: tuple[int, ...]) -> fx.Node:
        """Return a node right behind another, which is made once."""
        if (base, (*argument, len(shape))) not in self._turned:
            with self.graph.inserting_after(base):
                made = new_node(self.graph, target, (base, list(argument)), torch.empty(shape, device="meta"), base)
            self._turned[base, (*argument, len(shape))] = made
        return self._turned[base, (*argument, len(shape))]

    def _new(self, node: fx.Node, target: Any, args: tuple[Any, ...], shape: tuple[int, ...]) -> fx.Node:
        """Return a new node before another, of whose layer it is."""
        with self.graph.inserting_before(node):
            return new_node(self.graph, target, args, torch.empty(shape, device="meta"), node)
