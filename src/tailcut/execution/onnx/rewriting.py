"""Operations that torch's exporter writes wrongly, or for one size alone, as others, before a program is lowered."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, fx
from torch._ops import OpOverload
from torch.export import ExportedProgram

from tailcut.errors import StructureError
from tailcut.execution.onnx.inlining import inserted, traced

_ATEN = torch.ops.aten
_ADAPTIVE_MEANS = ("adaptive_avg_pool1d", "adaptive_avg_pool2d", "adaptive_avg_pool3d")
_ADAPTIVE_MAXIMA = ("adaptive_max_pool1d", "adaptive_max_pool2d", "adaptive_max_pool3d")
_SQUEEZES = ("squeeze", "squeeze_")


def rewrite(program: ExportedProgram) -> None:
    """Replace such operations (changes the program).

    Raises:
        StructureError: an operation holds for the size that is traced alone.
    """
    _decompose_open_windows(program)
    for node in list(program.graph.nodes):
        if name_of(node) in _STABLE:
            _exchange(program, node, node, _STABLE[name_of(node)])
    settle_squeezes(program)


def settle_squeezes(program: ExportedProgram) -> None:
    """Write the axes that are squeezed, which torch's exporter takes to be 1: in torch others stay."""
    for node in list(program.graph.nodes):
        if name_of(node) in _SQUEEZES:
            _settle_squeeze(program, node)
    program.graph.lint()
    program.graph_module.recompile()


def squeezes_open_sizes(program: ExportedProgram) -> bool:
    """Return whether an axis of open size would vanish in torch where it is 1."""
    return any(
        isinstance(node.args[0].meta["val"].shape[axis], torch.SymInt)
        for node in program.graph.nodes
        if name_of(node) in _SQUEEZES
        for axis in _squeezed(node)
    )


def name_of(node: fx.Node) -> str:
    """Return the name of a node's operation in torch, without its namespace and overload; "" for anything else."""
    return node.target._schema.name.removeprefix("aten::") if isinstance(node.target, OpOverload) else ""


def _settle_squeeze(program: ExportedProgram, node: fx.Node) -> None:
    source: Any = node.args[0]
    shape = source.meta["val"].shape
    axes = [axis for axis in _squeezed(node) if not isinstance(shape[axis], torch.SymInt) and shape[axis] == 1]
    result = source
    if axes:
        with program.graph.inserting_before(node):
            result = program.graph.call_function(_ATEN.squeeze.dims, (source, axes))
        result.meta.update(node.meta)
    _replace(program, node, result)


def _squeezed(node: fx.Node) -> list[int]:
    """Return the axes that a squeeze names, or all: they vanish where they are 1."""
    num = node.args[0].meta["val"].ndim  # type: ignore[union-attr]
    given: Any = node.args[1] if len(node.args) > 1 else node.kwargs.get("dim", range(num))
    axes = [given] if isinstance(given, int) else list(given)
    return sorted({axis % num for axis in axes}) if num else []


def _log_sigmoid(x: Tensor) -> Tensor:
    """Return log(sigmoid(x)), which overflows for low x where it is written so."""
    return x.clamp(max=0) - torch.log1p(torch.exp(-x.abs()))


def _log_add_exp(x: Tensor, y: Tensor) -> Tensor:
    """Return log(exp(x) + exp(y)) without powers that overflow."""
    return torch.maximum(x, y) + torch.log1p(torch.exp(-(x - y).abs()))


def _log_cumsum_exp(x: Tensor, axis: int) -> Tensor:
    """Return the logarithms of the sums of exp(x) up to each place, each relative to the largest up to there."""
    x = x.movedim(axis, -1)
    later = torch.ones(x.shape[-1], x.shape[-1], dtype=torch.bool, device=x.device).triu(1)
    parts = x.unsqueeze(-2).masked_fill(later, -math.inf)
    largest = parts.amax(-1, keepdim=True).clamp(min=torch.finfo(x.dtype).min)
    return (largest + (parts - largest).exp().sum(-1, keepdim=True).log()).squeeze(-1).movedim(-1, axis)


