"""The scores of attention that is written out: from its softmax back to the product of queries and keys."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx

from tailcut.errors import StructureError
from tailcut.export_c.lowering.graph import op_name
from tailcut.export_c.lowering.heads.views import View, Views, is_same
from tailcut.export_c.lowering.sequences import RESHAPES, permutation_of


def softmax_of(node: Any, *, is_turned: bool = False) -> fx.Node | None:
    """Return the softmax along the last axis that a node gives, its last two axes swapped if `is_turned`; or None."""
    has_turned = False
    while isinstance(node, fx.Node) and node.op == "call_function":
        if op_name(node.target) == "softmax":
            axis, count = node.args[1], node.meta["val"].ndim
            is_last = isinstance(axis, int) and axis % count == count - 1
            return node if is_last and has_turned == is_turned else None
        axes = permutation_of(node)
        if axes is not None and axes == (*range(len(axes) - 2), len(axes) - 1, len(axes) - 2):
            has_turned = not has_turned
        elif not is_same(node) and not _is_of_heads(node):
            return None
        node = node.args[0]
    return None


def _is_of_heads(node: fx.Node) -> bool:
    """Return whether a node gives matrices as they are, their heads along other axes."""
    first = node.args[0]
    if op_name(node.target) not in RESHAPES or not isinstance(first, fx.Node):
        return False
    return bool(first.meta["val"].shape[-2:] == node.meta["val"].shape[-2:])


@dataclass(eq=False)
class Scores:
    """Scores: factor times the products of queries and keys, and a mask.

    Attributes:
        query, key: (..., tokens, channels of a head).
        factor: of the products.
        mask: (heads or 1, tokens, tokens), None for nothing.
    """

    query: View
    key: View
    factor: float = 1.0
    mask: Tensor | None = None

    @classmethod
    def of(cls, softmax: fx.Node, views: Views, name_of: Callable[[fx.Node], str]) -> "Scores | None":
        """Return the scores that a softmax reads; None if these are no products of matrices.

        Raises:
            StructureError: they are, and something else is done to them.
        """
        node, factor, mask = softmax.args[0], 1.0, torch.zeros(1, 1, 1, dtype=torch.float64)
        while isinstance(node, fx.Node) and node.op == "call_function":
            name, size = op_name(node.target), node.meta["val"].shape
            step = _step(node, name, views)
            if step is None:
                return None if not _has_product(node) else _refuse(node, name_of)
            if step.mask is not None:
                added = step.mask.to(torch.float64).expand(size).reshape(-1, *size[-2:])
                mask = mask + torch.where(added.isinf(), added, factor * added)
            factor *= step.factor
            if step.product is not None:
                one, two = (views.of(part) for part in step.product)
                key = View(two.base, two.places.mT, two.factor)
                return cls(one, key, factor, mask if mask.any() else None)
            node = step.source
        return None


@dataclass(frozen=True, eq=False)
class _Step:
    """What a node does to scores: factor * source + mask; or the product of two that it is."""

    source: Any = None
    factor: float = 1.0
    mask: Tensor | None = None
    product: tuple[fx.Node, fx.Node] | None = None


def _step(node: fx.Node, name: str, views: Views) -> _Step | None:
    """Return what a node does to scores, None if that has no form."""
    args = node.args
    if name in ("matmul", "bmm"):
        return _Step(product=(args[0], args[1]))  # type: ignore[arg-type]
    if name == "baddbmm" and not node.kwargs:
        mask = _constant(args[0], views)
        return None if mask is None else _Step(mask=mask, product=(args[1], args[2]))  # type: ignore[arg-type]
    if is_same(node) or _is_of_heads(node):
        return _Step(args[0])
    if name in ("mul", "div", "add", "sub"):
        return _arithmetic(node, name, views)
    if name in ("masked_fill", "masked_fill_"):
        return _filled(args[0], args[1], args[2], views, is_kept=False)
    if name == "where" and len(args) == 3:
        is_kept = _constant(args[1], views) is None
        source, fill = (args[1], args[2]) if is_kept else (args[2], args[1])
        return _filled(source, args[0], fill, views, is_kept=is_kept)
    return None


def _arithmetic(node: fx.Node, name: str, views: Views) -> _Step | None:
    one, two = node.args[:2]
    if name in ("mul", "add") and _constant(one, views) is not None:
        one, two = two, one
    numbers = _constant(two, views)
    is_scores = isinstance(one, fx.Node) and one.meta["val"].shape == node.meta["val"].shape
    if numbers is None or not is_scores or node.kwargs:
        return None
    if name in ("add", "sub"):
        return _Step(one, mask=numbers if name == "add" else -numbers)
    factor = views.number(two)
    if factor is None or factor == 0:
        return None
    return _Step(one, factor if name == "mul" else 1 / factor)


def _filled(source: Any, where: Any, fill: Any, views: Views, *, is_kept: bool) -> _Step | None:
    """Return the step that fills numbers in: below any other, so that they have no weight."""
    mask, number = _constant(where, views), views.number(fill)
    if mask is None or number is None or number > LEAST or not isinstance(source, fx.Node):
        return None
    hidden = mask == 0 if is_kept else mask != 0
    return _Step(source, mask=torch.zeros(mask.shape, dtype=torch.float64).masked_fill(hidden, -torch.inf))


LEAST = -1e4
"""Scores that are filled in are at most this: exp of it is 0."""


def _constant(node: Any, views: Views) -> Tensor | None:
    if isinstance(node, (int, float)):
        return torch.tensor(float(node))
    found = views.constants.get(node.name) if isinstance(node, fx.Node) else None
    return found if isinstance(found, Tensor) else None


def _has_product(node: fx.Node) -> bool:
    """Return whether a node is made of a product of matrices by operations of each number."""
    seen, left = set(), [node]
    while left:
        one = left.pop()
        if op_name(one.target) in ("matmul", "bmm", "baddbmm"):
            return True
        seen.add(one)
        shape = one.meta["val"].shape if isinstance(one.meta.get("val"), Tensor) else ()
        left += [
            other
            for other in one.all_input_nodes
            if other not in seen and isinstance(other.meta.get("val"), Tensor) and other.meta["val"].shape == shape
        ]
    return False


def _refuse(node: fx.Node, name_of: Callable[[fx.Node], str]) -> "Scores":
    raise StructureError(
        f"{name_of(node)}: changes the scores of attention; C code knows a factor, constants that are added, and "
        "constant masks"
    )
