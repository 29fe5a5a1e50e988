"""A second decoder of `.tailcut` files, written from SPEC.md alone: nothing of the first one is imported.

It is slow and reads sound files only: damage shows as an error without a kind. From the
package it takes the reference decoder of DEFLATE, from the conformance corpus's reader, which shares no code with the
package, that of codec 2, and nothing else.
"""

import hashlib
import json
import math
import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from conformance.reference.codecs import RangeDecoder
from tests.format.codecs.inflate import inflate

# Number type -> (struct code, bytes of one); bfloat16 has no code.
TYPES = {0: "f", 1: "e", 2: "", 3: "d", 4: "q", 5: "i", 6: "h", 7: "b", 8: "B", 9: "?"}
SIZES = {0: 4, 1: 2, 2: 2, 3: 8, 4: 8, 5: 4, 6: 2, 7: 1, 8: 1, 9: 1}


@dataclass
class Kept:
    """A tensor kept as coefficients."""

    name: str
    shape: tuple[int, ...]
    axes: tuple[int, ...] = ()
    weights: tuple[int, ...] = ()
    count: int = 0
    values: list[float] = field(default_factory=list)


@dataclass
class Other:
    """A tensor stored as it is, row-major."""

    name: str
    shape: tuple[int, ...]
    kind: str
    values: list[Any] = field(default_factory=list)


@dataclass
class Content:
    """All that a file says."""

    base: str
    arguments: dict[int, Any]
    metadata: dict[str, Any]
    kept: list[Kept]
    others: list[Other]


@dataclass
class Known:
    """What a reader knows of a registered network: its parameters, and its state_dict without tied tensors."""

    parameters: list[tuple[str, tuple[int, ...]]]
    state: list[tuple[str, tuple[int, ...], str]]


