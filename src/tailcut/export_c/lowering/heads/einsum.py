"""Products by letters, `einsum`, as products of matrices: as attention has them."""

from typing import Any

import torch
from torch import fx

from tailcut.export_c.lowering.graph import op_name
from tailcut.export_c.lowering.sequences import new_node

_aten = torch.ops.aten


def write_out(graph: fx.Graph) -> None:
    """Let each `einsum` of two tensors that is a product of matrices be `matmul` of their permuted axes."""
    for node in list(graph.nodes):
        if op_name(node.target) == "einsum":
            _write_out(graph, node)


def orders_of(equation: str) -> tuple[str, str, str, str] | None:
    """Return the letters of both factors and of the product as matrices, and those of the result.

    None if one letter is not summed over, or if the tensors have no rows and columns of one letter each.

    >>> orders_of("bnhd,bmhd->bhnm")
    ('bhnd', 'bhdm', 'bhnm', 'bhnm')
    """
    given, arrow, result = equation.replace(" ", "").partition("->")
    factors = given.split(",")
    letters = "".join(factors)
    if len(factors) != 2 or not arrow or not letters.isalpha() or any(len(set(one)) < len(one) for one in factors):
        return None
    one, two = factors
    batch = [letter for letter in result if letter in one and letter in two]
    rows = [letter for letter in one if letter in result and letter not in two]
    columns = [letter for letter in two if letter in result and letter not in one]
    summed = [letter for letter in one if letter in two and letter not in result]
    if [len(rows), len(columns), len(summed)] != [1, 1, 1] or len(result) != len(batch) + 2:
        return None
    if len(one) != len(batch) + 2 or len(two) != len(batch) + 2:
        return None
    (row,), (column,), (inner,), heads = rows, columns, summed, "".join(batch)
    return heads + row + inner, heads + inner + column, heads + row + column, result


def _write_out(graph: fx.Graph, node: fx.Node) -> None:
    equation, factors = node.args[:2]
    orders = orders_of(str(equation)) if isinstance(factors, (list, tuple)) and len(factors) == 2 else None
    if orders is None:
        return
    given = str(equation).replace(" ", "").partition("->")[0].split(",")

    def made(target: Any, args: tuple[Any, ...], shape: tuple[int, ...]) -> fx.Node:
        with graph.inserting_before(node):
            return new_node(graph, target, args, torch.empty(shape, device="meta"), node)

    def permuted(source: fx.Node, own: str, wanted: str) -> fx.Node:
        axes, shape = [own.index(letter) for letter in wanted], source.meta["val"].shape
        is_same = axes == sorted(axes)
        return (
            source if is_same else made(_aten.permute.default, (source, axes), tuple(int(shape[axis]) for axis in axes))
        )

    one, two = (
        permuted(source, own, wanted)
        for source, own, wanted in zip(factors, given, orders, strict=False)  # type: ignore[arg-type]
    )
    shape = (*one.meta["val"].shape[:-1], two.meta["val"].shape[-1])
    product = made(_aten.matmul.default, (one, two), shape)
    product.meta |= {key: node.meta[key] for key in ("source_fn_stack",) if key in node.meta}
    node.replace_all_uses_with(permuted(product, orders[2], orders[3]))
    graph.erase_node(node)
