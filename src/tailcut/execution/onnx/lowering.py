"""Decomposition of a traced program into operations of ONNX, node by node. Needs the extra `onnx`.

Torch's own `ExportedProgram.run_decompositions` traces the whole program again, three times. With open sizes this
takes most of an export's time, although nearly all operations stay as they are. Here only those that change are looked
at: operations in place become the same out of place, and those without a form in ONNX are traced one at a time.
"""

import copy
import functools
import itertools
import operator
from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor, fx
from torch._ops import OpOverload
from torch.export import ExportedProgram
from torch.utils import _pytree as pytree

from tailcut.execution.onnx.inlining import NotLocal, Table, inserted, traced
from tailcut.execution.onnx.rewriting import has_open_size, name_of, rewrite

_ATEN = torch.ops.aten
# In place, they give what the operation of the same name without "_" gives, when all tensors are of one float type.
_ELEMENTWISE = {
    *("relu_", "relu6_", "hardtanh_", "hardswish_", "hardsigmoid_", "silu_", "elu_", "leaky_relu_", "selu_", "celu_"),
    *("mish_", "gelu_", "sigmoid_", "tanh_", "add_", "sub_", "mul_", "div_", "neg_", "exp_", "sqrt_", "abs_"),
    *("clamp_", "clamp_min_", "clamp_max_", "threshold_"),
}
_CHECKS = ("_assert_tensor_metadata", "_assert_scalar", "_assert_async", "sym_constrain_range_for_size")
# Composite operations whose result is never an input or a view of one.
_FRESH = {
    *("conv1d", "conv2d", "conv3d", "conv_transpose1d", "conv_transpose2d", "conv_transpose3d", "batch_norm"),
    *("linear", "layer_norm", "group_norm", "instance_norm", "matmul", "max_pool2d", "silu", "relu6", "softmax"),
    *("scaled_dot_product_attention", "embedding", "hardswish", "conv2d.padding", "selu"),
}
# Composite operations that torch's exporter knows as they are.
_ENLARGEMENTS = {_ATEN.upsample_nearest2d.vec, _ATEN.upsample_bilinear2d.vec}
_PARTS = (_ATEN.chunk.default, _ATEN.split.Tensor, _ATEN.tensor_split.sections)
_TRANSPOSED = (_ATEN.conv_transpose1d.default, _ATEN.conv_transpose2d.input, _ATEN.conv_transpose3d.input)


def lower_locally(program: ExportedProgram) -> None:
    """Let `program` be decomposed node by node where that gives the same; else as torch does it (in place).

    What torch's exporter would write wrongly is rewritten at once.

    Raises:
        StructureError: an operation holds for the size that is traced alone.
    """
    rewrite(program)
    program.run_decompositions = functools.partial(_decomposed, program, program.run_decompositions)


def _decomposed(
    program: ExportedProgram, whole: Callable[..., ExportedProgram], decomp_table: Table | None = None, **options: Any
) -> ExportedProgram:
    if decomp_table is None or options:
        return whole(decomp_table, **options)
    try:
        graph = _Lowering(program.graph_module.graph, decomp_table).run()
    except NotLocal:
        return whole(decomp_table)
    lowered = copy.copy(program)
    lowered._graph_module = fx.GraphModule(program.graph_module, graph)
    lowered._graph_module.meta.update(program.graph_module.meta)
    lowered._graph_signature = copy.deepcopy(program.graph_signature)
    signature = lowered._graph_signature
    inputs = [node for node in graph.nodes if node.op == "placeholder"]
    outputs = pytree.tree_leaves(graph.output_node().args[0])
    for specs, nodes in ((signature.input_specs, inputs), (signature.output_specs, outputs)):
        for spec, node in zip(cast("list[Any]", specs), nodes, strict=True):
            if isinstance(node, fx.Node):
                spec.arg.name = node.name
    return lowered


