"""Writes `.tailcut` files piece by piece, so that each piece can be made wrong. From SPEC.md, and from nothing else."""

import struct
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from conformance.quantized_writer import Writer
from conformance.reference.codecs import QUANTIZED, TYPES
from conformance.reference.decoder import Kept, Other, digest_of, list_others, order_of, stream_types
from conformance.reference.networks import Module
from conformance.reference.quantized import Tensor, row_major, values
from conformance.reference.refusal import RefusedError

MAGIC = b"\x89TCT"
PARAMETERS = (0, -32, 0, 0)

Parameters = Mapping[str, Sequence[int]]
Shifts = Mapping[str, Mapping[int, Sequence[int]]]


def varint(number: int) -> bytes:
    content = bytearray()
    while number > 127:
        content.append(number & 127 | 128)
        number >>= 7
    return bytes([*content, number])


def items(*parts: int | str | bytes | float) -> bytes:
    """Integers as varints, strings as texts, floats as float64, tuples as shapes, bytes as they are."""
    content = b""
    for part in parts:
        if isinstance(part, bytes):
            content += part
        elif isinstance(part, str):
            content += varint(len(part.encode())) + part.encode()
        elif isinstance(part, float):
            content += struct.pack("<d", part)
        else:
            content += varint(part)
    return content


def shape(*sizes: int) -> bytes:
    return items(len(sizes), *sizes)


def value(given: Any) -> bytes:
    if isinstance(given, bool):
        return bytes([given])
    if isinstance(given, int):
        return items(bytes([2 if given >= 0 else 3]), abs(given))
    if isinstance(given, float):
        return items(b"\x04", given)
    if isinstance(given, str):
        return items(b"\x05", given)
    return items(b"\x06", len(given), *map(value, given))


def number_bytes(numbers: Sequence[Any], type_: int) -> bytes:
    """Little-endian numbers of a type; bfloat16 is the upper half of a float32 (which must hold it)."""
    if type_ == 2:
        return b"".join(struct.pack("<f", number)[2:] for number in numbers)
    if type_ == QUANTIZED:  # its bytes follow from its parameters, see `fill_in`
        return b""
    return struct.pack(f"<{len(numbers)}{TYPES[type_][2]}", *numbers)


def planes(content: bytes, size: int) -> bytes:
    return b"".join(content[plane::size] for plane in reversed(range(size)))


def stored_block(content: bytes) -> bytes:
    """DEFLATE without compression: one final stored block."""
    length = len(content)
    return b"\x01" + struct.pack("<HH", length, length ^ 0xFFFF) + content


def fixed_block(content: bytes) -> bytes:
    """DEFLATE with the fixed codes of RFC 1951, and a match for each run of a byte: one final block."""
    bits: list[int] = [1, 1, 0]

    def code(number: int, width: int) -> None:
        bits.extend(number >> place & 1 for place in reversed(range(width)))

    def literal(symbol: int) -> None:
        if symbol < 144:
            code(0x30 + symbol, 8)
        elif symbol < 256:
            code(0x190 + symbol - 144, 9)
        elif symbol < 280:
            code(symbol - 256, 7)
        else:
            code(0xC0 + symbol - 280, 8)

    place = 0
    while place < len(content):
        run = 1
        while place + run < len(content) and content[place + run] == content[place] and run < 11:
            run += 1
        literal(content[place])
        if run >= 4:
            literal(257 + min(run - 1, 10) - 3)  # lengths 3 to 10 have no extra bits
            code(0, 5)  # distance 1
            place += min(run - 1, 10) + 1
        else:
            place += 1
    literal(256)
    bits += [0] * (-len(bits) % 8)
    return bytes(sum(bit << place for place, bit in enumerate(bits[at : at + 8])) for at in range(0, len(bits), 8))


