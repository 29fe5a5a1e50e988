"""Operations of torch that are others in one: they are written out, so that each has one form."""

from collections.abc import Callable, Collection
from typing import Any

import torch
from torch import fx

from tailcut.export_c.lowering.graph import op_name, rank
from tailcut.export_c.lowering.sequences import PERMUTATIONS, name_as, new_node, of_constants

_aten = torch.ops.aten


def write_out_forms(graph: fx.Graph, constants: Collection[str]) -> None:
    """Let each operation that is made of others be those: `addmm` a linear layer, `narrow` a slice, and so on.

    Errors name the operation of the user's network. What has no such form is left as it is.

    Args:
        graph: of ATen operations; it is changed.
        constants: names of the placeholders that are parameters, buffers and constants.
    """
    fixed = of_constants(graph, constants)
    for node in list(graph.nodes):
        form = _FORMS.get(op_name(node.target)) if node.op == "call_function" and node not in fixed else None
        if form is None:
            continue
        maker = _Maker(graph, node, fixed)
        result = form(maker, *node.args, **node.kwargs)
        if result is not None:
            node.replace_all_uses_with(result)
        if not node.users:
            graph.erase_node(node)


class _Maker:
    """Inserts nodes before one, which is to be replaced."""

    def __init__(self, graph: fx.Graph, node: fx.Node, fixed: set[fx.Node]) -> None:
        self._graph, self.node, self._fixed = graph, node, fixed

    def __call__(self, target: Any, *args: Any) -> fx.Node:
        """Return a new node of this operation."""
        shaped = fx.node.map_arg(args, lambda one: torch.empty(one.meta["val"].shape, device="meta"))
        with self._graph.inserting_before(self.node):
            made = new_node(self._graph, target, args, target(*shaped), self.node)
        name_as(made, self.node.target)
        return made

    def is_fixed(self, one: Any) -> bool:
        """Return whether this is a parameter, a buffer or a constant, or made of those."""
        return isinstance(one, fx.Node) and one in self._fixed


_SAME = ("contiguous", "dropout", "relu", "squeeze")  # what may stand before a permutation
_Form = Callable[..., fx.Node | None]


def _narrow(make: _Maker, x: fx.Node, axis: int, start: Any, length: int) -> fx.Node | None:
    return make(_aten.slice.Tensor, x, axis, start, start + length, 1) if isinstance(start, int) else None


def _matmul(make: _Maker, x: fx.Node, weight: fx.Node) -> fx.Node | None:
    """Return a linear layer, if the second factor is a matrix of parameters."""
    if make.is_fixed(x) or not make.is_fixed(weight) or rank(weight) != 2 or rank(x) < 2:
        return None
    return make(_aten.linear.default, x, make(_aten.t.default, weight))


def _addmm(make: _Maker, bias: fx.Node, x: fx.Node, weight: fx.Node, **factors: float) -> fx.Node | None:
    product = None if any(factor != 1 for factor in factors.values()) else _matmul(make, x, weight)
    return None if product is None else make(_aten.add.Tensor, product, bias)


def _lerp(make: _Maker, one: fx.Node, two: fx.Node, weight: Any) -> fx.Node:
    multiply = _aten.mul.Tensor if isinstance(weight, fx.Node) else _aten.mul.Scalar
    return make(_aten.add.Tensor, one, make(multiply, make(_aten.sub.Tensor, two, one), weight))


def _addcmul(make: _Maker, x: fx.Node, one: fx.Node, two: fx.Node, value: float = 1) -> fx.Node:
    product = make(_aten.mul.Tensor, one, two)
    return make(_aten.add.Tensor, x, product if value == 1 else make(_aten.mul.Scalar, product, value))


def _maximum(make: _Maker, one: fx.Node, two: fx.Node) -> fx.Node | None:
    return _bounded_by_constant(make, one, two, is_lower_bound=True)


def _minimum(make: _Maker, one: fx.Node, two: fx.Node) -> fx.Node | None:
    return _bounded_by_constant(make, one, two, is_lower_bound=False)


def _bounded_by_constant(make: _Maker, one: fx.Node, two: fx.Node, *, is_lower_bound: bool) -> fx.Node | None:
    """Return a map within a bound, where one of both is constant: that is the bound."""
    if make.is_fixed(two):
        return _bounded(make, one, two, is_lower_bound=is_lower_bound)
    return _bounded(make, two, one, is_lower_bound=is_lower_bound) if make.is_fixed(one) else None


def _bounded(make: _Maker, x: fx.Node, bound: fx.Node, *, is_lower_bound: bool) -> fx.Node:
    """Return bound + relu(x - bound), which is not below the bound, or bound - relu(bound - x), not above it."""
    minuend, subtrahend = (x, bound) if is_lower_bound else (bound, x)
    distance = make(_aten.relu.default, make(_aten.sub.Tensor, minuend, subtrahend))
    return make(_aten.add.Tensor if is_lower_bound else _aten.sub.Tensor, bound, distance)


def _clamp(make: _Maker, x: fx.Node, min: Any = None, max: Any = None) -> fx.Node | None:
    """Return a map within bounds that are tensors; numbers are left to the operation's own form."""
    bounds = {True: min, False: max}
    given = {is_lower_bound: bound for is_lower_bound, bound in bounds.items() if bound is not None}
    if not given or not all(map(make.is_fixed, given.values())):
        return None
    for is_lower_bound, bound in given.items():
        x = _bounded(make, x, bound, is_lower_bound=is_lower_bound)
    return x