class Items:
    """Takes items off bytes."""

    def __init__(self, content: bytes) -> None:
        self.content = content
        self.place = 0

    def take(self, count: int) -> bytes:
        if self.place + count > len(self.content):
            raise ValueError("cut short")
        self.place += count
        return self.content[self.place - count : self.place]

    def varint(self) -> int:
        value = shift = 0
        while True:
            (byte,) = self.take(1)
            value |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                if byte == 0 and shift > 7:
                    raise ValueError("not the shortest form")
                return value

    def float64(self) -> float:
        (value,) = struct.unpack("<d", self.take(8))
        return float(value)

    def text(self) -> str:
        return self.take(self.varint()).decode("utf-8")

    def shape(self) -> tuple[int, ...]:
        return tuple(self.varint() for _ in range(self.varint()))

    def value(self) -> Any:
        (tag,) = self.take(1)
        if tag in (0, 1):
            return tag == 1
        if tag in (2, 3):
            return self.varint() * (1 if tag == 2 else -1)
        if tag == 4:
            return self.float64()
        if tag == 5:
            return self.text()
        if tag == 6:
            return tuple(self.value() for _ in range(self.varint()))
        raise ValueError("unknown tag")

    def bits(self, width: int, count: int) -> list[int]:
        whole = int.from_bytes(self.take((width * count + 7) // 8), "little")
        return [whole >> width * place & (1 << width) - 1 for place in range(count)]

    def end(self) -> None:
        if self.place != len(self.content):
            raise ValueError("bytes are left")


def read(content: bytes, known: Known | None = None) -> Content:
    """Decode a file; `known` is needed for registered networks."""
    if content[:5] != b"\x89TCT\x01" or len(content) < 13:
        raise ValueError("no file of version 1")
    if struct.unpack("<I", content[5:9])[0] != zlib.crc32(content[9:]):
        raise ValueError("checksum")
    body = Items(content[9:])
    digest = body.take(4)
    mark = body.varint()
    if mark % 2:
        expanded = body.varint()
        header = Items(inflate(body.take(mark // 2), expanded))
    else:
        header = Items(body.take(mark // 2))

    base = header.text()
    arguments = {header.varint(): header.value() for _ in range(header.varint())} if base else {}
    metadata = header.take(header.varint())
    kept: list[Kept] = []
    for _ in range(header.varint()):
        kind = header.varint()
        edit = Items(header.take(header.varint()))
        if kind != 1:
            raise ValueError("unknown edit")
        kept += read_regularize(edit, known if base else None)
        edit.end()
    others = read_others(header, kept, known if base else None)
    read_numbers(header, body, kept, others)
    check_digest(digest, kept, others)
    return Content(base, arguments, json.loads(metadata) if metadata else {}, kept, others)


def read_regularize(edit: Items, known: Known | None) -> list[Kept]:
    if known is None:
        kept = [Kept(edit.text(), edit.shape()) for _ in range(edit.varint())]
    else:
        chosen = edit.bits(1, len(known.parameters))
        kept = [Kept(name, shape) for (name, shape), bit in zip(known.parameters, chosen, strict=True) if bit]
    settings = []
    for _ in range(edit.varint()):
        mask = edit.varint()
        settings.append((mask, [edit.varint() for _ in range(edit.varint())]))
    settings = settings or [(0, [])]
    for tensor in kept:
        mask, weights = settings[edit.varint() if len(settings) > 1 else 0]
        every = range(len(tensor.shape))
        tensor.axes = tuple(axis for axis in every if mask == 0 or (mask - 1) >> axis & 1)
        tensor.weights = tuple((weights or [1] * len(tensor.axes))[: len(tensor.axes)])
    for tensor, count in zip(kept, read_counts(edit, kept), strict=True):
        tensor.count = count
    return kept


def read_counts(edit: Items, kept: list[Kept]) -> list[int]:
    (way,) = edit.take(1)
    sizes = [math.prod(tensor.shape) for tensor in kept]
    if way in (0, 3):
        largest = edit.varint()
        counts = [min(largest, size) for size in sizes]
    elif way in (1, 4):
        ratio = edit.float64()
        frequencies = [math.prod(tensor.shape[axis] for axis in tensor.axes) for tensor in kept]
        counts = [
            size // number * min(number, max(1, math.floor(ratio * number + 0.5)))
            for size, number in zip(sizes, frequencies, strict=True)
        ]
    elif way == 2:
        counts = [edit.varint() for _ in kept]
    else:
        raise ValueError("unknown way")
    if way in (3, 4):
        below = edit.varint()
        (width,) = edit.take(1)
        counts = [count + more - below for count, more in zip(counts, edit.bits(width, len(kept)), strict=True)]
    return counts


def read_others(header: Items, kept: list[Kept], known: Known | None) -> list[Other]:
    others = []
    if known is None:
        for _ in range(header.varint()):
            (is_parameter,) = header.take(1)
            others.append(Other(header.text(), header.shape(), "bp"[is_parameter]))
    else:
        names = {tensor.name for tensor in kept}
        others = [Other(*entry) for entry in known.state if entry[0] not in names]
    return others


def read_numbers(header: Items, body: Items, kept: list[Kept], others: list[Other]) -> None:
    mark = header.varint()
    types: list[int] = []
    for _ in range(mark // 2):
        length = header.varint()
        types += [header.take(1)[0]] * length
    in_streams: list[tuple[int | None, Sequence[Kept | Other]]] = [(None, kept)] if mark % 2 else []
    for number in dict.fromkeys(types):
        in_streams.append((number, [other for other, own in zip(others, types, strict=True) if own == number]))
    kinds = [header.take(1)[0] for _ in in_streams]
    lengths = [header.varint() for _ in in_streams[:-1]]
    header.end()
    lengths.append(len(body.content) - body.place - sum(lengths))
    for (own_type, tensors), kind, length in zip(in_streams, kinds, lengths, strict=False):
        if own_type not in (None, kind // 16):
            raise ValueError("type of a stream")
        counts = [tensor.count if isinstance(tensor, Kept) else math.prod(tensor.shape) for tensor in tensors]
        values = numbers_of(decode(kind % 16, body.take(length), sum(counts), SIZES[kind // 16]), kind // 16)
        for tensor, count in zip(tensors, counts, strict=True):
            tensor.values, values = values[:count], values[count:]
    body.end()


def numbers_of(content: bytes, number: int) -> list[Any]:
    count = len(content) // SIZES[number]
    if number == 2:
        words = struct.unpack(f"<{count}H", content)
        return [struct.unpack("<f", struct.pack("<I", word << 16))[0] for word in words]
    return list(struct.unpack(f"<{count}{TYPES[number]}", content))


def check_digest(digest: bytes, kept: list[Kept], others: list[Other]) -> None:
    def ints(values: tuple[int, ...]) -> str:
        return ",".join(str(value) for value in values)

    lines = [f"{entry.name} {ints(entry.shape)} {ints(entry.axes)} {ints(entry.weights)}\n" for entry in kept]
    lines += [f"{entry.name} {ints(entry.shape)} {entry.kind}\n" for entry in others]
    if hashlib.blake2b("".join(lines).encode(), digest_size=4).digest() != digest:
        raise ValueError("digest")


def decode(dtype: int, payload: bytes, count: int, size: int) -> bytes:
    if dtype == 0:
        content = payload
    elif dtype == 1:
        planes = inflate(payload, count * size)
        # Plane 0 has the most significant byte of each number, which comes last in the number.
        content = bytes(planes[(size - 1 - byte) * count + item] for item in range(count) for byte in range(size))
    elif dtype == 2:
        content = RangeDecoder(payload, 8 * size).run(count)
    else:
        raise ValueError("unknown codec")
    if len(content) != count * size:
        raise ValueError("length of a payload")
    return content