class _Lowering:
    """A graph that is rewritten node by node.

    Attributes:
        new: the new graph.
        values: what stands for each node of the old graph in the new one; after an operation in place, its result.
        storage: by node of the old graph, the nodes that may share their numbers with it, itself included.
    """

    def __init__(self, graph: fx.Graph, table: Table) -> None:
        self.old = graph
        self.new = fx.Graph()
        self.table = table
        self.known = set(torch.export.default_decompositions())
        self.values: dict[fx.Node, Any] = {}
        self.storage: dict[fx.Node, set[fx.Node]] = {}
        self.place = {node: number for number, node in enumerate(graph.nodes)}

    def run(self) -> fx.Graph:
        """Return the new graph.

        Raises:
            NotLocal: it takes more than one node to tell.
        """
        for node in self.old.nodes:
            self._note_storage(node)
            if node.op == "call_function":
                self.values[node] = self._call(node)
            elif node.op in ("placeholder", "output"):
                self.values[node] = self._copied(node)
            else:
                raise NotLocal(node.op)
        for node in list(self.new.nodes):
            if node.target is _ATEN.sym_numel.default:
                _write_as_sizes(node)
        self.new.eliminate_dead_code()
        self.new.lint()
        return self.new

    def _copied(self, node: fx.Node) -> fx.Node:
        return self.new.node_copy(node, self.values.__getitem__)

    def _call(self, node: fx.Node) -> Any:
        target = node.target
        if target is operator.getitem and isinstance(self.values[node.args[0]], (list, tuple)):  # type: ignore[index]
            return self.values[node.args[0]][node.args[1]]  # type: ignore[index]
        if not isinstance(target, OpOverload):
            if isinstance(target, torch._ops.HigherOrderOperator):
                raise NotLocal(str(target))
            return self._copied(node)  # of Python's operators: on sizes, or an item of a tuple
        name = name_of(node)
        if name in _CHECKS:
            return None
        if name in ("detach_", "dropout", "dropout_", "feature_dropout", "alpha_dropout"):
            if name != "detach_" and node.args[2]:
                raise NotLocal(name)
            return self.values[node.args[0]]  # type: ignore[index]
        if name == "batch_norm":
            return self._batch_norm(node)
        if target in _TRANSPOSED and _pads_beyond_stride(*node.args, **node.kwargs):
            return self._inlined(node, functools.partial(_padded_behind, target))
        if target is _ATEN.scaled_dot_product_attention.default and node.args[0].meta["val"].ndim != 4:  # type: ignore[union-attr]
            return self._inlined(node, _attention)
        if target in _PARTS and has_open_size(node):
            return self._inlined(node, functools.partial(_parts, target, len(node.meta["val"])))
        if target._schema.is_mutable:
            return self._out_of_place(node, name)
        return self._functional(node, target)

    def _functional(self, node: fx.Node, target: OpOverload) -> Any:
        is_composite = target.has_kernel_for_dispatch_key(torch._C.DispatchKey.CompositeImplicitAutograd)
        if target in self.table or (is_composite and target not in self.known and target not in _ENLARGEMENTS):
            return self._inlined(node, target)
        copied = self._copied(node)
        copied.target = target
        return copied

    def _out_of_place(self, node: fx.Node, name: str) -> Any:
        base, target = node.args[0], node.target
        tensors = [value for value in pytree.tree_leaves(_fakes((node.args, node.kwargs))) if isinstance(value, Tensor)]
        if name not in _ELEMENTWISE or not isinstance(base, fx.Node) or not isinstance(target, OpOverload):
            raise NotLocal(name)
        if not base.meta["val"].is_floating_point() or any(value.dtype != tensors[0].dtype for value in tensors):
            raise NotLocal(f"{name} on tensors of several types")
        for shared in self.storage[base]:
            # Both names of the tensor itself get the new value; a view of it would have to be made again.
            is_used = any(self.place[user] > self.place[node] for user in shared.users)
            if shared.op == "placeholder" or (
                is_used and self.values.get(shared, None) is not self.values[base] and shared is not node
            ):
                raise NotLocal(f"{name} on a tensor that is seen in other ways")
        functional = getattr(getattr(_ATEN, name[:-1]), target._overloadname, None)
        if functional is None:
            raise NotLocal(name)
        before = self.values[base]
        result = self._functional(node, functional)
        for shared in self.storage[base]:
            if self.values.get(shared) is before:
                self.values[shared] = result
        return result

    def _batch_norm(self, node: fx.Node) -> fx.Node:
        source, weight, bias, mean, var, training, momentum, eps = node.args[:8]
        value = node.meta["val"]
        given = [None if each is None else self.values[each] for each in (source, weight, bias)]  # type: ignore[index]
        if training:
            if mean is not None or var is not None:
                raise NotLocal("batch norm that writes its statistics")
            target = _ATEN._native_batch_norm_legit.no_stats
            made = self.new.call_function(target, (*given, True, momentum, eps))
            num = value.shape[1]
        else:
            target = _ATEN._native_batch_norm_legit_no_training.default
            stored = [self.values[each] for each in (mean, var)]  # type: ignore[index]
            made = self.new.call_function(target, (*given, *stored, momentum, eps))
            num = 0
        made.meta["val"] = (value, value.new_empty(num), value.new_empty(num))
        item = self.new.call_function(operator.getitem, (made, 0))
        item.meta["val"] = value
        return item

    def _inlined(self, node: fx.Node, target: Callable[..., Any]) -> Any:
        """Replace a node by the nodes that it decomposes into."""
        graph, nodes = traced(node, target, self.table)
        return inserted(graph, self.new, [self.values[each] for each in nodes])

    def _note_storage(self, node: fx.Node) -> None:
        """Record the nodes that a node may be a view of."""
        joined = {node}
        if node.op == "call_function" and not _is_fresh(node):
            for source in _sources(node):
                joined |= self.storage[source]
        for each in joined:
            self.storage[each] = joined


