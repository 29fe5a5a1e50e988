"""A file as numbered packets for thin links: in any order, twice or damaged, the missing ones told by number.

```text
packet  = magic, number, count, file, payload, checksum
```

| field | bytes | content |
|---|---|---|
| magic | 1 | `8a` |
| number | varint | of the packet, from 0 |
| count | varint | of all packets, 1 to 65,536 |
| file | 4 | CRC-32 of the whole file, little-endian: packets of different files are told apart |
| payload | | its part of the file; all but the last packet have the same size |
| checksum | 4 | CRC-32 of all before it, little-endian |
"""

import zlib
from collections.abc import Iterable
from dataclasses import dataclass

from tailcut.errors import ArgumentError, ChecksumError, CorruptFileError, TruncatedFileError
from tailcut.structure import Reader, Writer

MAGIC = 0x8A
MAX_PACKETS = 1 << 16
CHECKSUM_BYTES = 4
FRAME_BYTES = 1 + 1 + 1 + 4 + CHECKSUM_BYTES
"""Bytes that a packet takes beside its part of the file, where there are at most 127 packets."""
MAX_SHOWN_NUMBERS = 20


@dataclass(frozen=True)
class Packet:
    """One piece of a file.

    Attributes:
        number: from 0.
        count: of all packets.
        file: CRC-32 of the whole file.
        payload: its part of the file.
    """

    number: int
    count: int
    file: int
    payload: bytes


def split(content: bytes, packet_bytes: int) -> list[bytes]:
    """Split a file into packets of at most `packet_bytes` bytes each.

    Raises:
        ArgumentError: the packets are too small for the file, or the file is empty.
    """
    if not content:
        raise ArgumentError("an empty file cannot be split")
    for count in _counts(len(content)):
        room = packet_bytes - len(_head(count - 1, count, content)) - CHECKSUM_BYTES
        if room >= 1 and -(-len(content) // room) <= count:
            needed = -(-len(content) // room)
            parts = [content[number * room : (number + 1) * room] for number in range(needed)]
            return [_sealed(_head(number, needed, content) + part) for number, part in enumerate(parts)]
    least, most = (len(_sealed(_head(count - 1, count, content))) for count in (1, MAX_PACKETS))
    raise ArgumentError(
        f"{len(content):,} bytes do not go into {MAX_PACKETS:,} packets of {packet_bytes} bytes, of which header and "
        f"checksum take {least} to {most}; {-(-len(content) // MAX_PACKETS) + most} bytes do"
    )


def read_packet(content: bytes, name: str = "the packet") -> Packet:
    """Take one packet apart.

    Args:
        content: its bytes.
        name: what errors call it.

    Raises:
        CorruptFileError: it is no packet of ours.
        ChecksumError: its bytes were changed or cut.
    """
    if content[:1] != bytes([MAGIC]) or len(content) < CHECKSUM_BYTES + 8:
        raise CorruptFileError(f"{name} is no packet of `tailcut split`: it does not begin with the byte 8a")
    body, stored = content[:-CHECKSUM_BYTES], content[-CHECKSUM_BYTES:]
    if zlib.crc32(body).to_bytes(CHECKSUM_BYTES, "little") != stored:
        raise ChecksumError(f"{name} is damaged: its checksum does not match; get it again")
    reader = Reader(body[1:], what=name)
    number, count = reader.uint(of="its number"), reader.uint(at_most=MAX_PACKETS, of="the number of packets")
    file = int.from_bytes(reader.raw(4), "little")
    payload = reader.raw(reader.remaining)
    if number >= count or not payload:
        raise CorruptFileError(
            f"{name} says that it is packet {number} of {count}, with {len(payload)} bytes: no writer of ours wrote it"
        )
    return Packet(number, count, file, payload)


def join(packets: Iterable[tuple[str, bytes]]) -> bytes:
    """Join packets, in any order, to the file that they make; the same one twice is as good as once.

    Args:
        packets: a name for errors, and the bytes, of each.

    Raises:
        TruncatedFileError: packets are missing; the message says which.
        FormatError: one is damaged, or of another file.
        ArgumentError: there is none.
    """
    found: dict[int, bytes] = {}
    first: tuple[str, Packet] | None = None
    for name, content in packets:
        packet = read_packet(content, name)
        first = first or (name, packet)
        if (packet.file, packet.count) != (first[1].file, first[1].count):
            raise CorruptFileError(f"{name} and {first[0]} are packets of different files")
        if found.setdefault(packet.number, packet.payload) != packet.payload:
            raise CorruptFileError(f"{name} is packet {packet.number} once more, with another content")
    if first is None:
        raise ArgumentError("no packets to join")
    missing = [number for number in range(first[1].count) if number not in found]
    if missing:
        raise TruncatedFileError(
            f"{len(missing)} of {first[1].count} packets are missing: {_shown(missing)} (numbered from 0); get them, "
            "then join again"
        )
    content = b"".join(found[number] for number in range(first[1].count))
    if zlib.crc32(content) != first[1].file:
        raise ChecksumError("the joined file is not the one that was split: its checksum does not match")
    return content


def _counts(num_bytes: int) -> Iterable[int]:
    """Numbers of packets to try: the largest of each length of a varint."""
    yield from (count for count in (1, 127, 16_383, MAX_PACKETS) if count <= max(num_bytes, 1) or count == 1)
    if num_bytes < MAX_PACKETS:
        yield num_bytes


def _head(number: int, count: int, content: bytes) -> bytes:
    writer = Writer()
    writer.byte(MAGIC)
    writer.uint(number)
    writer.uint(count)
    writer.raw(zlib.crc32(content).to_bytes(4, "little"))
    return writer.getvalue()


def _sealed(body: bytes) -> bytes:
    return body + zlib.crc32(body).to_bytes(CHECKSUM_BYTES, "little")


def _shown(numbers: list[int]) -> str:
    text = ", ".join(map(str, numbers[:MAX_SHOWN_NUMBERS]))
    return text if len(numbers) <= MAX_SHOWN_NUMBERS else f"{text}, ... {numbers[-1]}"
