"""Conversion of another project's file to .tailcut."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from torch import nn

from tailcut.errors import ArgumentError
from tailcut.files import check_output_path
from tailcut.format import SaveReport, write_network
from tailcut.format.conversion import dctnet, frereg, hrank
from tailcut.format.save import warn_of_unused_dtype

Project = Literal["frereg", "dctnet", "hrank", "chip", "cfdp"]


def convert_file(
    file: str | Path,
    out: str | Path,
    *,
    project: Project,
    model: str | None = None,
    arguments: Mapping[str, Any] | None = None,
    statistics: str | Path | None = None,
    dtype: str | None = None,
    other_dtype: str | None = None,
) -> SaveReport:
    """Write another project's file as .tailcut. Nothing in it is run.

    Args:
        file: the other project's file.
        out: the .tailcut file to write.
        project: which one: "frereg" for Frequency Regularization, "dctnet" for Learning in the Frequency Domain, or one
            of those whose files hold networks of CIFAR-10 and ImageNet, trained or pruned.
        model: the registered model that the file belongs to; it must be given for "frereg", whose files do not name it,
            else it is found by names and shapes.
        arguments: of that model, where they differ from the published ones.
        statistics: of "dctnet": the Python file of its source code that has the channel statistics.
        dtype: see `tailcut.save`, as for `other_dtype`.
        other_dtype: likewise.

    Raises:
        ArgumentError: an argument does not fit the project, or `out` cannot be written.
        DataError: the file is damaged, or of another layout.
        ModelMismatchError: it does not fit the model.
    """
    check_output_path(out)
    if statistics is not None and project != "dctnet":
        raise ArgumentError("--statistics is for --from dctnet")
    network = _converted(file, project, model, arguments or None, statistics)
    report = write_network(network, out, dtype=dtype or "float32", other_dtype=other_dtype)
    warn_of_unused_dtype(report, dtype, other_dtype)
    return report


def _converted(
    file: str | Path,
    project: Project,
    model: str | None,
    arguments: Mapping[str, Any] | None,
    statistics: str | Path | None,
) -> nn.Module:
    if project == "frereg":
        if model is None:
            raise ArgumentError("--from frereg needs --model: its files do not name their network")
        return frereg.convert(file, model=model, arguments=arguments)
    if project == "dctnet":
        return dctnet.convert(file, model=model, arguments=arguments, statistics=statistics)
    return hrank.convert(file, model=model, arguments=arguments)
