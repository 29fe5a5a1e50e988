"""Traced graphs before they are lowered: names of their nodes, changes in place, means along rows and columns."""

import operator
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, fx
from torch._ops import OpOverload

from tailcut.errors import StructureError
from tailcut.export_c.lowering.sequences import PERMUTATIONS, RESHAPES, is_canonical

_MEANS = ("mean", "sum")

# What these give has the memory of what they take: where one is changed in place, so is the other.
PARTS = ("chunk", "getitem", "select", "slice", "split", "split_with_sizes")
_SAME = ("alias", "contiguous", "detach", "dropout", "expand", "expand_as", "feature_dropout", "to")
# What these give is nobody else's.
_FRESH = ("full", "full_like", "ones", "ones_like", "zeros", "zeros_like")
_VIEWS = {*_SAME, *PARTS, *PERMUTATIONS, *RESHAPES}


def check_changes_in_place(graph: fx.Graph) -> None:
    """Raise `StructureError` if a map is read that an operation in place has changed by another node, a view of it."""
    places = {node: place for place, node in enumerate(graph.nodes)}
    owner: dict[fx.Node, fx.Node] = {}
    for node, place in places.items():
        name = op_name(node.target)
        first = node.args[0] if node.args else None
        is_in_place = name.endswith("_") and not name.endswith("__")
        shares = node.op == "call_function" and isinstance(first, fx.Node) and (is_in_place or name in _VIEWS)
        owner[node] = owner[first] if shares and isinstance(first, fx.Node) else node
        if not shares or not is_in_place:
            continue
        others = [other for other, one in owner.items() if one is owner[node] and other is not node]
        if any(places[user] > place for other in others for user in other.users):
            raise StructureError(
                f"{name} ({layer_name(node)}) changes in place a map that is read by another name afterwards: take the "
                "operation that is not in place"
            )


def join_means(graph: fx.Graph) -> None:
    """Let a mean or sum along rows, then columns, or of flattened maps be one of the maps along both."""
    for node in list(graph.nodes):
        step, axes = (*node.args, None, None)[:2]
        if op_name(node.target) in _MEANS and isinstance(step, fx.Node) and axes and _is_first_half(step, node, axes):
            node.args = (step.args[0], [2, 3], *node.args[2:])
            if not step.users:
                graph.erase_node(step)


def _is_first_half(step: fx.Node, node: fx.Node, axes: Any) -> bool:
    """Return whether a mean or sum along `axes` of what a step gives is that of the step's map along both axes."""
    x, done = (*step.args, None, None)[:2]
    if not isinstance(x, fx.Node) or rank(x) != 4 or not is_canonical(x):
        return False
    shape, given = x.meta["val"].shape, step.meta["val"].shape
    left = [axis % len(given) for axis in axes]
    if op_name(step.target) in RESHAPES:
        return left == [2] and given == (*shape[:2], shape[2] * shape[3])
    if op_name(step.target) != op_name(node.target) or not isinstance(done, (list, tuple)):
        return False
    first = [axis % 4 for axis in done]
    return (first, left) in ([([2], [2]), ([3], [2])] if len(given) == 3 else [([2], [3]), ([3], [2])])


def computed(node: fx.Node, constants: Mapping[str, Any]) -> Any:
    """Return what a node makes of constants alone, always the same, a tensor or several; None for any other node."""
    target = node.target
    if any(one.name not in constants for one in node.all_input_nodes):
        return None
    if target is operator.getitem:
        return constants[node.args[0].name][node.args[1]]  # type: ignore[union-attr,index]
    if not isinstance(target, OpOverload) or torch.Tag.nondeterministic_seeded in target.tags:
        return None
    first = node.args[0] if node.args else None
    is_detached = target is torch.ops.aten.detach_.default  # of `torch.tensor` in a forward; it changes no number
    is_alone = isinstance(first, fx.Node) and op_name(first.target) in _FRESH and len(first.users) == 1
    if target._schema.is_mutable and not (is_detached or is_alone):
        return None

    def numbers(one: fx.Node) -> Any:
        given = constants[one.name]
        given = given.detach() if isinstance(given, Tensor) else given
        return given.clone() if target._schema.is_mutable and one is first else given

    args, kwargs = fx.node.map_arg((node.args, node.kwargs), numbers)
    made = target(*args, **kwargs)
    return made if isinstance(made, (Tensor, list, tuple)) else None


def op_name(target: Any) -> str:
    """Return the name of an operation of torch, without its overload."""
    if target is operator.getitem:
        return "getitem"
    return str(target).removeprefix("aten.").rpartition(".")[0] or str(target)


def layer_name(node: fx.Node) -> str:
    """Return the path of the innermost module whose forward has a node; of the network's own, that function's name."""
    stack = list((node.meta.get("nn_module_stack") or {}).values())
    path = next((str(entry[0]) for entry in reversed(stack) if entry[0]), "")
    own = f"{str(stack[0][1]).rpartition('.')[2]}.forward" if stack else node.name
    return path.removeprefix("L['self'].") or own


def rank(node: fx.Node) -> int:
    """Return the number of axes of what a node gives, 0 if it is several tensors."""
    given = node.meta["val"]
    return given.ndim if isinstance(given, Tensor) else 0


def is_empty(node: fx.Node) -> bool:
    """Return whether a node gives a tensor without a number."""
    given = node.meta.get("val")
    return isinstance(given, Tensor) and given.numel() == 0
