"""Reshapes, permutations and reshapes of a map in a graph, and torch's names of such: one node each."""

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx

from tailcut.export_c.lowering.graph import op_name, rank
from tailcut.export_c.lowering.sequences import (
    PERMUTATIONS,
    RESHAPES,
    given_target,
    name_as,
    new_node,
    of_constants,
    permutation_of,
)

_aten = torch.ops.aten
_COPIES = ("alias", "clone", "contiguous")
_KEY = "rearrangement"


@dataclass(frozen=True)
class Rearrangement:
    """A permutation of axes.

    Attributes:
        sizes: of the axes that the numbers of the map are seen with, in the order of the user's network.
        order: for each axis afterwards, which of them it is.
    """

    sizes: tuple[int, ...]
    order: tuple[int, ...]


def rearrangement_of(node: fx.Node) -> Rearrangement:
    """Return what `join_rearrangements` has found of a node that it made."""
    found: Rearrangement = node.meta[_KEY]
    return found


def join_rearrangements(graph: fx.Graph, constants: Collection[str]) -> None:
    """Let a map that is seen with five axes or more, permuted and seen as a map again be one node `pixel_shuffle`.

    So become `pixel_shuffle`, `pixel_unshuffle` and `channel_shuffle` themselves. Its `rearrangement_of` tells the
    rest. Other reshapes and permutations are left as they are.

    Args:
        graph: of ATen operations; it is changed.
        constants: names of the placeholders that are parameters, buffers and constants.
    """
    fixed = of_constants(graph, constants)
    for node in list(graph.nodes):
        if node.op != "call_function" or node in fixed:
            continue
        named = _NAMED.get(op_name(node.target))
        if named is not None:
            x = node.args[0]
            found = (
                named(tuple(x.meta["val"].shape), node.args[1]) if rank(x) == 4 or named is _channel_shuffle else None
            )
        else:
            x, found = _written_out(node)
        if found is not None and x.meta["val"].shape[0] == 1:
            _replace(graph, node, x, found)


def _replace(graph: fx.Graph, node: fx.Node, x: fx.Node, found: Rearrangement) -> None:
    before = node.args[0]
    name_as(node, given_target(node))
    node.target, node.args, node.kwargs = _aten.pixel_shuffle.default, (x, 1), {}
    node.meta[_KEY] = found
    while isinstance(before, fx.Node) and before is not x and not before.users:
        unused, before = before, before.args[0]
        graph.erase_node(unused)
    if node.meta["val"].shape[0] > 1:
        _take_parts(graph, node)


def _take_parts(graph: fx.Graph, node: fx.Node) -> None:
    """Let several maps, (parts, 1, channels, height, width), be the channels of one, and each user take its own."""
    parts, _, channels, *size = node.meta["val"].shape
    node.meta["val"] = torch.empty(1, parts * channels, *size, device="meta")
    for user in list(node.users):
        index: Any = user.args[2]
        place = index % parts
        with graph.inserting_before(user):
            args = (node, 1, place * channels, (place + 1) * channels)
            part = new_node(graph, _aten.slice.Tensor, args, user.meta["val"], user)
        name_as(part, user.target)
        user.replace_all_uses_with(part)
        graph.erase_node(user)


def _pixel_shuffle(shape: tuple[int, ...], factor: int) -> Rearrangement:
    _, channels, height, width = shape
    return Rearrangement((channels // factor**2, factor, factor, height, width), (0, 3, 1, 4, 2))


def _pixel_unshuffle(shape: tuple[int, ...], factor: int) -> Rearrangement:
    _, channels, height, width = shape
    return Rearrangement((channels, height // factor, factor, width // factor, factor), (0, 2, 4, 1, 3))


def _channel_shuffle(shape: tuple[int, ...], groups: int) -> Rearrangement:
    sizes = groups, shape[1] // groups, *shape[2:]
    return Rearrangement(sizes, (1, 0, *range(2, len(sizes))))


_NAMED = {
    "pixel_shuffle": _pixel_shuffle,
    "pixel_unshuffle": _pixel_unshuffle,
    "channel_shuffle": _channel_shuffle,
    "native_channel_shuffle": _channel_shuffle,
}


def _written_out(node: fx.Node) -> tuple[Any, Rearrangement | None]:
    """Return the map that a node permutes, and how; no permutation where it does anything else."""
    if op_name(node.target) not in RESHAPES or not (_is_of_one(node) or _is_taken_apart(node)):
        return None, None
    permuted = _source(node, (*RESHAPES, *_COPIES))
    order, seen = None, permuted
    while isinstance(seen, fx.Node) and op_name(seen.target) in PERMUTATIONS:
        axes = permutation_of(seen)
        order = axes if axes is None or order is None else tuple(axes[axis] for axis in order)
        seen = _source(seen, _COPIES)
    if order is None or not isinstance(seen, fx.Node) or op_name(seen.target) not in RESHAPES:
        return None, None
    sizes = tuple(map(int, seen.meta["val"].shape))
    x = _source(seen, (*RESHAPES, *_COPIES))
    is_new = len(sizes) > 4 or sizes[0] != 1
    is_read = isinstance(x, fx.Node) and isinstance(x.meta.get("val"), Tensor) and rank(x) in (3, 4)
    return (x, Rearrangement(sizes, order)) if is_new and is_read else (None, None)


def _source(node: fx.Node, names: Collection[str]) -> Any:
    """Return what a node reads, past operations of these names that nobody else reads."""
    found: Any = node.args[0]
    while isinstance(found, fx.Node) and op_name(found.target) in names and len(found.users) == 1:
        found = found.args[0]
    return found


def _is_of_one(node: fx.Node) -> bool:
    shape = node.meta["val"].shape
    return len(shape) in (2, 3, 4) and bool(shape[0] == 1)


def _is_taken_apart(node: fx.Node) -> bool:
    """Tell if a node gives several maps, one behind the other, each of which is selected: (2, 1, channels, ...)."""
    shape = node.meta["val"].shape
    selects = all(op_name(user.target) == "select" and user.args[1] == 0 for user in node.users)
    return len(shape) == 5 and bool(shape[1] == 1) and selects
