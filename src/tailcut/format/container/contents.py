"""Container of a `.tailcut` file, versions 1 to 3: header, streams and checksum as in SPEC.md."""

import itertools
import json
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from tailcut.errors import (
    ArgumentError,
    ChecksumError,
    CorruptFileError,
    FormatError,
    LimitError,
    NotTailcutFileError,
    TruncatedFileError,
    UnsupportedVersionError,
)
from tailcut.format import codecs
from tailcut.format.container.level_blocks import join_blocks, split_blocks
from tailcut.format.container.numbers import INTEGERS, QUANTIZED, dtype_of
from tailcut.format.quantized import NUMBERS as QUANTIZED_CODECS
from tailcut.limits import MAX_TENSORS
from tailcut.structure import Reader, Writer
from tailcut.structure.wire import Value

MAGIC = b"\x89TCT"
VERSIONS = (1, 2, 3)
"""What is read. Files with levels are written as version 3, others with quantised numbers as version 2."""

MAX_HEADER_BYTES = 1 << 20
MAX_METADATA_BYTES = 1 << 16
MAX_ARGUMENTS = 64
MAX_EDITS = 16
HEAD_BYTES = len(MAGIC) + 1 + 4
# The most bytes of a file that are not its numbers: head, digest, header and its two sizes.
DIGEST_BYTES = 4
MAX_FRAME_BYTES = HEAD_BYTES + DIGEST_BYTES + MAX_HEADER_BYTES + 8
_OWN_CLASS = ""


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

    def decode(self, count: int, known: bytes = b"") -> bytes:
        """Return the `count` numbers as bytes. Raises `CorruptFileError` if the payload holds fewer or more.

        Args:
            count: of numbers in this payload.
            known: the numbers of the levels below.
        """
        item_bytes = dtype_of(self.type_number).itemsize
        return codecs.decode(self.codec_number, self.payload, count * item_bytes, item_bytes, known)


@dataclass(frozen=True)
class Level:
    """A level's own part, beside those below it.

    Attributes:
        coefficients: the stream of its further coefficients; None in a file without coefficients.
        has_others: whether it has the other tensors; otherwise they are those of the level below.
        other_streams: their streams.
    """

    coefficients: Stream | None
    has_others: bool
    other_streams: tuple[Stream, ...]


@dataclass(frozen=True)
class Contents:
    """Contents of a file, not yet interpreted.

    Attributes:
        base: None for a user's own class.
        digest: of the canonical list of tensors, 4 bytes.
        metadata: the user's JSON.
        edits: (number of the kind, its bytes), in order.
        others: names and shapes of the other tensors; empty if they follow from the base.
        coefficients: the stream of all coefficients, None if there are none.
        other_types: number type of each other tensor, in order.
        other_streams: one stream per type that occurs, in the order of first occurrence. Quantised and whole numbers
            have one together, after the coefficients' if these are quantised too: that of the coefficients.
        version: of the format.
        parts: of each level but the highest, the parts of the coefficients that it has of the level above; empty for
            a file without levels. The fields above are those of the lowest level, but the edits those of the highest.
        added: the levels above the lowest, as far as they were read.
        level_ends: of a file with levels, how many bytes of it each level that was read needs.
    """

    base: StoredBase | None
    digest: bytes
    metadata: dict[str, Any]
    edits: tuple[tuple[int, bytes], ...]
    others: tuple[StoredOther, ...] = ()
    coefficients: Stream | None = None
    other_types: tuple[int, ...] = ()
    other_streams: tuple[Stream, ...] = field(default=())
    version: int = 1
    parts: tuple[int, ...] = ()
    added: tuple[Level, ...] = ()
    level_ends: tuple[int, ...] = field(default=(), compare=False)

    @property
    def levels(self) -> tuple[Level, ...]:
        """All levels that were read, the lowest first."""
        return (Level(self.coefficients, True, self.other_streams), *self.added)

    @property
    def parts_above(self) -> tuple[int, ...]:
        """From the highest level of the file down, what leads to the counts of the highest level that was read."""
        return self.parts[len(self.added) :][::-1]

    @property
    def has_quantized_coefficients(self) -> bool:
        """True if the coefficients' stream holds quantised numbers, and so those of the other tensors too."""
        return self.coefficients is not None and self.coefficients.type_number == QUANTIZED

    @property
    def quantized_stream(self) -> Stream | None:
        """The stream of all quantised and whole numbers, None if there is none."""
        return next((stream for stream in _streams(self) if stream.type_number == QUANTIZED), None)


