"""A network as an ONNX program with dense weights: torch.export, then torch's ONNX exporter. Needs the extra `onnx`."""

import re
from collections.abc import Collection, Sequence

import onnx_ir as ir
import torch
from torch import Tensor, nn

from tailcut.errors import ArgumentError, StructureError, TailcutError

Axis = tuple[int, int]
_COLOURS = re.compile(r"\x1b\[[0-9;]*m")  # of terminals, in the exporter's messages


def trace(dense: nn.Module, example: Sequence[Tensor], *, opset: int, dynamic: bool) -> ir.Model:
    """Trace a dense network in evaluation mode; it is not changed.

    Args:
        dense: the network.
        example: its inputs, batch first.
        opset: version of ONNX's operators.
        dynamic: keep the sizes open that may vary; see `export_onnx`.

    Returns:
        The program, not optimised; its initializers have the names of the network's state_dict.

    Raises:
        ArgumentError: the network does not take the example.
        StructureError: it cannot be traced, or has no form in ONNX.
    """
    if dynamic and all(value.ndim > 0 and value.shape[0] == 1 for value in example):
        example = [torch.cat([value, value]) for value in example]
    problem = _problem_with(dense, example)
    if problem is not None:
        sizes = ", ".join(str(tuple(value.shape)) for value in example)
        raise ArgumentError(f"the network does not take an example of shape {sizes}: {problem}")
    axes = [(n, axis) for n, value in enumerate(example) for axis in range(value.ndim) if value.shape[axis] != 1]
    try:
        traced = _exported(dense, example, axes if dynamic else ())
        fixed = _fixed_axes(traced, dense, example)
        if fixed:
            traced = _exported(dense, example, [axis for axis in axes if axis not in fixed])
        program = torch.onnx.export(traced, (), dynamo=True, optimize=False, opset_version=opset, verbose=False)
    except TailcutError:
        raise
    except Exception as error:
        raise StructureError(
            f"{type(dense).__name__} cannot be exported: {_first_line(_cause(error))} (torch.export must be able to "
            "trace the network, without branches on the values of tensors; try dynamic=False if sizes are the trouble)"
        ) from error
    if program is None:
        raise StructureError(f"{type(dense).__name__} cannot be exported: torch's exporter returned nothing")
    return program.model


def _exported(dense: nn.Module, example: Sequence[Tensor], open_axes: Collection[Axis]) -> torch.export.ExportedProgram:
    shapes = tuple(
        {axis: torch.export.Dim.AUTO for axis in range(value.ndim) if (n, axis) in open_axes}
        for n, value in enumerate(example)
    )
    return torch.export.export(dense, tuple(example), dynamic_shapes=shapes, strict=False)


def _fixed_axes(traced: torch.export.ExportedProgram, dense: nn.Module, example: Sequence[Tensor]) -> set[Axis]:
    """Axes that the tracer left open although the network takes neither twice nor half their size.

    The tracer knows conditions on single sizes, but not, for example, that height times width must be 784.
    """
    placeholders = {node.name: node for node in traced.graph.nodes if node.op == "placeholder"}
    alike: dict[str, list[Axis]] = {}
    for n, name in enumerate(traced.graph_signature.user_inputs):
        for axis, size in enumerate(placeholders[str(name)].meta["val"].shape):
            if not isinstance(size, int):
                alike.setdefault(str(size), []).append((n, axis))
    fixed: set[Axis] = set()
    for axes in alike.values():
        others = [_resized(example, axes, twice=True), _resized(example, axes, twice=False)]
        if all(_problem_with(dense, other) is not None for other in others):
            fixed.update(axes)
    return fixed


def _resized(example: Sequence[Tensor], axes: Sequence[Axis], *, twice: bool) -> list[Tensor]:
    resized = list(example)
    for n, axis in axes:
        value = resized[n]
        half = value.narrow(axis, 0, value.shape[axis] // 2)
        resized[n] = torch.cat([value, value], dim=axis) if twice else half
    return resized


def _problem_with(dense: nn.Module, example: Sequence[Tensor]) -> str | None:
    """What the network says to such inputs; None if it takes them."""
    try:
        with torch.no_grad():
            dense(*example)
    except Exception as error:  # noqa: BLE001 -- any error of the user's code
        return _first_line(error)
    return None


def _cause(error: BaseException) -> BaseException:
    """What went wrong in the first place: the exporter wraps it in general advice."""
    while error.__cause__ is not None:
        error = error.__cause__
    return error


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in _COLOURS.sub("", str(error)).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