def range_payload(content: bytes, size: int, below: bytes = b"") -> bytes:
    """Codec 2, as SPEC.md gives its encoder; contexts begin as if `below` had been coded."""
    width = 8 * size
    zero = [32768] * (256 + width)
    seen = [0] * 32 + [8] * 224 + [4] * width
    written, low, span = 0, 0, 2**32
    length = 0
    for at in range(-len(below), len(content), size):
        item = below[at : at + size or None] if at < 0 else content[at : at + size]
        number = int.from_bytes(item, "little")
        rotated = (number << 1 | number >> (width - 1)) % 2**width
        node = 1
        for place in reversed(range(width)):
            bit = rotated >> place & 1
            context = node if place > width - 9 else 256 + place
            node = 2 * node + bit if place > width - 9 else node
            bound = span // 65536 * zero[context]
            rate = 131072 // (2 * seen[context] + 3)
            zero[context] += -(zero[context] * rate // 65536) if bit else (65536 - zero[context]) * rate // 65536
            seen[context] = min(126, seen[context] + 1)
            if at < 0:
                continue
            if bit:
                low, span = low + bound, span - bound
            else:
                span = bound
            if low >= 2**32:
                low, written = low - 2**32, written + 1
            while span < 2**24:
                written, length = written * 256 + low // 2**24, length + 1
                low, span = low * 256 % 2**32, span * 256
    low += 2**24 - 1
    if low >= 2**32:
        low, written = low - 2**32, written + 1
    return (written * 256 + low // 2**24).to_bytes(length + 1, "big")


CODECS: dict[str, tuple[int, Callable[[bytes, int], bytes]]] = {
    "raw": (0, lambda content, size: content),
    "stored": (1, lambda content, size: stored_block(planes(content, size))),
    "fixed": (1, lambda content, size: fixed_block(planes(content, size))),
    "range": (2, range_payload),
}


def formula(count: int, type_: int, start: int = 0) -> list[Any]:
    """Numbers that every type holds without rounding."""
    numbers = [(37 * (start + place)) % 101 for place in range(count)]
    name = TYPES[type_][0]
    if name == "bool":
        return [number % 2 for number in numbers]
    if name == "uint8":
        return numbers
    if name.startswith("int") or name == "quantized":
        return [number - 50 for number in numbers]
    return [(number - 50) / 16 for number in numbers]


@dataclass
class Draft:
    """A file in pieces; `dataclasses.replace` makes one of them another.

    Attributes:
        base: of the header, with its arguments.
        metadata: its bytes, without their number.
        edits: kind and bytes of each.
        others: the bytes of the list of other tensors; None for a registered network.
        types: the bytes of the number types.
        streams: number type and codec of each stream.
        payloads: of each stream.
        digest: 4 bytes.
        lengths: of the payloads; None for those that they have.
        packing: packs the header; None for one that is not packed.
        after: bytes behind the last item of the header.
        num_edits: as the header says; None for as many as there are.
        own: the name of the own class, None for a registered network.
        version: of the format.
    """

    base: bytes
    metadata: bytes
    edits: list[tuple[int, bytes]]
    others: bytes | None
    types: bytes
    streams: bytes
    payloads: list[bytes]
    digest: bytes
    kept: list[Kept] = field(default_factory=list)
    tensors: list[Other] = field(default_factory=list)
    lengths: list[int] | None = None
    packing: Callable[[bytes], bytes] | None = None
    after: bytes = b""
    num_edits: int | None = None
    own: str | None = None
    version: int = 1

    def header(self) -> bytes:
        made = self.base + items(len(self.metadata), self.metadata)
        made += varint(len(self.edits) if self.num_edits is None else self.num_edits)
        made += b"".join(items(kind, len(content), content) for kind, content in self.edits)
        made += (self.others or b"") + self.types + self.streams
        lengths = list(map(len, self.payloads[:-1])) if self.lengths is None else self.lengths
        return made + b"".join(map(varint, lengths)) + self.after

    def body(self) -> bytes:
        """All behind the checksum; the lowest level of a file that has levels."""
        header = self.header()
        frame = varint(2 * len(header)) + header
        if self.packing is not None:
            packed = self.packing(header)
            frame = items(2 * len(packed) + 1, len(header), packed)
        return self.digest + frame + b"".join(self.payloads)

    def file(self) -> bytes:
        return whole(self.body(), self.version)


def whole(body: bytes, version: int = 1) -> bytes:
    """Magic, version and checksum before a body."""
    return MAGIC + bytes([version]) + struct.pack("<I", zlib.crc32(body)) + body


def list_of_others(others: Sequence[Other]) -> bytes:
    listed = [items(bytes([other.is_parameter]), other.name, shape(*other.shape)) for other in others]
    return items(len(others), *listed)


def runs_of(types: Sequence[int], has_coefficients: bool) -> bytes:
    runs: list[list[int]] = []
    for number in types:
        if runs and runs[-1][1] == number:
            runs[-1][0] += 1
        else:
            runs.append([1, number])
    return items(2 * len(runs) + has_coefficients, *(items(length, bytes([number])) for length, number in runs))


def base_of(name: str, arguments: Sequence[tuple[int, Any]] = ()) -> bytes:
    if not name:
        return items("")
    return items(name, len(arguments), *(items(place, value(given)) for place, given in arguments))


def draft(
    network: Module,
    kept: list[Kept],
    edits: list[tuple[int, bytes]],
    *,
    base: bytes = b"\0",
    metadata: bytes = b"",
    coefficients: int = 0,
    codecs: Sequence[str] = ("raw",),
    types: dict[str, int] | None = None,
    numbers: dict[str, list[Any]] | None = None,
    packing: Callable[[bytes], bytes] | None = None,
    parameters: Parameters | None = None,
    quantized_codec: int = 3,
    shifts: Shifts | None = None,
) -> Draft:
    """Return a sound file.

    Args:
        network: as the edits leave it.
        kept: the tensors kept as coefficients.
        edits: kind and bytes of each.
        base: of the header.
        metadata: JSON.
        coefficients: number type of the coefficients.
        codecs: of the streams, one after another; the last one for all further ones.
        types: the number type of other tensors by name, where it is not the network's own.
        numbers: of tensors by name, where they are not `formula`.
        packing: of the header.
        parameters: transform, step, offset and count of quantised tensors by name, where they are not `PARAMETERS`.
            Their `numbers` are those that are coded.
        quantized_codec: 3 to 5.
        shifts: from codec 4 on, of quantised tensors by name: axis -> the shifts along it. A fifth parameter says which
            axes these are; where it is given in `parameters`, it is written as it is.
    """
    types, numbers = types or {}, numbers or {}
    by_name = {name: number for number, (name, _, _) in TYPES.items()}
    others = list_others(network, kept)
    state = dict(network.state())
    own = [types.get(other.name, by_name[state[other.name].type]) for other in others]
    for place, entry in enumerate(kept):
        entry.numbers = numbers.get(entry.name, formula(entry.count, coefficients, 7 * place))
        entry.raw = number_bytes(entry.numbers, coefficients)
    for place, (other, number) in enumerate(zip(others, own, strict=True)):
        other.numbers = numbers.get(other.name, formula(_size(other.shape), number, 11 * place))
        other.raw, other.type = number_bytes(other.numbers, number), TYPES[number][0]
    streams = [(coefficients, b"".join(entry.raw for entry in kept))] if kept else []
    for number in stream_types(own, [16 * QUANTIZED] if kept and coefficients == QUANTIZED else []):
        streams.append((number, b"".join(o.raw for o, t in zip(others, own, strict=True) if t == number)))
    kinds, payloads = b"", []
    for place, (number, content) in enumerate(streams):
        if number == QUANTIZED:
            kinds += bytes([16 * QUANTIZED + quantized_codec])
            tensors = rounded_tensors(kept if kept and place == 0 else [], others, parameters or {}, shifts or {})
            payloads.append(Writer(codec=quantized_codec).payload([tensor for _, tensor in tensors]))
            fill_in(tensors)
            continue
        codec, encode = CODECS[codecs[min(place, len(codecs) - 1)]]
        kinds += bytes([16 * number + codec])
        payloads.append(encode(content, TYPES[number][1]))
    return Draft(
        base,
        metadata,
        edits,
        list_of_others(others) if base == b"\0" else None,
        runs_of(own, bool(kept)),
        kinds,
        payloads,
        digest_of(kept, others),
        kept,
        others,
        packing=packing,
        version=2 if QUANTIZED in (kind // 16 for kind in kinds) else 1,
    )


def rounded_tensors(
    kept: Sequence[Kept], others: Sequence[Other], parameters: Parameters, shifts: Shifts
) -> list[tuple[Kept | Other, Tensor]]:
    """Return the tensors of the quantised stream, with what is coded of each."""
    tensors: list[tuple[Kept | Other, Tensor]] = []
    for entry in kept:
        tensors.append((entry, Tensor("", entry.shape, order_of(entry), is_coefficients=True)))
    for other in others:
        if other.type in ("quantized", "integers"):
            key, whole = other.name.rpartition(".")[2], other.type == "integers"
            tensors.append((other, Tensor(key, other.shape, row_major(other.shape), is_whole=whole)))
    for told, tensor in tensors:
        tensor.numbers = [int(number) for number in told.numbers]
        tensor.shifts = {axis: list(along) for axis, along in shifts.get(told.name, {}).items()}
        axes = sum(1 << axis for axis in tensor.shifts)
        tensor.parameters = [*parameters.get(told.name, PARAMETERS), axes][:5]
        if tensor.parameters[3]:
            tensor.numbers = tensor.numbers[: max(0, tensor.parameters[3] - 1)]
    return tensors


def fill_in(tensors: Sequence[tuple[Kept | Other, Tensor]]) -> None:
    """Write on each tensor the values that a reader finds, where there are such."""
    for told, tensor in tensors:
        found: list[Any] = list(tensor.numbers) if tensor.is_whole else values_of(tensor)
        told.numbers = found
        told.raw = struct.pack(f"<{len(found)}{'q' if tensor.is_whole else 'f'}", *found)


def values_of(tensor: Tensor) -> list[float]:
    try:
        return values(tensor)
    except RefusedError:  # a draft of what is to be refused
        return []


def _size(sizes: tuple[int, ...]) -> int:
    count = 1
    for size in sizes:
        count *= size
    return count