def encode(contents: Contents) -> bytes:
    """Return the bytes of a file.

    Raises:
        ArgumentError: the contents pass a cap of the format, or the metadata is no JSON object.
    """
    version = 3 if contents.parts else 1 if contents.quantized_stream is None else 2
    header = _encode_header(contents)
    try:
        # What is written can be read: the reader's rules are the writer's too.
        _decode_header(Reader(header, what="header"), contents.digest, version)
        if len(header) > MAX_HEADER_BYTES:
            raise LimitError(f"the header has {len(header)} bytes, at most {MAX_HEADER_BYTES} are allowed")
    except FormatError as error:
        raise ArgumentError(f"the network does not fit into a .tailcut file: {error}") from error
    body = contents.digest + min(_plain(header), _deflated(header), key=len)
    body += b"".join(stream.payload for stream in _streams(contents))
    if version == 3:
        blocks = [body, *map(_encode_level, contents.added)]
        return MAGIC + bytes([version]) + join_blocks(contents.parts, blocks)
    return MAGIC + bytes([version]) + zlib.crc32(body).to_bytes(4, "little") + body


def decode(content: bytes, level: int | None = None) -> Contents:
    """Take the bytes of a file apart, with every number checked against what is there.

    Args:
        content: of the file.
        level: the highest level to be read, from 1; all that are there when None.

    Raises:
        FormatError: in one of its kinds; see `tailcut.errors`.
        ArgumentError: the file has no such level.
    """
    check_magic(content)
    if len(content) < HEAD_BYTES + DIGEST_BYTES:
        raise TruncatedFileError(f"the file ends after {len(content)} bytes, in its head")
    version = content[len(MAGIC)]
    if version == 3:
        parts, blocks = split_blocks(content, level)
        contents = _decode_body(Reader(blocks[0].content), version)
        if contents.coefficients is None:
            raise CorruptFileError("levels of a network without coefficients")
        added = tuple(_decode_level(Reader(block.content), contents) for block in blocks[1:])
        return replace(contents, parts=parts, added=added, level_ends=tuple(block.end for block in blocks))
    if level not in (None, 1):
        raise ArgumentError(f"the file has no levels, asked for was level {level}")
    stored = int.from_bytes(content[HEAD_BYTES - 4 : HEAD_BYTES], "little")
    if zlib.crc32(memoryview(content)[HEAD_BYTES:]) != stored:
        raise ChecksumError("the checksum does not match: the file is damaged or cut short; get a fresh copy")
    return _decode_body(Reader(content[HEAD_BYTES:]), version)


def _decode_body(reader: Reader, version: int) -> Contents:
    digest = reader.raw(DIGEST_BYTES)
    contents, lengths = _decode_header(Reader(_read_header(reader), what="header"), digest, version)
    # The last payload ends where the file ends; only those before it have a length.
    payloads = [reader.raw(length) for length in lengths]
    payloads.append(reader.raw(reader.remaining))
    kinds = list(_streams(contents))
    if not kinds and payloads[-1]:
        raise CorruptFileError(f"{len(payloads[-1])} bytes follow the header of a file without numbers")
    filled = [replace(stream, payload=payload) for stream, payload in zip(kinds, payloads, strict=False)]
    has_coefficients = contents.coefficients is not None
    return replace(
        contents,
        coefficients=filled[0] if has_coefficients else None,
        other_streams=tuple(filled[has_coefficients:]),
    )


def _encode_level(level: Level) -> bytes:
    writer = Writer()
    writer.byte(level.has_others)
    streams = [stream for stream in (level.coefficients, *level.other_streams) if stream is not None]
    for stream in streams:
        writer.byte(stream.codec_number)
    for stream in streams[:-1]:
        writer.uint(len(stream.payload))
    return writer.getvalue() + b"".join(stream.payload for stream in streams)


def _decode_level(reader: Reader, lowest: Contents) -> Level:
    """Return the level of a block: its streams have the number types of those in the lowest level."""
    has_others = reader.byte()
    if has_others > 1:
        raise CorruptFileError("the first byte of a level is neither 0 nor 1")
    kinds = list(_streams(lowest)) if has_others else list(_streams(lowest))[:1]
    streams = [_checked_stream(kind.type_number, reader.byte(), 3) for kind in kinds]
    for kind, stream in zip(kinds, streams, strict=True):
        if kind.type_number == QUANTIZED and stream.codec_number != kind.codec_number:
            raise CorruptFileError(f"quantised numbers in codec {stream.codec_number} above {kind.codec_number}")
    lengths = [reader.uint(of="the length of a payload") for _ in streams[:-1]]
    payloads = [reader.raw(length) for length in lengths]
    payloads.append(reader.raw(reader.remaining))
    filled = [replace(stream, payload=payload) for stream, payload in zip(streams, payloads, strict=True)]
    return Level(filled[0], bool(has_others), tuple(filled[1:]))


