"""`save`: a network becomes a `.tailcut` file."""

import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from tailcut.errors import ArgumentError, StructureError, TailcutError
from tailcut.files import write_atomically
from tailcut.format import codecs
from tailcut.format.container import Contents, StoredBase, StoredOther, Stream, encode
from tailcut.format.numbers import float_type, has_non_finite, to_bytes, type_number
from tailcut.format.tensors import NetworkTensors, OtherTensor, network_tensors
from tailcut.format.verification import check_covered, check_not_wrapped, check_same_network
from tailcut.limits import non_finite_allowed
from tailcut.printing import Report
from tailcut.structure import (
    Base,
    Edit,
    Reader,
    Record,
    Writer,
    check_module,
    create_model,
    family,
    record_of,
    told,
    without_views,
)

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class SaveReport(Report):
    """What was written.

    Attributes:
        path: the file.
        file_bytes: its size.
        dense_bytes: of the dense network's parameters in float32.
        compression_ratio: `dense_bytes` over `file_bytes`; None for a network without parameters.
        num_parameters: numbers in the parameters of the dense network.
        num_truncated: how many of these are kept as coefficients.
        num_kept: coefficients in the file.
    """

    path: str
    file_bytes: int
    dense_bytes: int
    compression_ratio: float | None
    num_parameters: int
    num_truncated: int
    num_kept: int

    def __str__(self) -> str:
        ratio = "" if self.compression_ratio is None else f" ({self.compression_ratio:,.1f} : 1)"
        return (
            f"{self.path}: {self.file_bytes:,} bytes for {self.dense_bytes:,} of dense float32 parameters{ratio}; "
            f"{self.num_kept:,} coefficients for {self.num_truncated:,} of {self.num_parameters:,} parameters"
        )


def save(
    model: nn.Module,
    path: str | Path,
    *,
    codec: str = "float32",
    other_codec: str | None = None,
    metadata: Mapping[str, Any] | None = None,
    registered: bool = True,
    allow_non_finite: bool = False,
) -> SaveReport:
    """Write `model` to a `.tailcut` file, whole or not at all. Does not change the model.

    Args:
        model: a network from `create_model` or of a user's own class, regularised or not.
        path: the file; one of that name is replaced.
        codec: type of the coefficients: "float32", "float16", "bfloat16" (or "float64").
        other_codec: type of all other floating-point tensors (biases, batch norm); their own when None.
        metadata: anything JSON can hold, at most 64 KiB. The network's class names (see `tailcut.set_class_names`) and
            its pictures' size (`tailcut.inputs.set_picture_size`) are written with it, unless it says `class_names` or
            `picture_size` itself.
        registered: write the registered name, so that `load(path)` rebuilds the network. False writes it as a
            class of your own, for `load(path, into=...)`.
        allow_non_finite: write numbers that are not finite (NaN, infinities) in tensors that are no coefficients;
            `load` needs the same then. Infinities in buffers, as masks have them, are written in any case.

    Returns:
        Sizes and counts.

    Raises:
        ArgumentError: a codec is unknown, a number does not fit into it or is not finite, the model is no module or
            keeps state that is not a tensor, the metadata is no JSON object, or the folder does not exist.
        StructureError: the model is no longer what its record says; or it wraps or holds the network that an edit was
            made on (`DataParallel`, `DistributedDataParallel`, `torch.compile`, a class around a pruned backbone).
    """
    report = write(
        model,
        path,
        codec=codec,
        other_codec=other_codec,
        metadata=metadata,
        registered=registered,
        allow_non_finite=allow_non_finite,
    )
    _log.info("saved %s", report)
    return report


def write(model: nn.Module, path: str | Path, **settings: Any) -> SaveReport:
    """`save` without a word in the log, for callers that say themselves what was written."""
    _check_arguments(model, path)
    content, tensors = pack(model, **settings)
    report = SaveReport(
        str(path),
        len(content),
        dense_bytes(tensors.num_parameters()),
        compression_ratio(tensors.num_parameters(), len(content)),
        tensors.num_parameters(),
        tensors.dense_of_kept(),
        sum(entry.num_kept for entry in tensors.coefficients),
    )
    # Last: whatever fails before leaves an old file as it was.
    write_atomically(path, content)
    return report


def _check_arguments(model: object, path: object) -> None:
    """Raise `ArgumentError` for the slips that would end in an error of Python's."""
    if isinstance(model, (str, os.PathLike)) and isinstance(path, nn.Module):
        raise ArgumentError("the network comes first: save(model, path)")
    if isinstance(model, Mapping):
        raise ArgumentError(
            "expected a network, got a dict: a state_dict does not tell the layers; load it into its network "
            "(model.load_state_dict(...)) and save that"
        )
    check_module("save", model)
    if not isinstance(path, (str, os.PathLike)):
        raise ArgumentError(f"expected the name of the file to write, got {type(path).__name__}")


