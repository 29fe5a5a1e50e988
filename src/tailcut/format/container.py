"""The bytes of a `.tailcut` file, version 1: SPEC.md in this folder describes every one of them."""

import json
import math
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from tailcut.errors import (
    ArgumentError,
    ChecksumError,
    CorruptFileError,
    LimitError,
    NotTailcutFileError,
    TruncatedFileError,
    UnsupportedVersionError,
)
from tailcut.format import codecs
from tailcut.format.numbers import number_type
from tailcut.structure import Reader, Writer
from tailcut.structure.wire import Value

MAGIC = b"\x89TCT"
VERSION = 1
MAX_METADATA_BYTES = 1 << 16
MAX_ARGUMENTS = 64
MAX_EDITS = 16
MAX_OTHERS = 1 << 16
MAX_EDIT_BYTES = 1 << 22
MAX_AXES = 16
_HEAD_BYTES = len(MAGIC) + 1 + 4
_OWN_CLASS, _REGISTERED = 0, 1


@dataclass(frozen=True)
class StoredBase:
    """A registered name, and the arguments that differ from the defaults by their place in the signature."""

    name: str
    arguments: tuple[tuple[int, Value], ...]


@dataclass(frozen=True)
class StoredOther:
    """Name, shape and kind of a tensor of a user's own class."""

    name: str
    shape: tuple[int, ...]
    is_parameter: bool


@dataclass(frozen=True)
class Stream:
    """The numbers of several tensors, one after the other, as one payload.

    Attributes:
        type_number: see numbers.py.
        codec_number: the lossless codec of the payload.
        payload: the encoded bytes.
    """

    type_number: int
    codec_number: int
    payload: bytes

    def decode(self, count: int) -> bytes:
        """The `count` numbers as bytes. Raises `CorruptFileError` if the payload does not hold just these."""
        item_bytes = number_type(self.type_number).itemsize
        return codecs.decode(self.codec_number, self.payload, count * item_bytes, item_bytes)


@dataclass(frozen=True)
class Contents:
    """What a file holds, not yet interpreted.

    Attributes:
        base: None for a user's own class.
        digest: of the canonical list of tensors, 4 bytes.
        metadata: the user's JSON.
        edits: (number of the kind, its bytes), in order.
        others: names and shapes of the other tensors; empty if the base tells them.
        coefficients: the stream of all coefficients, None if there are none.
        other_types: number type of each other tensor, in order.
        other_streams: one stream per type that occurs, in the order of first occurrence.
    """

    base: StoredBase | None
    digest: bytes
    metadata: dict[str, Any]
    edits: tuple[tuple[int, bytes], ...]
    others: tuple[StoredOther, ...] = ()
    coefficients: Stream | None = None
    other_types: tuple[int, ...] = ()
    other_streams: tuple[Stream, ...] = field(default=())


def encode(contents: Contents) -> bytes:
    """The bytes of a file.

    Raises:
        ArgumentError: the metadata is no JSON object or larger than the cap.
    """
    writer = Writer()
    writer.raw(contents.digest)
    _write_base(writer, contents.base)
    _write_metadata(writer, contents.metadata)
    writer.uint(len(contents.edits))
    for number, content in contents.edits:
        writer.uint(number)
        writer.uint(len(content))
        writer.raw(content)
    if contents.base is None:
        _write_others(writer, contents.others)
    _write_types(writer, contents.other_types)
    streams = ([] if contents.coefficients is None else [contents.coefficients]) + list(contents.other_streams)
    writer.byte(contents.coefficients is not None)
    for stream in streams:
        writer.byte(stream.type_number << 4 | stream.codec_number)
    # The last payload ends where the file ends; only those before it need a length.
    for stream in streams[:-1]:
        writer.uint(len(stream.payload))
    for stream in streams:
        writer.raw(stream.payload)
    body = writer.getvalue()
    return MAGIC + bytes([VERSION]) + zlib.crc32(body).to_bytes(4, "little") + body


def decode(content: bytes) -> Contents:
    """Take the bytes of a file apart, with every number checked against what is there.

    Raises:
        FormatError: in one of its kinds; see `tailcut.errors`.
    """
    _check_head(content)
    reader = Reader(content[_HEAD_BYTES:])
    digest = reader.raw(4)
    base = _read_base(reader)
    metadata = _read_metadata(reader)
    count = reader.uint(at_most=MAX_EDITS, of="the number of edits")
    edits = tuple((reader.uint(of="the kind of an edit"), _read_edit(reader)) for _ in range(count))
    others = _read_others(reader) if base is None else ()
    types = _read_types(reader)
    if base is None and len(types) != len(others):
        raise CorruptFileError(f"{len(types)} number types for {len(others)} other tensors")
    has_coefficients = reader.byte()
    if has_coefficients > 1:
        raise CorruptFileError("the mark of the coefficients is neither 0 nor 1")
    streams = _read_streams(reader, has_coefficients + len(dict.fromkeys(types)))
    reader.end()
    other_streams = tuple(streams[has_coefficients:])
    if [stream.type_number for stream in other_streams] != list(dict.fromkeys(types)):
        raise CorruptFileError("the types of the streams are not those of the tensors")
    return Contents(
        base, digest, metadata, edits, others, streams[0] if has_coefficients else None, types, other_streams
    )


