"""Comparison of two networks: the contents of their files, the differences of their weights and outputs."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tailcut.errors import ArgumentError, LimitError, first_line
from tailcut.format import InspectReport, inspect
from tailcut.format.inspect import StoredOtherTensor, StoredTensor
from tailcut.printing import Report, sizes, table
from tailcut.reports.networks import ReportedNetwork, edit_names, example_input, reported_network
from tailcut.runs import packed_network
from tailcut.structure import in_evaluation
from tailcut.structure.outputs import output_tensors
from tailcut.weights import to_dense
from tailcut.weights.parametrization.truncation import Truncation

Sizes = tuple[int, ...]


@dataclass(frozen=True)
class ComparedNetwork(Report):
    """One of the two networks.

    Attributes:
        source: as it was given.
        model: registered name, None for a user's own class.
        arguments: of the model, where they differ from the defaults.
        edits: the kinds of edits that the file records.
        num_parameters: numbers in the parameters of the dense network.
        num_kept: coefficients in the file.
        file_bytes: size of the file.
        dtypes: number types of the file: of coefficients, then those of all else.
    """

    source: str
    model: str | None
    arguments: dict[str, Any]
    edits: tuple[str, ...]
    num_parameters: int
    num_kept: int
    file_bytes: int
    dtypes: tuple[str, ...]


@dataclass(frozen=True)
class ComparedTensor(Report):
    """One tensor; pairs are of the first and the second network, None where it has no such tensor.

    Attributes:
        name: of the tensor.
        shape: of the dense tensor.
        corner: the smallest box that holds the kept coefficients; None where it is not truncated.
        num_kept: coefficients; None where it is not truncated.
        bytes: its share of the file.
        largest_difference: largest |first - second| of the dense tensors; None if they cannot be compared.
        relative_difference: the same over the largest |first|; None too where that is 0.
    """

    name: str
    shape: tuple[Sizes | None, Sizes | None]
    corner: tuple[Sizes | None, Sizes | None]
    num_kept: tuple[int | None, int | None]
    bytes: tuple[int | None, int | None]
    largest_difference: float | None
    relative_difference: float | None


@dataclass(frozen=True)
class ComparedOutputs(Report):
    """The outputs of both networks for one random input: its shape, and differences as in `ComparedTensor`."""

    input_shape: Sizes
    largest_difference: float
    relative_difference: float | None


@dataclass(frozen=True)
class ComparisonReport(Report):
    """Two networks side by side.

    Attributes:
        networks: the two.
        same_structure: whether all dense tensors have the same names and shapes.
        tensors: all tensors of both, in the order of the first.
        outputs: for the same input; None if they cannot be compared.
        why_not: what could not be compared, and why.
    """

    networks: tuple[ComparedNetwork, ComparedNetwork]
    same_structure: bool
    tensors: tuple[ComparedTensor, ...]
    outputs: ComparedOutputs | None
    why_not: tuple[str, ...]

    def __str__(self) -> str:
        """Return tables of the networks and of their tensors, and the difference of the outputs."""
        parts = [_facts(self.networks)]
        structure = "the same" if self.same_structure else "different: only tensors of one name and shape are compared"
        header = ("tensor", "shape", "corner", "kept", "bytes", "largest difference", "relative")
        parts.append(
            f"structure: {structure}\n\n" + table(header, [_cells(item) for item in self.tensors], align="<<<>>>>")
        )
        if self.outputs is not None:
            found, relative = self.outputs, ""
            if found.relative_difference is not None:
                relative = f", relative {_number(found.relative_difference)}"
            parts.append(
                f"outputs for a random input of {sizes(found.input_shape)}: largest difference "
                f"{_number(found.largest_difference)}{relative}"
            )
        parts += list(self.why_not)
        return "\n\n".join(parts)


def compare(first: str | Path, second: str | Path) -> ComparisonReport:
    """Compare two networks: what their files hold, their dense weights, and their outputs for one random input.

    Args:
        first: a run folder, a .tailcut file or `zoo:NAME`.
        second: likewise.

    Raises:
        ArgumentError: a run has no packed network yet, or the zoo has no such network.
        FormatError: a file cannot be loaded.
        FileNotFoundError: there is no such file.
    """
    pair = reported_network(first, str(first)), reported_network(second, str(second))
    stored = _stored(pair[0]), _stored(pair[1])
    shapes = _shapes(stored[0]), _shapes(stored[1])
    dense = _dense(pair[0]), _dense(pair[1])
    why_not = [f"{item.source}: {item.missing['model']}" for item in pair if item.model is None]
    outputs, reason = (None, "") if why_not else _compare_outputs(*pair)
    return ComparisonReport(
        networks=(_network(pair[0], stored[0]), _network(pair[1], stored[1])),
        same_structure=shapes[0] == shapes[1],
        tensors=tuple(_tensor(name, stored, shapes, dense) for name in {**shapes[0], **shapes[1]}),
        outputs=outputs,
        why_not=(*why_not, *([f"outputs are not compared: {reason}"] if reason else [])),
    )


def _stored(network: ReportedNetwork) -> InspectReport:
    if network.stored is None and Path(packed_network(network.source)).is_file():
        return inspect(packed_network(network.source))  # raises what is wrong with the file of the run
    if network.stored is None:
        raise ArgumentError(f"{network.source} cannot be compared: {network.missing['stored']}")
    return network.stored


def _shapes(stored: InspectReport) -> dict[str, Sizes]:
    return {tensor.name: tensor.shape for tensor in _all_tensors(stored)}


def _all_tensors(stored: InspectReport) -> list[StoredTensor | StoredOtherTensor]:
    return [*stored.tensors, *stored.other_tensors]


def _dense(network: ReportedNetwork) -> dict[str, Tensor]:
    if network.model is None:
        return {}
    return {name: value.double() for name, value in to_dense(network.model).state_dict().items()}


def _network(network: ReportedNetwork, stored: InspectReport) -> ComparedNetwork:
    dtypes = dict.fromkeys(tensor.dtype for tensor in _all_tensors(stored))
    return ComparedNetwork(
        source=network.source,
        model=stored.model,
        arguments=stored.arguments,
        edits=tuple(edit_names(packed_network(network.source))),
        num_parameters=stored.num_parameters,
        num_kept=stored.num_kept,
        file_bytes=stored.file_bytes,
        dtypes=tuple(dtypes),
    )


def _tensor(
    name: str,
    stored: tuple[InspectReport, InspectReport],
    shapes: tuple[dict[str, Sizes], dict[str, Sizes]],
    dense: tuple[Mapping[str, Tensor], Mapping[str, Tensor]],
) -> ComparedTensor:
    kept = [{tensor.name: tensor for tensor in report.tensors} for report in stored]
    sizes = [{tensor.name: tensor.bytes for tensor in _all_tensors(report)} for report in stored]
    counts = [None if name not in tensors else tensors[name].num_kept for tensors in kept]
    corners = [None if name not in tensors else _corner(tensors[name]) for tensors in kept]
    can = all(name in values for values in dense) and shapes[0].get(name) == shapes[1].get(name)
    return ComparedTensor(
        name=name,
        shape=(shapes[0].get(name), shapes[1].get(name)),
        corner=(corners[0], corners[1]),
        num_kept=(counts[0], counts[1]),
        bytes=(sizes[0].get(name), sizes[1].get(name)),
        **(_differences([dense[0][name]], [dense[1][name]]) if can else _NONE),
    )


def _corner(tensor: StoredTensor) -> Sizes:
    weights, axes = tensor.order_weights, tensor.axes
    return Truncation(tensor.shape, tensor.num_kept, axes=axes, order_weights=weights).corner_shape


_NONE: dict[str, Any] = {"largest_difference": None, "relative_difference": None}


def _differences(first: Sequence[Tensor], second: Sequence[Tensor]) -> dict[str, Any]:
    """Largest absolute and relative difference of tensors that fit one another."""
    largest = largest_difference(first, second)
    if largest is None:
        return _NONE
    scale = max((float(one.double().abs().max()) for one in first if one.numel()), default=0.0)
    return {"largest_difference": largest, "relative_difference": largest / scale if scale else None}


def largest_difference(first: Sequence[Tensor], second: Sequence[Tensor]) -> float | None:
    """Return the largest absolute difference, or None if a number is not finite. Empty tensors differ by 0."""
    pairs = [(one.double(), other.double()) for one, other in zip(first, second, strict=True) if one.numel()]
    found = [float((one - other).abs().max()) for one, other in pairs]
    return max(found, default=0.0) if all(map(math.isfinite, found)) else None


def _compare_outputs(first: ReportedNetwork, second: ReportedNetwork) -> tuple[ComparedOutputs | None, str]:
    """Compare the outputs of both networks for one random input; return None and the reason if they cannot be."""
    results: list[list[Tensor]] = []
    shapes: list[Sizes] = []
    for network in (first, second):
        try:
            example = None if network.model is None else example_input(network.model)
        except LimitError as error:
            return None, f"{network.source}: {first_line(error)}"
        if network.model is None or example is None:
            return None, f"{network.source} does not give the shape of its input"
        shapes.append(tuple(example.shape))
        try:
            with torch.inference_mode():
                results.append(output_tensors(in_evaluation(to_dense(network.model))(example)))
        except Exception as error:  # noqa: BLE001 -- any error of a user's code
            return None, f"{network.source} does not take its example input: {first_line(error)}"
    if shapes[0] != shapes[1]:
        return None, f"the networks take different inputs, {sizes(shapes[0])} and {sizes(shapes[1])}"
    own = [[tuple(tensor.shape) for tensor in tensors] for tensors in results]
    if not any(tensor.numel() for tensor in results[0]) and own[0] == own[1]:
        return None, "both networks give nothing for a random input, so that their outputs cannot be compared"
    if own[0] != own[1]:
        return None, f"the outputs have different shapes, {own[0]} and {own[1]}"
    found = _differences(*results)
    if found["largest_difference"] is None:
        return None, "an output is not finite"
    return ComparedOutputs(shapes[0], **found), ""


def _facts(networks: tuple[ComparedNetwork, ComparedNetwork]) -> str:
    settings = [", ".join(f"{key}={value}" for key, value in item.arguments.items()) for item in networks]
    rows = [
        ("model", *(item.model or "a class of its own" for item in networks)),
        ("arguments", *(text or "the defaults" for text in settings)),
        ("edits", *(", ".join(item.edits) or "none" for item in networks)),
        ("parameters", *(f"{item.num_parameters:,}" for item in networks)),
        ("coefficients", *(f"{item.num_kept:,}" for item in networks)),
        ("file, bytes", *(f"{item.file_bytes:,}" for item in networks)),
        ("dtypes", *(", ".join(item.dtypes) for item in networks)),
    ]
    return table(["", networks[0].source, networks[1].source], rows)


def _cells(tensor: ComparedTensor) -> list[str]:
    return [
        tensor.name,
        _both(["" if shape is None else sizes(shape) for shape in tensor.shape]),
        _both(["" if corner is None else sizes(corner) for corner in tensor.corner]),
        _both(["" if count is None else f"{count:,}" for count in tensor.num_kept]),
        _both(["" if size is None else f"{size:,}" for size in tensor.bytes]),
        _number(tensor.largest_difference),
        _number(tensor.relative_difference),
    ]


def _both(texts: Sequence[str]) -> str:
    first, second = (text or "-" for text in texts)
    return first if first == second else f"{first} | {second}"


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.3g}"
