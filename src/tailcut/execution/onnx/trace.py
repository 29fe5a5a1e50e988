"""A network as an ONNX program with dense weights: torch.export, then torch's ONNX exporter. Needs the extra `onnx`."""

from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any, Literal

import onnx_ir as ir
import torch
from torch import Tensor, nn

from tailcut.errors import StructureError, TailcutError
from tailcut.execution.onnx.call import Call, Flat, first_line
from tailcut.execution.onnx.lowering import lower_locally
from tailcut.execution.onnx.rewriting import settle_squeezes, squeezes_open_sizes
from tailcut.execution.onnx.tidy import name_outputs
from tailcut.structure.copying import deepcopied

Axis = tuple[int, int]
Tell = Callable[[str], object]
_AVERAGES = (torch.ops.aten.avg_pool2d.default, torch.ops.aten.avg_pool3d.default)
_PREFIX = "network."  # of the tensors of `Flat`


def trace(
    dense: nn.Module,
    call: Call,
    *,
    opset: int,
    dynamic: bool | Literal["batch"],
    tell: Tell = lambda stage: None,
) -> ir.Model:
    """Trace a dense network, not changed, in evaluation mode by a call's example; for the rest see `export_onnx`.

    Returns:
        The program, not optimised; its initializers have the names of the network's state_dict, its inputs and outputs
        those of the call.

    Raises:
        ArgumentError: the network does not take the example.
        StructureError: it cannot be traced, returns what is no tensor, or has no form in ONNX.
    """
    tell("running the example")
    outputs = call.outputs(dense)
    example = call.tensors
    groups: list[list[Axis]] = []
    if dynamic:
        tell("finding the sizes that may vary")
        example = _doubled(dense, call)
        groups = _open_axes(dense, call, example, batch_only=dynamic == "batch")
    try:
        program = _program(Flat(dense, call), example, call.tensors, groups, opset, tell)
    except TailcutError:
        raise
    except Exception as error:
        why = "torch.export must be able to trace the network, without branches on the values of tensors"
        raise refusal(dense, error, why) from error
    _rename(program.graph, call.names, outputs)
    return program


def _program(
    network: Flat,
    example: Sequence[Tensor],
    given: Sequence[Tensor],
    groups: Sequence[Sequence[Axis]],
    opset: int,
    tell: Tell,
) -> ir.Model:
    """Return the program, traced by the example, which may hold a batch of one that was `given` twice."""
    tell("tracing")
    open_axes = {axis for group in groups for axis in group}
    traced, strict = _most_open(network, example, open_axes)
    runs = traced.module(check_guards=False)
    branched = [group for group in groups if _is_branched(network, traced, runs, example, group)]
    if branched:  # what torch.export recorded as conditions, ONNX cannot check
        open_axes = open_axes.difference(*branched)
        traced = _exported(network, example, open_axes, strict=strict)
    doubled = {(n, 0) for n, value in enumerate(example) if value.shape != given[n].shape}
    # The program would take a batch of two alone, or keep an axis that a batch of one squeezes.
    if not doubled <= _still_open(traced, example) or (doubled and squeezes_open_sizes(traced)):
        example, open_axes = given, open_axes - doubled
        traced = _exported(network, example, open_axes, strict=strict)
    lower_locally(traced)
    tell("converting")
    options = {"dynamo": True, "optimize": False, "opset_version": opset, "verbose": False}
    try:
        program = torch.onnx.export(traced, (), **options)  # type: ignore[arg-type]
    except Exception:  # noqa: BLE001 -- torch's own decomposition may succeed, or says why not
        traced = _exported(network, example, open_axes, strict=strict)
        settle_squeezes(traced)
        try:
            program = torch.onnx.export(traced, (), **options)  # type: ignore[arg-type]
        except Exception as error:
            raise refusal(network.network, error, "torch's exporter to ONNX has no form of this") from error
    if program is None:
        raise StructureError(f"{type(network.network).__name__} cannot be exported: torch's exporter returned nothing")
    return program.model


def _most_open(
    network: nn.Module, example: Sequence[Tensor], open_axes: Collection[Axis]
) -> tuple[torch.export.ExportedProgram, bool]:
    """Return the program, traced so that most axes stay open, and whether torch.compile's tracer did that.

    To the usual tracer `len(x)` is a plain number, to that of torch.compile a size; but it takes longer, and less code.
    """
    traced = _exported(network, example, open_axes)
    found = _still_open(traced, example)
    if found >= set(open_axes):
        return traced, False
    try:
        other = _exported(network, example, open_axes, strict=True)
    except Exception:  # noqa: BLE001 -- the network can be traced as it was
        return traced, False
    return (other, True) if _still_open(other, example) > found else (traced, False)


