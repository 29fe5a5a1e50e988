"""What a node of a traced program decomposes into, as nodes: traced by itself and put in its place."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import fx
from torch._dispatch.python import enable_python_dispatcher
from torch._ops import OpOverload
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils import _pytree as pytree

Table = Mapping[Any, Callable[..., Any]]
# What decompositions give in place of a view that changes nothing.
_SAME = (torch.ops.prims.view_of.default, torch.ops.aten.alias.default)


class NotLocal(Exception):  # noqa: N818 -- no error: the whole program is to be traced instead
    """A node cannot be decomposed by itself."""


def traced(node: fx.Node, target: Callable[..., Any], table: Table) -> tuple[fx.Graph, list[fx.Node]]:
    """Return the graph of what `target` does with a node's arguments, and the nodes that are its inputs."""
    leaves, spec = pytree.tree_flatten((node.args, dict(node.kwargs)))
    nodes = list(dict.fromkeys(leaf for leaf in leaves if isinstance(leaf, fx.Node)))

    def called(*values: Any) -> Any:
        known = dict(zip(nodes, values, strict=True))
        args, kwargs = pytree.tree_unflatten(
            [known.get(leaf, leaf) if isinstance(leaf, fx.Node) else leaf for leaf in leaves], spec
        )
        return target(*args, **kwargs)

    fakes = [each.meta["val"] for each in nodes]
    mode = next((fake.fake_mode for fake in fakes if isinstance(fake, torch._subclasses.FakeTensor)), None)
    if mode is None:
        raise NotLocal(f"{target} without tensors")
    with mode, enable_python_dispatcher():  # torch's kernels in C++ fix open sizes, those in Python keep them
        made = make_fx(called, decomposition_table=dict(table), _allow_non_fake_inputs=True)(*fakes)
    return made.graph, nodes


def inserted(graph: fx.Graph, into: fx.Graph, inputs: Sequence[Any]) -> Any:
    """Copy the nodes of a graph into another, where it inserts; return the graph's result there."""
    given = iter(inputs)
    inner: dict[fx.Node, Any] = {}
    for node in graph.nodes:
        if node.op == "placeholder":
            inner[node] = next(given)
        elif node.op == "output":
            result = pytree.tree_map(lambda each: inner[each] if isinstance(each, fx.Node) else each, node.args[0])
        elif node.op == "call_function" and node.target in _SAME:
            inner[node] = inner[node.args[0]]
        elif node.op == "call_function":
            if isinstance(node.target, OpOverload) and node.target._schema.is_mutable:
                raise NotLocal(str(node.target))
            inner[node] = into.node_copy(node, inner.__getitem__)
        else:
            raise NotLocal(node.op)
    return result