def _mean(make: _Maker, x: fx.Node, axes: Any = None, keepdim: bool = False, *, dtype: Any = None) -> fx.Node | None:
    return None if dtype is not None else _reduced(make, _aten.mean.dim, x, axes, keepdim)


def _sum(make: _Maker, x: fx.Node, axes: Any = None, keepdim: bool = False, *, dtype: Any = None) -> fx.Node | None:
    return None if dtype is not None else _reduced(make, _aten.sum.dim_IntList, x, axes, keepdim)


def _amax(make: _Maker, x: fx.Node, axes: Any = None, keepdim: bool = False) -> fx.Node | None:
    return _one_row(make, _aten.amax.default, x, axes, keepdim)


def _amin(make: _Maker, x: fx.Node, axes: Any = None, keepdim: bool = False) -> fx.Node | None:
    return _one_row(make, _aten.amin.default, x, axes, keepdim)


def _max(make: _Maker, x: fx.Node, axis: Any = None, keepdim: bool = False) -> None:
    _take_numbers(make, _aten.amax.default, x, axis, keepdim)


def _min(make: _Maker, x: fx.Node, axis: Any = None, keepdim: bool = False) -> None:
    _take_numbers(make, _aten.amin.default, x, axis, keepdim)


def _take_numbers(make: _Maker, target: Any, x: fx.Node, axis: Any, keepdim: bool) -> None:
    """Let what reads the largest or smallest numbers along an axis read those of `target`, if none reads places."""
    parts = list(make.node.users)
    if not isinstance(axis, int) or any(part.users and part.args[1] != 0 for part in parts):
        return
    for part in parts:
        if part.users:
            row = _one_row(make, target, x, axis, keepdim, part.users)
            part.replace_all_uses_with(make(target, x, [axis], keepdim) if row is None else row)
        part.graph.erase_node(part)


def _reduced(make: _Maker, target: Any, x: fx.Node, axes: Any, keepdim: bool) -> fx.Node | None:
    """Return the mean or sum along channels, rows and columns: of the rows and columns first."""
    if isinstance(axes, (list, tuple)) and sorted(axis % max(rank(x), 1) for axis in axes) == [1, 2, 3]:
        return make(target, make(target, x, [2, 3], keepdim), [1], keepdim)
    return _one_row(make, target, x, axes, keepdim)


def _one_row(
    make: _Maker, target: Any, x: fx.Node, axes: Any, keepdim: bool, users: Collection[fx.Node] | None = None
) -> fx.Node | None:
    """Return a map's only row as a sequence whose axes are permuted: with its axis, which is left out afterwards.

    `users` are the nodes that read the row: those of the operation itself when None.
    """
    given = list(axes) if isinstance(axes, (list, tuple)) else [axes]
    is_row = rank(x) == 4 and given in ([2], [-2]) and not keepdim
    readers = make.node.users if users is None else users
    if not is_row or not all(op_name(user.target) in (*PERMUTATIONS, *_SAME) for user in readers):
        return None
    return make(_aten.squeeze.dim, make(target, x, [2], True), 2)


def _nearest_exact(make: _Maker, x: fx.Node, size: Any, scales: Any) -> fx.Node | None:
    """Return the nearest rows and columns, which are the same ones where each is repeated equally often."""
    given, wanted = (one.meta["val"].shape[2:] for one in (x, make.node))
    is_whole = all(new % old == 0 for old, new in zip(given, wanted, strict=True))
    return make(_aten.upsample_nearest2d.vec, x, size, scales) if is_whole else None


def _repeat(make: _Maker, x: fx.Node, times: Any) -> fx.Node | None:
    """Return copies side by side."""
    if len(times) != rank(x) or min(times) < 1:
        return None
    for axis, count in enumerate(times):
        x = x if count == 1 else make(_aten.cat.default, [x] * count, axis)
    return x


def _softshrink(make: _Maker, x: fx.Node, bound: float = 0.5) -> fx.Node:
    return make(_aten.sub.Tensor, x, make(_aten.clamp.default, x, -bound, bound))


def _unbind(make: _Maker, x: fx.Node, axis: int = 0) -> None:
    """Let what is taken of the parts be selected."""
    for part in list(make.node.users):
        part.replace_all_uses_with(make(_aten.select.int, x, axis, part.args[1]))
        part.graph.erase_node(part)


def _not_in_place(make: _Maker, *args: Any) -> fx.Node:
    """Return the view that an operation makes of its map in place: no number changes."""
    target: Any = make.node.target
    packet = getattr(_aten, op_name(target).removesuffix("_"))
    return make(getattr(packet, target._overloadname), *args)


_FORMS: dict[str, _Form] = {
    "addcmul": _addcmul,
    "addmm": _addmm,
    "amax": _amax,
    "amin": _amin,
    "clamp": _clamp,
    "lerp": _lerp,
    "matmul": _matmul,
    "max": _max,
    "maximum": _maximum,
    "mean": _mean,
    "min": _min,
    "minimum": _minimum,
    "mm": _matmul,
    "narrow": _narrow,
    "repeat": _repeat,
    "softshrink": _softshrink,
    "squeeze_": _not_in_place,
    "sum": _sum,
    "transpose_": _not_in_place,
    "unbind": _unbind,
    "unsqueeze_": _not_in_place,
    "_upsample_nearest_exact2d": _nearest_exact,
}