def _still_open(traced: torch.export.ExportedProgram, example: Sequence[Tensor]) -> set[Axis]:
    inputs = _input_shapes(traced, example)
    sizes = ((n, axis, size) for n, shape in enumerate(inputs) for axis, size in enumerate(shape))
    # A size that became fixed in the end is a symbol for one number.
    return {(n, axis) for n, axis, size in sizes if isinstance(size, torch.SymInt) and not size.node.expr.is_number}


def _input_shapes(
    traced: torch.export.ExportedProgram, example: Sequence[Tensor]
) -> list[Sequence[int | torch.SymInt]]:
    """Return the shapes of the inputs, behind those of the parameters; open sizes are symbols."""
    return [node.meta["val"].shape for node in traced.graph.find_nodes(op="placeholder")][-len(example) :]


def _exported(
    network: nn.Module, example: Sequence[Tensor], open_axes: Collection[Axis], *, strict: bool = False
) -> torch.export.ExportedProgram:
    shapes = tuple(
        {axis: torch.export.Dim.AUTO for axis in range(value.ndim) if (n, axis) in open_axes}
        for n, value in enumerate(example)
    )
    traced = torch.export.export(network, tuple(example), dynamic_shapes=(shapes,), strict=strict)
    for node in traced.graph.nodes:
        # torch's exporter leaves it out, so that the file would give other numbers
        if node.target in _AVERAGES and dict(zip(range(7), node.args, strict=False)).get(6) is not None:
            raise StructureError("avg_pool with divisor_override, which torch's exporter to ONNX leaves out")
    _check_has_no_state(traced)
    return traced


def _check_has_no_state(traced: torch.export.ExportedProgram) -> None:
    """Raise `StructureError` if outputs depend on a buffer that the forward writes: a file has no such state."""
    nodes = {node.name: node for node in traced.graph.nodes}
    written = {_viewed(node) for node in nodes.values() if _writes(node)}
    reached, left = set[str](), [nodes[name] for name in traced.graph_signature.user_outputs if name in nodes]
    while left:
        node = left.pop()
        if node.name not in reached:
            reached.add(node.name)
            left += node.all_input_nodes
    for place, name in traced.graph_signature.inputs_to_buffers.items():
        if place in written and place in reached:
            raise StructureError(
                f"the forward writes the buffer {name.removeprefix(_PREFIX)!r}, on which its outputs depend, and a "
                "file keeps nothing from call to call: take the state as an argument and return the new one"
            )


def _first_alias(node: torch.fx.Node) -> Any:
    """Return what the schema of a node's operation says of the memory of its first argument; None for no word."""
    schema = getattr(node.target, "_schema", None) if node.op == "call_function" else None
    return schema.arguments[0].alias_info if schema is not None and schema.arguments else None


def _writes(node: torch.fx.Node) -> bool:
    alias = _first_alias(node)
    return alias is not None and alias.is_write


def _viewed(node: torch.fx.Node) -> str:
    """Return the name of what a node is a view of, or writes to."""
    while _first_alias(node) is not None and isinstance(node.args[0], torch.fx.Node):
        node = node.args[0]
    return node.name


def _is_branched(
    network: Flat,
    traced: torch.export.ExportedProgram,
    runs: nn.Module,
    example: Sequence[Tensor],
    axes: Sequence[Axis],
) -> bool:
    """Return whether the program holds for the example's size alone, since the network's code asks for sizes.

    `runs` is the program as a module that checks no conditions.
    """
    inputs = _input_shapes(traced, example)
    sizes = [inputs[n][axis] for n, axis in axes]
    symbols = [size.node.expr for size in sizes if isinstance(size, torch.SymInt)]
    if not symbols:
        return False
    if any(traced.range_constraints[one].upper.is_Integer for one in symbols if one in traced.range_constraints):
        return True
    # A size of other parity first, as code pads what is odd; twice last, since it takes the longest.
    for resized in (
        _resized(example, axes, twice=False, other_parity=True),
        *(_resized(example, axes, twice=twice) for twice in (False, True)),
    ):
        if any(resized[n].shape[axis] <= 1 for n, axis in axes):  # torch.export takes a size of one as fixed
            continue
        wanted, found = _results(deepcopied(network), resized), _results(runs, resized)  # a copy: see `_takes`
        if wanted is not None:
            return found is None or not all(map(_is_close, found, wanted))
    return False


def _results(network: nn.Module, inputs: Sequence[Tensor]) -> tuple[Tensor, ...] | None:
    """Return what the network gives; None if it does not take such inputs."""
    try:
        with torch.no_grad():
            return tuple(network(*inputs))
    except Exception:  # noqa: BLE001 -- any error of the user's code
        return None