def _check_head(content: bytes) -> None:
    if content[: len(MAGIC)] != MAGIC[: len(content)] or not content:
        raise NotTailcutFileError("not a .tailcut file: it does not begin with the magic bytes 89 54 43 54")
    if len(content) > len(MAGIC) and content[len(MAGIC)] != VERSION:
        raise UnsupportedVersionError(
            f"the file has format version {content[len(MAGIC)]}, this Tailcut reads version {VERSION}; "
            "update tailcut (pip install -U tailcut)"
        )
    if len(content) < _HEAD_BYTES + 4:
        raise TruncatedFileError(f"the file ends after {len(content)} bytes, in its head")
    stored = int.from_bytes(content[_HEAD_BYTES - 4 : _HEAD_BYTES], "little")
    if zlib.crc32(content[_HEAD_BYTES:]) != stored:
        raise ChecksumError("the checksum does not match: the file is damaged or cut short; get a fresh copy")


def _write_base(writer: Writer, base: StoredBase | None) -> None:
    if base is None:
        writer.byte(_OWN_CLASS)
        return
    writer.byte(_REGISTERED)
    writer.text(base.name)
    writer.uint(len(base.arguments))
    for place, value in base.arguments:
        writer.uint(place)
        writer.value(value)


def _read_base(reader: Reader) -> StoredBase | None:
    kind = reader.byte()
    if kind == _OWN_CLASS:
        return None
    if kind != _REGISTERED:
        raise CorruptFileError(f"unknown kind of base {kind}")
    name = reader.text()
    count = reader.uint(at_most=MAX_ARGUMENTS, of="the number of arguments")
    arguments = tuple(
        (reader.uint(at_most=MAX_ARGUMENTS, of="the place of an argument"), reader.value()) for _ in range(count)
    )
    if len({place for place, _ in arguments}) < count:
        raise CorruptFileError("an argument is given twice")
    return StoredBase(name, arguments)


def _write_metadata(writer: Writer, metadata: dict[str, Any]) -> None:
    try:
        encoded = json.dumps(metadata, separators=(",", ":"), allow_nan=False).encode() if metadata else b""
    except (TypeError, ValueError, RecursionError) as error:
        raise ArgumentError(f"metadata must be what JSON can hold: {error}") from error
    if len(encoded) > MAX_METADATA_BYTES:
        raise ArgumentError(f"metadata takes {len(encoded)} bytes as JSON, at most {MAX_METADATA_BYTES} are allowed")
    writer.uint(len(encoded))
    writer.raw(encoded)


def _read_metadata(reader: Reader) -> dict[str, Any]:
    encoded = reader.raw(reader.uint(at_most=MAX_METADATA_BYTES, of="the size of the metadata"))
    if not encoded:
        return {}
    try:
        metadata = json.loads(encoded.decode())
    except (ValueError, RecursionError) as error:
        raise CorruptFileError(f"the metadata is no valid JSON: {type(error).__name__}") from error
    if not isinstance(metadata, dict):
        raise CorruptFileError("the metadata is no JSON object")
    return metadata


def _read_edit(reader: Reader) -> bytes:
    return reader.raw(reader.uint(at_most=MAX_EDIT_BYTES, of="the size of an edit"))


def _write_others(writer: Writer, others: Sequence[StoredOther]) -> None:
    writer.uint(len(others))
    for other in others:
        writer.byte(other.is_parameter)
        writer.text(other.name)
        writer.uint(len(other.shape))
        for size in other.shape:
            writer.uint(size)


def _read_others(reader: Reader) -> tuple[StoredOther, ...]:
    count = reader.uint(at_most=MAX_OTHERS, of="the number of other tensors")
    others = []
    for _ in range(count):
        is_parameter = reader.byte()
        if is_parameter > 1:
            raise CorruptFileError("the kind of a tensor is neither 0 nor 1")
        name = reader.text()
        num_axes = reader.uint(at_most=MAX_AXES, of="the number of axes")
        shape = tuple(reader.uint(of="the size of an axis") for _ in range(num_axes))
        others.append(StoredOther(name, shape, bool(is_parameter)))
    if len({other.name for other in others}) < count:
        raise CorruptFileError("a tensor is named twice")
    return tuple(others)


def _write_types(writer: Writer, types: Sequence[int]) -> None:
    """Runs of equal types: (how many, type)."""
    runs: list[list[int]] = []
    for number in types:
        if runs and runs[-1][1] == number:
            runs[-1][0] += 1
        else:
            runs.append([1, number])
    writer.uint(len(runs))
    for length, number in runs:
        writer.uint(length)
        writer.byte(number)


def _read_types(reader: Reader) -> tuple[int, ...]:
    types: list[int] = []
    for _ in range(reader.uint(at_most=MAX_OTHERS, of="the number of runs of types")):
        length = reader.uint(at_most=MAX_OTHERS - len(types), of="the length of a run of types")
        number = reader.byte()
        number_type(number)
        if length == 0 or (types and types[-1] == number):
            raise CorruptFileError("a run of number types is empty or not joined")
        types += [number] * length
    return tuple(types)


def _read_streams(reader: Reader, count: int) -> list[Stream]:
    kinds = [reader.byte() for _ in range(count)]
    for kind in kinds:
        number_type(kind >> 4)
    lengths = [reader.uint(at_most=reader.remaining, of="the length of a payload") for _ in kinds[:-1]]
    if sum(lengths) > reader.remaining:
        raise LimitError(f"payloads of {sum(lengths)} bytes are claimed, {reader.remaining} are there")
    lengths.append(reader.remaining - sum(lengths))
    return [Stream(kind >> 4, kind & 15, reader.raw(length)) for kind, length in zip(kinds, lengths, strict=False)]


def check_total(shapes: Sequence[tuple[int, ...]], max_parameters: int) -> None:
    """Raise `LimitError` if tensors of these shapes hold more than `max_parameters` numbers together."""
    total = sum(math.prod(shape) for shape in shapes)
    if total > max_parameters:
        raise LimitError(
            f"the network has {total} numbers, at most {max_parameters} are allowed; "
            "if you trust the file, raise the cap with max_parameters="
        )