_STABLE: dict[str, Callable[..., Any]] = {
    "log_sigmoid": _log_sigmoid,
    "logaddexp": _log_add_exp,
    "logcumsumexp": _log_cumsum_exp,
}


def _decompose_open_windows(program: ExportedProgram) -> None:
    """Replace adaptive pooling of maps of open size, which torch decomposes for the size that is traced alone."""
    graph = program.graph
    for node in list(graph.nodes):
        name = name_of(node)
        if name not in (*_ADAPTIVE_MEANS, *_ADAPTIVE_MAXIMA) or not _has_open_windows(node):
            continue
        if name in _ADAPTIVE_MEANS:
            _exchange(program, node, node, _adaptive_means)
            continue
        for item in list(node.users):  # the maxima, and their indices
            if item.args[1] == 0:
                _exchange(program, node, item, _adaptive_maxima)
            elif item.users:
                raise StructureError(
                    f"adaptive max pooling to {tuple(node.args[1])} gives indices, which have no form for maps of any "
                    "size; in Python tailcut.export_onnx writes it for one size alone, by its argument dynamic"
                )
            else:
                graph.erase_node(item)
        graph.erase_node(node)


def _exchange(program: ExportedProgram, node: fx.Node, result: fx.Node, target: Callable[..., Any]) -> None:
    """Replace `result` of a program, the node or an item of it, by what `target` makes of the node's arguments."""
    made, inputs = traced(node, target, {})
    graph = program.graph
    with graph.inserting_before(result):
        new = inserted(made, graph, inputs)
    _replace(program, result, new)


def _replace(program: ExportedProgram, node: fx.Node, new: fx.Node) -> None:
    """Let another node stand for a node, which is removed."""
    node.replace_all_uses_with(new)
    for spec in program.graph_signature.output_specs:
        if spec.arg.name == node.name:
            spec.arg.name = new.name
    program.graph.erase_node(node)


def _has_open_windows(node: fx.Node) -> bool:
    """Return whether adaptive pooling divides a map of open size into several windows."""
    sizes = node.args[1]
    return has_open_size(node) and any(size != 1 for size in sizes)  # type: ignore[union-attr]


def has_open_size(node: fx.Node) -> bool:
    """Return whether a size of the node's first argument may vary."""
    return any(isinstance(size, torch.SymInt) for size in node.args[0].meta["val"].shape)  # type: ignore[union-attr]


def _adaptive_means(x: Tensor, sizes: Sequence[int]) -> Tensor:
    """Adaptive average pooling for any size of x: torch's own decomposition holds for the size that is traced alone."""
    for axis, size in zip(range(-len(sizes), 0), sizes, strict=True):
        windows = _windows(x.shape[axis], size, x).to(x.dtype)
        x = (x.movedim(axis, -1) @ (windows / windows.sum(1, keepdim=True)).T).movedim(-1, axis)
    return x


def _adaptive_maxima(x: Tensor, sizes: Sequence[int]) -> Tensor:
    """Adaptive max pooling for any size of x, as `_adaptive_means`; axis by axis, since a maximum is one of maxima."""
    for axis, size in zip(range(-len(sizes), 0), sizes, strict=True):
        windows = _windows(x.shape[axis], size, x)
        x = x.movedim(axis, -1).unsqueeze(-2).masked_fill(~windows, -torch.inf).amax(-1).movedim(-1, axis)
    return x


def _windows(full: int, size: int, like: Tensor) -> Tensor:
    """Return which of `full` places belong to which of `size` windows of adaptive pooling, bool (size, full)."""
    windows = torch.arange(size, device=like.device)[:, None]
    start, stop = windows * full // size, ((windows + 1) * full + size - 1) // size
    places = torch.arange(full, device=like.device)
    return (places >= start) & (places < stop)