def pack(
    model: nn.Module,
    *,
    codec: str,
    other_codec: str | None = None,
    metadata: Mapping[str, Any] | None = None,
    registered: bool = True,
    allow_non_finite: bool = False,
) -> tuple[bytes, NetworkTensors]:
    """The bytes of the file and the tensors in it; see `save`."""
    model = without_views(model)
    coefficient_type = float_type(codec)
    other_type = None if other_codec is None else float_type(other_codec)
    if metadata is not None and not isinstance(metadata, Mapping):
        raise ArgumentError(f"metadata must be a dict, got {type(metadata).__name__}")
    record = record_of(model) if registered else Record(None, record_of(model).edits)
    edits = [edit.current(model) for edit in record.edits]
    check_not_wrapped(model, registered=registered)
    tensors = network_tensors(model, edits)
    check_covered(model, tensors, rebuilt=record.base is not None or not registered)
    if not non_finite_allowed(allow_non_finite):
        _check_finite(tensors.others)
    encoded = _encode_edits(model, record.base, edits, tensors)
    stored = [type_number(_stored_type(other, other_type), name=other.name) for other in tensors.others]
    contents = Contents(
        base=None if record.base is None else _stored_base(record.base),
        digest=tensors.digest(),
        metadata={**told(model), **(metadata or {})},
        edits=tuple(encoded),
        others=() if record.base is not None else _stored_others(tensors.others),
        coefficients=_coefficient_stream(tensors, coefficient_type) if tensors.coefficients else None,
        other_types=tuple(stored),
        other_streams=tuple(_other_streams(tensors.others, stored, other_type)),
    )
    return encode(contents), tensors


def dense_bytes(num_parameters: int) -> int:
    """The bytes of a dense network's parameters in float32, which all ratios compare with."""
    return num_parameters * torch.float32.itemsize


def compression_ratio(num_parameters: int, file_bytes: int) -> float | None:
    """Dense bytes over bytes of the whole file; None for a network without parameters."""
    return round(dense_bytes(num_parameters) / file_bytes, 4) if num_parameters else None


def _check_finite(others: Sequence[OtherTensor]) -> None:
    found = next(
        (other.name for other in others if has_non_finite(other.name, other.tensor, is_parameter=other.is_parameter)),
        None,
    )
    if found is not None:
        raise ArgumentError(
            f"{found} has numbers that are not finite, so the network's answers are likely none; "
            "allow_non_finite=True writes them all the same"
        )


def _stored_base(base: Base) -> StoredBase:
    places = list(family(base.name).defaults)
    return StoredBase(base.name, tuple((places.index(key), value) for key, value in base.arguments.items()))


def _encode_edits(
    model: nn.Module, base: Base | None, edits: Sequence[Edit], tensors: NetworkTensors
) -> list[tuple[int, bytes]]:
    """The edits as bytes; with a base they are made again on a bare copy of it, which must be the same network."""
    with torch.device("meta"):
        rebuilt = None if base is None else create_model(base.name, **base.arguments)
    encoded = []
    try:
        for edit in edits:
            writer = Writer()
            if rebuilt is not None:
                edit.check(rebuilt)
            edit.encode(writer, rebuilt)
            content = writer.getvalue()
            if type(edit).decode(Reader(content), rebuilt) != edit:
                raise StructureError(f"the edit {edit.kind!r} does not survive its encoding")
            if rebuilt is not None:
                edit.apply(rebuilt)
            encoded.append((edit.number, content))
        if rebuilt is not None:
            check_same_network(rebuilt, network_tensors(rebuilt, list(edits)), model, tensors)
    except TailcutError as error:
        raise StructureError(_changed(base, str(error))) from error
    return encoded


def _changed(base: Base | None, why: str) -> str:
    if base is None:
        return f"an edit cannot be written: {why}"
    return (
        f"the model is no longer the registered {base.name!r} with its recorded edits ({why}); "
        "save it as a class of your own with registered=False, and load it with into="
    )


def _coefficient_stream(tensors: NetworkTensors, dtype: torch.dtype) -> Stream:
    for entry in tensors.coefficients:
        if not entry.values.is_meta and not bool(torch.isfinite(entry.values).all()):
            raise ArgumentError(
                f"{entry.name} has coefficients that are not finite; one of them spoils the whole tensor"
            )
    content = b"".join(to_bytes(entry.values, dtype, name=entry.name) for entry in tensors.coefficients)
    codec_number, payload = codecs.best(content, dtype.itemsize)
    return Stream(type_number(dtype, name="coefficients"), codec_number, payload)


def _stored_type(other: OtherTensor, other_type: torch.dtype | None) -> torch.dtype:
    is_float = other.tensor.dtype.is_floating_point
    return other_type if is_float and other_type is not None else other.tensor.dtype


def _other_streams(others: Sequence[OtherTensor], types: Sequence[int], other_type: torch.dtype | None) -> list[Stream]:
    streams = []
    for number in dict.fromkeys(types):
        members = [other for other, stored in zip(others, types, strict=True) if stored == number]
        dtype = _stored_type(members[0], other_type)
        content = b"".join(to_bytes(other.tensor, dtype, name=other.name) for other in members)
        codec_number, payload = codecs.best(content, dtype.itemsize)
        streams.append(Stream(number, codec_number, payload))
    return streams


def _stored_others(others: Sequence[OtherTensor]) -> tuple[StoredOther, ...]:
    return tuple(StoredOther(other.name, other.shape, other.is_parameter) for other in others)
