"""Resampling of a file's network to more or fewer channels."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from tailcut.errors import ArgumentError, StructureError
from tailcut.format import inspect, load, save
from tailcut.printing import Report
from tailcut.structure import (
    create_model,
    family,
    record_of,
)
from tailcut.structure.outputs import output_tensors
from tailcut.weights.regularization.edit import RegularizeEdit
from tailcut.weights.resampling import ResamplingReport, resample


@dataclass(frozen=True)
class ResampleFileReport(Report):
    """Report of the resampling of a file.

    Attributes:
        source: the file, as it was given.
        out: the .tailcut file that was written.
        file_bytes: its size.
        num_parameters_before: numbers of the dense network.
        num_parameters_after: the same with the new channels.
        resampling: tensor by tensor.
    """

    source: str
    out: str
    file_bytes: int
    num_parameters_before: int
    num_parameters_after: int
    resampling: ResamplingReport

    def __str__(self) -> str:
        """Return the tensors, then one line about the file."""
        change = f"{self.num_parameters_before:,} dense numbers are now {self.num_parameters_after:,}"
        return f"{self.resampling}\n\n{self.out}: {self.file_bytes:,} bytes; {change}. Measure it: tailcut evaluate"


def resample_file(
    source: str | Path,
    out: str | Path,
    arguments: Mapping[str, Any],
    *,
    dtype: str | None = None,
    other_dtype: str | None = None,
) -> ResampleFileReport:
    """Write a file's network with other numbers of channels; see `tailcut.weights.resample`.

    Args:
        source: a .tailcut file or `zoo:NAME`, of a registered model.
        out: the .tailcut file to write.
        arguments: the arguments of the model that change, for example `{"widths": (16, 32, 64, 128, 256)}`.
        dtype: number type of the coefficients; float32 when None.
        other_dtype: of all other numbers; see `save`.

    Raises:
        StructureError: the network is of a user's own class, was changed by more than `regularize`, cannot be
            resampled to these arguments, or would take or give something else.
        ArgumentError: the model has no such argument, or it changes no weight's shape.
        FormatError: the file cannot be loaded.
    """
    network = load(source)
    record = record_of(network)
    if record.base is None:
        raise StructureError(f"{source} holds a network of a user's own class: use tailcut.weights.resample in Python")
    others = [edit.kind for edit in record.edits if not isinstance(edit, RegularizeEdit)]
    if others:
        raise StructureError(f"{source}: only regularised networks can be resampled; this one has {', '.join(others)}")
    name, before = record.base.name, record.base.arguments
    after = {**before, **arguments}
    _check_ends(_example_shapes(name, before), _example_shapes(name, after))
    other = create_model(name, **after)
    report = resample(network, other)
    if all(tensor.before == tensor.after for tensor in report.tensors):
        raise ArgumentError(f"no weight of {name} changes its shape with {', '.join(arguments)}; see tailcut models")
    old = inspect(source)
    written = save(other, out, dtype=dtype, other_dtype=other_dtype, metadata=old.metadata)
    sizes = (written.file_bytes, old.num_parameters, written.num_parameters)
    return ResampleFileReport(str(source), str(out), *sizes, report)


def _example_shapes(name: str, arguments: Mapping[str, Any]) -> list[tuple[int, ...]]:
    """Shapes of an example input and of what the model gives for it, without computing it."""
    with torch.device("meta"), torch.no_grad():
        model = create_model(name, **arguments).eval()
        shape = family(name).example_shape(**arguments)
        outputs = model(torch.empty(shape))
    return [shape, *(tuple(tensor.shape) for tensor in output_tensors(outputs))]


def _check_ends(before: list[tuple[int, ...]], after: list[tuple[int, ...]]) -> None:
    if before != after:
        old, new = (" to ".join(map(str, shapes)) for shapes in (before, after))
        raise StructureError(
            f"only the channels within a network can be resampled; an example goes from {old}, with these arguments "
            f"from {new}"
        )