def _attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None = None,
    dropout: float = 0.0,
    is_causal: bool = False,
    *,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """Attention of any number of axes in its parts: torch's exporter knows four."""
    if dropout or enable_gqa:
        raise NotLocal("attention with dropout or fewer keys than queries")
    scores = query @ key.mT * (query.shape[-1] ** -0.5 if scale is None else scale)
    if is_causal:
        mask = torch.ones(scores.shape[-2:], dtype=torch.bool, device=query.device).tril()
    if mask is not None:
        scores = scores.masked_fill(~mask, -torch.inf) if mask.dtype == torch.bool else scores + mask
    return scores.softmax(-1) @ value


def _pads_beyond_stride(
    x: Any,
    weight: Any,
    bias: Any = None,
    stride: Any = 1,
    padding: Any = 0,
    output_padding: Any = 0,
    *_: Any,
    **__: Any,
) -> bool:
    """Return whether a transposed convolution has an output padding that ONNX lacks: its stride or more."""
    num = weight.meta["val"].ndim - 2
    return any(more >= step for more, step in zip(_each(output_padding, num), _each(stride, num), strict=True))


def _padded_behind(
    target: OpOverload,
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    output_padding: Any = 0,
    groups: int = 1,
    dilation: Any = 1,
) -> Tensor:
    """Transposed convolution whose output is cut and padded by an operation of its own, before the bias."""
    num = weight.ndim - 2
    ends = zip(_each(padding, num), _each(output_padding, num), strict=True)
    pads = [number for before, more in [*ends][::-1] for number in (-before, more - before)]
    whole = target(x, weight, None, stride, [0] * num, [0] * num, groups, dilation)
    made: Tensor = _ATEN.constant_pad_nd.default(whole, pads)
    return made if bias is None else made + bias.reshape(-1, *(1,) * num)


def _each(given: Any, num: int) -> list[int]:
    """Return the numbers along each axis, of one for all or one for each."""
    numbers = list(given) if isinstance(given, (list, tuple)) else [given]
    return numbers * num if len(numbers) == 1 else numbers


def _parts(target: OpOverload, count: int, x: Tensor, number: int, axis: int = 0) -> list[Tensor]:
    """Split x as torch does, by slices: of parts whose sizes are open, torch's exporter makes a graph that fails."""
    full, inner = x.shape[axis], range(1, count)
    if target is _ATEN.tensor_split.sections:  # the first parts have one more, as many as remain
        rest = full % number
        more = [(rest + number - place) // number for place in inner]
        bounds = [place * (full // number) + sum(more[:place]) for place in inner]
    else:
        size = (full + number - 1) // number if target is _ATEN.chunk.default else number
        bounds = [place * size for place in inner]
    return [_ATEN.slice.Tensor(x, axis, *ends) for ends in itertools.pairwise([0, *bounds, full])]


def _write_as_sizes(node: fx.Node) -> None:
    """Replace a count of all numbers, for which torch's exporter has no form, by the product of the sizes."""
    (source,) = node.all_input_nodes
    shape, graph = source.meta["val"].shape, node.graph
    product: Any = 1
    with graph.inserting_before(node):
        for axis in range(len(shape)):
            size = graph.call_function(_ATEN.sym_size.int, (source, axis))
            size.meta["val"] = shape[axis]
            if axis:
                value = product.meta["val"] * shape[axis]
                product = graph.call_function(operator.mul, (product, size))
                product.meta["val"] = value
            else:
                product = size
    node.replace_all_uses_with(product)


def _is_fresh(node: fx.Node) -> bool:
    """Return whether the node's result surely has numbers of its own."""
    target = node.target
    if not isinstance(target, OpOverload):
        return False
    if any(returned.alias_info is not None for returned in target._schema.returns):
        return False
    if name_of(node) in _FRESH:
        return True
    return not target.has_kernel_for_dispatch_key(torch._C.DispatchKey.CompositeImplicitAutograd)


def _sources(node: fx.Node) -> list[fx.Node]:
    """Return the inputs that the node's result may be a view of."""
    target = node.target
    if not isinstance(target, OpOverload) or all(each.alias_info is None for each in target._schema.arguments):
        return node.all_input_nodes
    given = dict(zip([each.name for each in target._schema.arguments], node.args, strict=False)) | node.kwargs
    shared = [given.get(each.name) for each in target._schema.arguments if each.alias_info is not None]
    return [leaf for leaf in pytree.tree_leaves(shared) if isinstance(leaf, fx.Node)]


def _fakes(args: Any) -> Any:
    return fx.node.map_arg(args, lambda node: node.meta.get("val"))