def _is_close(found: Tensor, wanted: Tensor) -> bool:
    if found.shape != wanted.shape:
        return False
    sizes = wanted.double().abs()
    sizes = sizes[sizes.isfinite()]
    scale = float(sizes.max()) if sizes.numel() else 0.0
    return torch.allclose(found.double(), wanted.double(), rtol=0, atol=1e-3 * scale, equal_nan=True)


def _doubled(dense: nn.Module, call: Call) -> tuple[Tensor, ...]:
    """Return the example; with a batch of one, twice, since the tracer takes a size of one as fixed."""
    batches = [value.shape[0] for value in call.tensors if value.ndim > 0]
    twice = tuple(torch.cat([value, value]) if value.ndim > 0 else value for value in call.tensors)
    return twice if set(batches) == {1} and _takes(dense, call, twice) else call.tensors


def _open_axes(dense: nn.Module, call: Call, example: Sequence[Tensor], *, batch_only: bool) -> list[list[Axis]]:
    """Return the axes whose size may differ: alone, or in groups, such as a batch with a batch.

    The tracer knows conditions on single sizes, but not, for example, that height times width must be 784; and each
    size that need not be open saves it much time.
    """
    closed = [
        (n, axis)
        for n, value in enumerate(example)
        for axis in range(min(value.ndim, 1) if batch_only else value.ndim)
        if value.shape[axis] != 1
    ]
    found: list[list[Axis]] = []
    for groups in (_alone, _of_equal_size, _in_equal_place, _together):
        for axes in groups(example, closed):
            # Half comes first, as it runs in less time; but not half of 2 or 3: broadcasting lets 1 meet any size.
            becomes_one = any(example[n].shape[axis] < 4 for n, axis in axes)
            resized = (_resized(example, axes, twice=twice) for twice in ((True,) if becomes_one else (False, True)))
            if any(_takes(dense, call, other) for other in resized):
                found.append(axes)
        closed = [axis for axis in closed if not any(axis in group for group in found)]
    return found


def _takes(dense: nn.Module, call: Call, tensors: Sequence[Tensor]) -> bool:
    # A copy, as some networks adapt their modules for good to a size that they have seen (Swin's windows).
    return call.problem(deepcopied(dense), tensors) is None


def _alone(example: Sequence[Tensor], axes: Sequence[Axis]) -> Iterator[list[Axis]]:
    for axis in axes:
        yield [axis]


def _of_equal_size(example: Sequence[Tensor], axes: Sequence[Axis]) -> Iterator[list[Axis]]:
    sizes: dict[int, list[Axis]] = {}
    for n, axis in axes:
        sizes.setdefault(example[n].shape[axis], []).append((n, axis))
    yield from (alike for alike in sizes.values() if len(alike) > 1)


def _in_equal_place(example: Sequence[Tensor], axes: Sequence[Axis]) -> Iterator[list[Axis]]:
    """Yield the axes of equal position in several inputs, such as the time of tokens, of a mask and of a cache."""
    for place in sorted({axis for _, axis in axes}):
        yield [(n, axis) for n, axis in axes if axis == place]


def _together(example: Sequence[Tensor], axes: Sequence[Axis]) -> Iterator[list[Axis]]:
    if len({example[n].shape[axis] for n, axis in axes}) > 1:
        yield list(axes)


def _resized(
    example: Sequence[Tensor], axes: Sequence[Axis], *, twice: bool, other_parity: bool = False
) -> list[Tensor]:
    """Return the example with half or twice the sizes; with half less one where that is needed for the other parity."""
    resized = list(example)
    for n, axis in axes:
        value = resized[n]
        size = value.shape[axis] // 2
        half = value.narrow(axis, 0, size - (other_parity and size % 2 == value.shape[axis] % 2))
        resized[n] = torch.cat([value, value], dim=axis) if twice else half
    return resized


def _rename(graph: ir.Graph, inputs: Sequence[str], outputs: Sequence[str]) -> None:
    """Give the inputs and outputs the names of the call, and the stored tensors those of the network."""
    for name, value in list(graph.initializers.items()):
        if name.startswith(_PREFIX):
            del graph.initializers[name]
            value.name = name.removeprefix(_PREFIX)
            graph.register_initializer(value)
    for value, name in zip(graph.inputs, inputs, strict=True):
        value.name = name
    name_outputs(graph, outputs)


def refusal(network: nn.Module, error: BaseException, why: str) -> StructureError:
    """Return the error of a network that cannot be exported, for the reason of another error."""
    return StructureError(
        f"{type(network).__name__} cannot be exported: {first_line(_cause(error))} ({why}; if sizes are the trouble, "
        'try dynamic="batch" or dynamic=False)'
    )


def _cause(error: BaseException) -> BaseException:
    """Return the original error: the exporter wraps it in general advice."""
    while error.__cause__ is not None:
        error = error.__cause__
    return error