def check_magic(content: bytes) -> None:
    """Raise unless `content`, the first bytes of a file, are those of a file that this version reads."""
    if content[: len(MAGIC)] != MAGIC[: len(content)] or not content:
        why = "it does not begin with the magic bytes 89 54 43 54" if len(content) else "it is empty"
        if content.startswith((b"PK", b"\x80")):
            why += ", but as torch.save's do: tailcut pack makes one of it, with --model NAME"
        raise NotTailcutFileError(f"not a .tailcut file: {why}")
    if len(content) > len(MAGIC) and content[len(MAGIC)] not in VERSIONS:
        raise UnsupportedVersionError(
            f"the file has format version {content[len(MAGIC)]}, this Tailcut reads versions 1 to 3; update Tailcut"
        )


def _plain(header: bytes) -> bytes:
    writer = Writer()
    writer.uint(len(header) << 1)
    return writer.getvalue() + header


def _deflated(header: bytes) -> bytes:
    packed = codecs.DEFLATE.encode(header, 1)
    writer = Writer()
    writer.uint(len(packed) << 1 | 1)
    writer.uint(len(header))
    return writer.getvalue() + packed


def _read_header(reader: Reader) -> bytes:
    """Return the header's bytes, decompressed if compressed (names of hundreds of tensors compress well)."""
    mark = reader.uint(at_most=MAX_HEADER_BYTES << 1 | 1, of="the size of the header")
    if not mark & 1:
        return reader.raw(mark >> 1)
    num_bytes = reader.uint(at_most=MAX_HEADER_BYTES, of="the size of the header")
    return codecs.DEFLATE.decode(reader.raw(mark >> 1), num_bytes, 1)


def _streams(contents: Contents) -> Iterator[Stream]:
    if contents.coefficients is not None:
        yield contents.coefficients
    yield from contents.other_streams


def _encode_header(contents: Contents) -> bytes:
    writer = Writer()
    _write_base(writer, contents.base)
    _write_metadata(writer, contents.metadata)
    writer.uint(len(contents.edits))
    for number, content in contents.edits:
        writer.uint(number)
        writer.uint(len(content))
        writer.raw(content)
    if contents.base is None:
        _write_others(writer, contents.others)
    _write_types(writer, contents.other_types, contents.coefficients is not None)
    streams = list(_streams(contents))
    for stream in streams:
        writer.byte(stream.type_number << 4 | stream.codec_number)
    for stream in streams[:-1]:
        writer.uint(len(stream.payload))
    return writer.getvalue()


def _decode_header(reader: Reader, digest: bytes, version: int) -> tuple[Contents, list[int]]:
    """Return the contents with empty payloads, and the lengths of all payloads but the last."""
    base = _read_base(reader)
    metadata = _read_metadata(reader)
    count = reader.uint(at_most=MAX_EDITS, of="the number of edits")
    edits = tuple(
        (reader.uint(of="the kind of an edit"), reader.raw(reader.uint(of="the size of an edit"))) for _ in range(count)
    )
    others = _read_others(reader) if base is None else ()
    has_coefficients, types = _read_types(reader, version)
    if base is None and len(types) != len(others):
        raise CorruptFileError(f"{len(types)} number types for {len(others)} other tensors")
    first = _read_stream(reader, version) if has_coefficients else None
    expected = stream_types(types, has_quantized_coefficients=first is not None and first.type_number == QUANTIZED)
    streams = [first] if first is not None else []
    streams += [_read_stream(reader, version) for _ in expected]
    if [stream.type_number for stream in streams[has_coefficients:]] != expected:
        raise CorruptFileError("the types of the streams are not those of the tensors")
    lengths = [reader.uint(of="the length of a payload") for _ in streams[:-1]]
    reader.end()
    coefficients = streams[0] if has_coefficients else None
    other_streams = tuple(streams[has_coefficients:])
    return Contents(base, digest, metadata, edits, others, coefficients, types, other_streams, version), lengths


