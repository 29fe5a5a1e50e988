"""Opening a network from any supported file: `.tailcut`, or a torch checkpoint of a registered model."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from tailcut.errors import ArgumentError
from tailcut.format import load
from tailcut.format.container.contents import MAGIC
from tailcut.format.conversion.checkpoints import fill_in, mismatches, read_tensors, with_tied
from tailcut.format.file_bytes import read_contents
from tailcut.format.zoo import resolve
from tailcut.structure import create_model, family, in_evaluation


def open_network(
    source: str | Path,
    *,
    model: str | None = None,
    arguments: Mapping[str, Any] | None = None,
    device: torch.device | str = "cpu",
) -> nn.Module:
    """Return the network of a file, in evaluation mode.

    Args:
        source: a .tailcut file or `zoo:NAME`; or a checkpoint of torch (see `tailcut.format.conversion.checkpoints`).
        model: name of the registered model that a checkpoint belongs to.
        arguments: the arguments of that model.
        device: where the network shall be.

    Raises:
        ArgumentError: a model is named for a .tailcut file, or none for a checkpoint, or its weights do not fit it.
        FormatError: the .tailcut file cannot be loaded.
        DataError: the checkpoint cannot be read.
        FileNotFoundError: there is no such file.
    """
    if is_tailcut_file(source):
        if model is not None or arguments:
            raise ArgumentError(f"{source} names its model itself: leave out --model and --set-argument")
        return load(source, device=device)
    if model is None:
        raise ArgumentError(f"{source} is no .tailcut file: name the registered model of its weights with --model")
    network = create_model(model, **(arguments or {}))
    tensors = read_tensors(source)
    own = network.state_dict(keep_vars=True)
    problems = mismatches(own, with_tied(own, tensors))
    if problems:
        raise misfit(source, model, arguments or {}, "; ".join(problems))
    fill_in(network, tensors, source)
    return in_evaluation(network.to(device))


def misfit(path: str | Path, model: str, arguments: Mapping[str, Any], why: str) -> ArgumentError:
    """Return the error for weights that do not fit a registered model with these arguments."""
    given = ", ".join(f"{key}={value}" for key, value in arguments.items()) or "its defaults"
    known = ", ".join(family(model).defaults) or "none"
    return ArgumentError(
        f"the weights of {path} do not fit model {model!r} with {given}: {why}. Its arguments are {known}: give those "
        "that it was trained with (--set-argument KEY=VALUE)"
    )


def is_tailcut_file(source: str | Path) -> bool:
    """Return whether a file begins with the magic of .tailcut; `zoo:NAME` does.

    Raises:
        ArgumentError: the zoo has no such network.
        FileNotFoundError: there is no such file.
    """
    with resolve(source).open("rb") as file:
        return file.read(len(MAGIC)) == MAGIC


def metadata_of(source: str | Path) -> dict[str, Any]:
    """Return the user's metadata of a .tailcut file or `zoo:NAME`, without building its network; {} of a checkpoint."""
    return read_contents(source).metadata if is_tailcut_file(source) else {}
