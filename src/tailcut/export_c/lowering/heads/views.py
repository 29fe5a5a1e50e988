"""Views of a traced network's tensors: from which place of which tensor each of their numbers is."""

import operator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, fx
from torch._ops import OpOverload

from tailcut.export_c.lowering.graph import op_name
from tailcut.export_c.lowering.sequences import PERMUTATIONS, RESHAPES

_PARTS = ("chunk", "narrow", "select", "slice", "split", "split_with_sizes", "t", "unbind", "expand", "expand_as")
_MOVED = {*PERMUTATIONS, *RESHAPES, *_PARTS}
_SAME = ("alias", "clone", "contiguous", "detach", "dropout", "lift_fresh_copy", "to", "type_as")
_FACTORS = ("mul", "div")


@dataclass(frozen=True, eq=False)
class View:
    """Where the numbers of a tensor are from.

    Attributes:
        base: what they are from, no view itself.
        places: for each number its place in `base`, all axes of that one behind the other.
        factor: what the numbers of `base` are multiplied by.
    """

    base: fx.Node
    places: Tensor
    factor: float = 1.0

    @property
    def is_in_order(self) -> bool:
        """True if the numbers are all those of `base`, in its order, unchanged."""
        flat = self.places.flatten()
        is_all = flat.numel() == self.base.meta["val"].numel() and self.factor == 1.0
        return is_all and torch.equal(flat, torch.arange(flat.numel()))


class Views:
    """The views of a graph.

    Args:
        constants: parameters, buffers, constants and what is computed from them, by the name of their node.
    """

    def __init__(self, constants: dict[str, Any]) -> None:
        self.constants = constants
        self._known: dict[fx.Node, Any] = {}

    def of(self, node: fx.Node) -> View:
        """Return where the numbers of a node that gives one tensor are from; factors are no part of the places."""
        found = self._of(node)
        return found if isinstance(found, View) else self._own(node)

    def say(self, node: fx.Node, view: View) -> None:
        """Take a node as this view."""
        self._known[node] = view

    def number(self, node: Any) -> float | None:
        """Return a number that does not depend on the input; None for anything else."""
        if isinstance(node, (int, float)):
            return float(node)
        value = self.constants.get(node.name) if isinstance(node, fx.Node) else None
        return float(value) if isinstance(value, Tensor) and value.numel() == 1 else None

    def _own(self, node: fx.Node) -> View:
        shape = node.meta["val"].shape
        return View(node, torch.arange(shape.numel()).reshape(shape))

    def _of(self, node: fx.Node) -> View | list[View]:
        if node not in self._known:
            self._known[node] = self._new(node)
        found: View | list[View] = self._known[node]
        return found

    def _new(self, node: fx.Node) -> View | list[View]:
        """Return the view that a node is, or its parts."""
        name, first = op_name(node.target), node.args[0] if node.op == "call_function" and node.args else None
        if not isinstance(first, fx.Node) or node.name in self.constants:
            return self._own(node)
        if node.target is operator.getitem:
            parts = self._of(first) if op_name(first.target) in _MOVED else None
            return parts[int(node.args[1])] if isinstance(parts, list) else self._own(node)  # type: ignore[arg-type]
        if name in _FACTORS:
            return self._scaled(node, name)
        if is_same(node):
            return self.of(first)
        if name not in _MOVED or not isinstance(node.target, OpOverload) or len(node.all_input_nodes) > 1:
            return self._own(node)
        source = self.of(first)
        made = node.target(source.places.contiguous(), *node.args[1:], **node.kwargs)
        if isinstance(made, Tensor):
            return replace(source, places=made)
        return [replace(source, places=part) for part in made]

    def _scaled(self, node: fx.Node, name: str) -> View:
        one, two = node.args[:2]
        if isinstance(one, fx.Node) and one.name in self.constants and name == "mul":
            one, two = two, one
        factor = self.number(two)
        is_same_shape = isinstance(one, fx.Node) and one.meta["val"].shape == node.meta["val"].shape
        if factor is None or not isinstance(one, fx.Node) or not is_same_shape or node.kwargs:
            return self._own(node)
        if name == "div" and factor == 0:
            return self._own(node)
        source = self.of(one)
        return replace(source, factor=source.factor * factor if name == "mul" else source.factor / factor)


def is_view(node: fx.Node) -> bool:
    """Return whether a node gives one tensor of numbers of its first argument."""
    is_known = node.target is operator.getitem or op_name(node.target) in (*_MOVED, *_SAME)
    return node.op == "call_function" and is_known and isinstance(node.meta.get("val"), Tensor)


def is_same(node: fx.Node) -> bool:
    """Return whether a node gives the numbers of its first argument in the same shape."""
    name = op_name(node.target)
    if node.op != "call_function" or name not in _SAME or not isinstance(node.args[0], fx.Node):
        return False
    one, two = node.args[0].meta["val"], node.meta["val"]
    is_training = name == "dropout" and bool(node.args[2] if len(node.args) > 2 else node.kwargs.get("train"))
    return one.shape == two.shape and one.dtype == two.dtype and not is_training