def stream_types(types: Sequence[int], *, has_quantized_coefficients: bool) -> list[int]:
    """Return the types of the streams of other tensors.

    Args:
        types: of these tensors.
        has_quantized_coefficients: then quantised and whole numbers are in the coefficients' stream.
    """
    found = dict.fromkeys(QUANTIZED if number == INTEGERS else number for number in types)
    return [number for number in found if not (number == QUANTIZED and has_quantized_coefficients)]


def _read_stream(reader: Reader, version: int) -> Stream:
    kind = reader.byte()
    return _checked_stream(kind >> 4, kind & 15, version)


def _checked_stream(number: int, codec: int, version: int) -> Stream:
    _check_type(number, version)
    # Of several levels it would matter which payload is decoded first; others say so when theirs is.
    if codec not in QUANTIZED_CODECS and (version > 2 or number == QUANTIZED):
        codecs.check_known(codec)
    if version > 1 and (number == QUANTIZED) != (codec in QUANTIZED_CODECS):
        raise CorruptFileError(f"a stream of number type {number} in codec {codec}")
    return Stream(number, codec, b"")


def _check_type(number: int, version: int) -> None:
    if version == 1 and number in (QUANTIZED, INTEGERS):
        raise UnsupportedVersionError(f"unknown number type {number} in a file of version 1")
    dtype_of(number)


def _write_base(writer: Writer, base: StoredBase | None) -> None:
    writer.text(base.name if base is not None else _OWN_CLASS)
    if base is not None:
        writer.uint(len(base.arguments))
        for place, value in base.arguments:
            writer.uint(place)
            writer.value(value)


def _read_base(reader: Reader) -> StoredBase | None:
    name = reader.text()
    if name == _OWN_CLASS:
        return None
    count = reader.uint(at_most=MAX_ARGUMENTS, of="the number of arguments")
    arguments = tuple((reader.uint(of="the place of an argument"), reader.value()) for _ in range(count))
    places = [place for place, _ in arguments]
    if any(later <= earlier for earlier, later in itertools.pairwise(places)):
        raise CorruptFileError("the arguments are not in ascending order")
    return StoredBase(name, arguments)


def _write_metadata(writer: Writer, metadata: dict[str, Any]) -> None:
    try:
        encoded = _json_bytes(metadata) if metadata else b""
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
        # Python reads NaN, infinities and halves of surrogate pairs, which JSON cannot hold: try to write it.
        _json_bytes(metadata)
    except (ValueError, RecursionError) as error:
        raise CorruptFileError(f"the metadata is no valid JSON: {type(error).__name__}") from error
    if not isinstance(metadata, dict):
        raise CorruptFileError("the metadata is no JSON object")
    return metadata


def _json_bytes(metadata: object) -> bytes:
    return json.dumps(metadata, separators=(",", ":"), allow_nan=False, ensure_ascii=False).encode()


def _write_others(writer: Writer, others: Sequence[StoredOther]) -> None:
    writer.uint(len(others))
    for other in others:
        writer.byte(other.is_parameter)
        writer.text(other.name)
        writer.shape(other.shape)


def _read_others(reader: Reader) -> tuple[StoredOther, ...]:
    count = reader.uint(at_most=MAX_TENSORS, of="the number of other tensors")
    others = []
    for _ in range(count):
        is_parameter = reader.byte()
        if is_parameter > 1:
            raise CorruptFileError("the kind of a tensor is neither 0 nor 1")
        others.append(StoredOther(reader.text(), reader.shape(), bool(is_parameter)))
    if len({other.name for other in others}) < count:
        raise CorruptFileError("a tensor is named twice")
    return tuple(others)


def _write_types(writer: Writer, types: Sequence[int], has_coefficients: bool) -> None:
    """Write the number types of the other tensors as runs (count, type), and a flag for the coefficients."""
    runs = [(number, len(list(members))) for number, members in itertools.groupby(types)]
    writer.uint(len(runs) << 1 | has_coefficients)
    for number, length in runs:
        writer.uint(length)
        writer.byte(number)


def _read_types(reader: Reader, version: int) -> tuple[bool, tuple[int, ...]]:
    types: list[int] = []
    mark = reader.uint(at_most=MAX_TENSORS << 1 | 1, of="the number of runs of types")
    for _ in range(mark >> 1):
        length = reader.uint(at_most=MAX_TENSORS - len(types), of="the length of a run of types")
        number = reader.byte()
        _check_type(number, version)
        if length == 0 or (types and types[-1] == number):
            raise CorruptFileError("a run of number types is empty or not joined with the one before")
        types += [number] * length
    return bool(mark & 1), tuple(types)
