"""Networks described for a C program that reads their files: names, shapes and types of its tensors."""

from dataclasses import dataclass, replace
from pathlib import Path

from torch import nn

from tailcut.errors import ArgumentError
from tailcut.format.container.contents import Contents, StoredBase
from tailcut.format.container.numbers import type_number
from tailcut.format.file_bytes import read_contents
from tailcut.format.load import apply_edits, bare_network
from tailcut.format.network.tensors import NetworkTensors, OtherTensor, meta_copy, network_tensors
from tailcut.limits import limit_of
from tailcut.structure import Writer

REGULARIZE = 1


@dataclass(frozen=True)
class Slot:
    """A tensor of a network.

    Attributes:
        name: in its `state_dict`.
        shape: of the dense tensor.
        is_parameter: whether it is a parameter, not a buffer.
        type_number: of its numbers, as SPEC.md numbers them.
    """

    name: str
    shape: tuple[int, ...]
    is_parameter: bool
    type_number: int


@dataclass(frozen=True)
class NetworkDescription:
    """The network that a file fills, as `tailcut_network` of `tailcut.h` has it.

    Attributes:
        base: the registered name, empty for a user's own class.
        arguments: the number of arguments and the arguments, as they stand in a file.
        edits: the edits that change layers (kinds 2 to 4), each as it stands in a file.
        slots: all tensors in the order of the `state_dict`, tied ones once, before any is kept as coefficients.
    """

    base: str
    arguments: bytes
    edits: bytes
    slots: tuple[Slot, ...]


def describe(
    path: str | Path, *, into: nn.Module | None = None, max_parameters: int | None = None
) -> NetworkDescription:
    """Describe the network of a file for the C reader: files of the same network can then be read in C.

    Args:
        path: a `.tailcut` file, or "zoo:NAME".
        into: a fresh network, if the file is one of your own class. It is not changed.
        max_parameters: the most numbers that the network may have (2^30 if not given).

    Raises:
        FormatError: as `tailcut.load`.
        ArgumentError: the file needs `into`.
    """
    return describe_contents(read_contents(path), into=into, max_parameters=max_parameters)


def describe_contents(
    contents: Contents, *, into: nn.Module | None = None, max_parameters: int | None = None
) -> NetworkDescription:
    """Describe the network of a file that was read already; see `describe`."""
    limit = limit_of(max_parameters)
    if contents.base is None and into is None:
        raise ArgumentError("the file holds a network of a user's own class: give a fresh network of it")
    # Tensors are told by their order before some of them are kept as coefficients, and by their shapes in the end.
    kinds = [kind for kind, _ in contents.edits]
    first = kinds.index(REGULARIZE) if REGULARIZE in kinds else len(kinds)
    before = _tensors(replace(contents, edits=contents.edits[:first]), into, limit)
    after = _tensors(contents, into, limit)
    shapes = after.shapes()
    slots = [
        Slot(other.name, shapes.get(other.name, other.shape), other.is_parameter, _type_of(other))
        for other in (*before.others, *(other for other in after.others if other.name not in before.shapes()))
    ]
    structural = tuple(edit for edit in contents.edits if edit[0] != REGULARIZE)
    base = "" if contents.base is None else contents.base.name
    return NetworkDescription(base, _arguments(contents.base), _edits(structural), tuple(slots))


def _tensors(contents: Contents, into: nn.Module | None, max_parameters: int) -> NetworkTensors:
    network = bare_network(contents, max_parameters) if into is None else meta_copy(into)
    return network_tensors(network, apply_edits(contents, network, max_parameters))


def _type_of(other: OtherTensor) -> int:
    return type_number(other.tensor.dtype, name=other.name)


def _arguments(base: StoredBase | None) -> bytes:
    writer = Writer()
    if base is not None:
        writer.uint(len(base.arguments))
        for place, value in base.arguments:
            writer.uint(place)
            writer.value(value)
    return writer.getvalue()


def _edits(edits: tuple[tuple[int, bytes], ...]) -> bytes:
    writer = Writer()
    for number, content in edits:
        writer.uint(number)
        writer.uint(len(content))
        writer.raw(content)
    return writer.getvalue()
