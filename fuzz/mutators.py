"""Mutators that know a format: what they change stays behind a true checksum, length and digest.

Each takes a content and a source of random numbers and gives another content. `havoc` knows nothing; the others use
it on a part and put the whole together again.
"""

import random
import re
import struct
import zlib
from collections.abc import Callable
from typing import Protocol

from conformance.networks import registered
from conformance.reference import RefusedError, decoder

from tailcut.errors import TailcutError
from tailcut.format.container.contents import HEAD_BYTES, decode
from tailcut.format.load import apply_edits, bare_network
from tailcut.format.network.tensors import network_tensors
from tailcut.structure.wire import Reader, Writer

MAX_NUMBERS = 1 << 20
DIGEST_BYTES = 4
LEVELS = b"\3"  # the version of files with levels
HUGE = (2**63 - 1, 2**62, 2**40, 2**32, 2**31 - 1, 2**24, 65_537, 65_536, 16_385, 4_097, 257, 256, 128, 127)
Havoc = Callable[[bytes, random.Random], bytes]


class Mutator(Protocol):
    """Gives a changed content; `change` is what changes a part of it."""

    def __call__(self, content: bytes, rng: random.Random, change: Havoc = ...) -> bytes: ...


def havoc(content: bytes, rng: random.Random) -> bytes:
    """Return one to four blind changes: bits, bytes, blocks taken out, put in twice or swapped, huge varints."""
    changed = bytearray(content)
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        place = rng.randrange(len(changed) + 1)
        length = min(rng.choice((1, 1, 2, 4, 8, 32)), len(changed) - place)
        block = bytes(changed[place : place + length])
        way = rng.randrange(8)
        if way == 0 and length:
            changed[place] ^= 1 << rng.randrange(8)
        elif way == 1 and length:
            changed[place] = rng.choice((0, 1, 2, 0x7F, 0x80, 0xFF, rng.randrange(256)))
        elif way == 2 and length:
            changed[place] = (changed[place] + rng.choice((1, -1, 2, -2, 16, -16))) % 256
        elif way == 3:
            del changed[place : place + length]
        elif way == 4:
            changed[place:place] = block
        elif way == 5:
            changed[place:place] = rng.randbytes(rng.choice((1, 2, 4, 8)))
        elif way == 6:
            other = rng.randrange(len(changed) + 1)
            changed[other : other + length] = block
        else:
            changed[place : place + 1] = varint(rng.choice(HUGE))
    return bytes(changed)


def blindly(content: bytes, rng: random.Random, change: Havoc = havoc) -> bytes:
    """Return the content as a whole."""
    return change(content, rng)


def varint(number: int) -> bytes:
    writer = Writer()
    writer.uint(number)
    return writer.getvalue()


# ---- .tailcut ----


def tailcut_file(content: bytes, rng: random.Random, change: Havoc = havoc) -> bytes:
    """Change the header, an edit or the payloads of a `.tailcut` file; repair sizes, digest and checksums."""
    if rng.random() < 0.02:
        return change(content, rng)
    try:
        if content[4:5] == LEVELS and rng.random() < 0.7:
            return with_digest(change_levels(content, rng, change))
        header, rest = split(content)
    except (TailcutError, IndexError, zlib.error, struct.error):
        return with_checksum(change(content, rng))
    way = rng.random()
    if way < 0.4:
        header = change(header, rng)
    elif way < 0.8:
        header = change_an_edit(header, rng, change)
    else:
        rest = change(rest, rng)
    is_packed = rng.random() < 0.1
    if content[4:5] == LEVELS:
        head, blocks = blocks_of(content)
        made = join_levels(head, [body_of(header, rest, is_packed=is_packed), *blocks[1:]])
    else:
        version = content[4] if rng.random() < 0.95 else max(0, 3 - content[4])
        made = join(header, rest, is_packed=is_packed, version=version)
    return with_digest(made) if rng.random() < 0.9 else made


def change_levels(content: bytes, rng: random.Random, change: Havoc) -> bytes:
    """Change the content of a level above the lowest, or the parts; take a level out, put it in twice, or cut there."""
    head, blocks = blocks_of(content)
    way = rng.random()
    if way < 0.7 and len(blocks) > 1:
        place = rng.randrange(1, len(blocks))
        blocks[place] = change(blocks[place], rng)
    elif way < 0.85 and len(head) > 1:
        place = rng.randrange(1, len(head))
        head = head[:place] + bytes([rng.choice((0, 1, 128, 255, rng.randrange(256)))]) + head[place + 1 :]
    elif way < 0.9:
        head = change(head, rng)
    elif way < 0.95:
        del blocks[rng.randrange(1, len(blocks) + 1) :]
    else:
        blocks.insert(rng.randrange(len(blocks) + 1), rng.choice(blocks))
    return join_levels(head, blocks)


def blocks_of(content: bytes) -> tuple[bytes, list[bytes]]:
    """Return the number and the parts of the levels of a file, and what its blocks hold, as far as they are whole.

    Raises:
        TailcutError: the file is too short for the lowest level.
    """
    reader = Reader(content[5:])
    number = reader.byte()
    head = bytes([number]) + reader.raw(max(0, number - 1))
    blocks = [reader.raw(reader.uint())]
    try:
        reader.raw(4)
        while reader.remaining:
            blocks.append(reader.raw(reader.uint()))
            reader.raw(4)
    except TailcutError:
        pass
    return head, blocks


def join_levels(head: bytes, blocks: list[bytes]) -> bytes:
    """Return a file of version 3 with the checksums of its blocks."""
    made = head
    for block in blocks:
        made += varint(len(block)) + block
        made += zlib.crc32(made).to_bytes(4, "little")
    return b"\x89TCT" + LEVELS + made


def split(content: bytes) -> tuple[bytes, bytes]:
    """Return the header, expanded, and what follows it; of a file with levels those of the lowest."""
    body = blocks_of(content)[1][0] if content[4:5] == LEVELS else content[HEAD_BYTES:]
    reader = Reader(body[DIGEST_BYTES:])
    mark = reader.uint(at_most=1 << 21)
    if not mark & 1:
        header = reader.raw(mark >> 1)
    else:
        length = reader.uint(at_most=1 << 20)
        header = zlib.decompressobj(-15).decompress(reader.raw(mark >> 1), length + 1)
    return header, reader.raw(reader.remaining)


def join(header: bytes, rest: bytes, *, is_packed: bool = False, version: int = 1) -> bytes:
    """Return a file with the digest 0, which `with_digest` repairs."""
    body = body_of(header, rest, is_packed=is_packed)
    return with_checksum(b"\x89TCT" + bytes([version]) + bytes(4) + body)


def body_of(header: bytes, rest: bytes, *, is_packed: bool = False) -> bytes:
    """Return what a checksum covers, with the digest 0."""
    frame = varint(2 * len(header)) + header
    if is_packed:
        deflate = zlib.compressobj(9, zlib.DEFLATED, -15)
        packed = deflate.compress(header) + deflate.flush()
        frame = varint(2 * len(packed) + 1) + varint(len(header)) + packed
    return bytes(DIGEST_BYTES) + frame + rest


def change_an_edit(header: bytes, rng: random.Random, change: Havoc) -> bytes:
    """Change the bytes of one edit, take it out or put it in twice, and repair its size."""
    try:
        start, end, edits = edits_in(header)
    except TailcutError:
        return change(header, rng)
    if not edits:
        return change(header, rng)
    place = rng.randrange(len(edits))
    kind, body = edits[place]
    way = rng.random()
    if way < 0.85:
        edits[place] = kind, change(body, rng)
    elif way < 0.9:
        edits[place] = rng.randrange(6), body
    elif way < 0.95:
        edits.insert(rng.randrange(len(edits) + 1), (kind, body))
    else:
        edits.pop(place)
    written = b"".join(varint(kind) + varint(len(body)) + body for kind, body in edits)
    return header[:start] + varint(len(edits)) + written + header[end:]


def edits_in(header: bytes) -> tuple[int, int, list[tuple[int, bytes]]]:
    """Where the list of edits begins and ends in a header, and the edits."""
    reader = Reader(header)
    if reader.text():
        for _ in range(reader.uint(at_most=64)):
            reader.uint()
            reader.value()
    reader.raw(reader.uint())
    start = len(header) - reader.remaining
    edits = [(reader.uint(), reader.raw(reader.uint())) for _ in range(reader.uint(at_most=16))]
    return start, len(header) - reader.remaining, edits


def with_digest(content: bytes) -> bytes:
    """Return the file with the digest that it should have, as far as it can be read; always with a true checksum."""
    content = with_checksum(content)
    try:
        digest = decoder.true_digest(content, registered())
    except RefusedError as error:
        digest = _digest_of_other(content) if error.rule == "base-name" else b""
    if not digest:
        return content
    if content[4:5] == LEVELS:
        head, blocks = blocks_of(content)
        return join_levels(head, [digest + blocks[0][DIGEST_BYTES:], *blocks[1:]])
    return with_checksum(content[:HEAD_BYTES] + digest + content[HEAD_BYTES + DIGEST_BYTES :])


def _digest_of_other(content: bytes) -> bytes:
    """That of a file with a network that the reference reader does not know; empty where the library refuses."""
    try:
        contents = decode(content)
        model = bare_network(contents, MAX_NUMBERS)
        return network_tensors(model, apply_edits(contents, model, MAX_NUMBERS)).digest()
    except Exception:  # noqa: BLE001 -- what is wrong with it, foreign errors too, is what the target is to find
        return b""


def with_checksum(content: bytes) -> bytes:
    """Return the file with a true checksum; with levels, with those of the blocks that are whole."""
    if content[4:5] == LEVELS:
        try:
            return join_levels(*blocks_of(content))
        except TailcutError:
            return content
    return content[:5] + zlib.crc32(content[HEAD_BYTES:]).to_bytes(4, "little") + content[HEAD_BYTES:]


# ---- JPEG ----


def jpeg(content: bytes, rng: random.Random, change: Havoc = havoc) -> bytes:
    """Change one segment of a JPEG and repair its length, or the order of the segments, or coded data."""
    parts = jpeg_parts(content)
    if len(parts) < 2 or rng.random() < 0.05:
        return change(content, rng)
    place = rng.randrange(len(parts))
    marker, body = parts[place]
    way = rng.random()
    if way < 0.7:
        parts[place] = marker, stuffed(change(unstuffed(body), rng)) if marker is None else change(body, rng)
    elif way < 0.78:
        parts.insert(rng.randrange(len(parts) + 1), parts[place])
    elif way < 0.86:
        parts.pop(place)
    elif way < 0.94:
        other = rng.randrange(len(parts))
        parts[place], parts[other] = parts[other], parts[place]
    elif marker is not None:
        parts[place] = rng.choice((0xC0, 0xC1, 0xC2, 0xC4, 0xDA, 0xDB, 0xDD, 0xE1, 0xEE, rng.randrange(256))), body
    return b"\xff\xd8" + b"".join(map(jpeg_part, parts)) + b"\xff\xd9"


Part = tuple[int | None, bytes]


def jpeg_parts(content: bytes) -> list[Part]:
    """(marker, body) of each segment, (None, bytes) of what lies between segments, without start and end."""
    parts: list[Part] = []
    position = 2
    for match in re.finditer(rb"\xff[\xc0-\xcf\xda-\xfe]", content):
        if match.start() < position or match.start() + 4 > len(content):
            continue
        if match.start() > position:
            parts.append((None, content[position : match.start()]))
        (length,) = struct.unpack_from(">H", content, match.start() + 2)
        position = min(len(content), match.start() + 2 + max(2, length))
        parts.append((content[match.start() + 1], content[match.start() + 4 : position]))
    rest = content[position:].removesuffix(b"\xff\xd9")
    return [*parts, (None, rest)] if rest else parts


def jpeg_part(part: Part) -> bytes:
    marker, body = part
    if marker is None:
        return body
    return bytes((0xFF, marker)) + min(len(body) + 2, 0xFFFF).to_bytes(2, "big") + body


def unstuffed(coded: bytes) -> bytes:
    return coded.replace(b"\xff\x00", b"\xff")


def stuffed(coded: bytes) -> bytes:
    """With a zero behind each FF that begins no restart marker."""
    return re.sub(rb"\xff(?![\xd0-\xd7])", b"\xff\x00", coded)


# ---- TOML ----

TOKENS = (
    *(
        "nan",
        "inf",
        "-inf",
        "0",
        "-1",
        "1e400",
        "1e-320",
        "0x10",
        "1_0",
        "9223372036854775808",
        "99999999999999999999999",
    ),
    *("'x'", "''", "true", "[]", "{}", "[[1]]", "[nan]", "['a','a']", "[0.1,-0.5]", "{a=1}", "{''=1}"),
    *("1979-05-27", "07:32:00", '"\\u0000"', '"\\U0010FFFF"'),
)


def toml(content: bytes, rng: random.Random, change: Havoc = havoc) -> bytes:
    """Change lines of a TOML document, or the value or key of a line."""
    lines = content.decode("utf-8", "surrogateescape").split("\n")
    if rng.random() < 0.15:
        return change(content, rng)
    for _ in range(rng.choice((1, 1, 2, 3))):
        place = rng.randrange(len(lines))
        key, equals, value = lines[place].partition("=")
        way = rng.randrange(7)
        if way < 3 and equals:
            lines[place] = f"{key}= {rng.choice(TOKENS)}"
        elif way == 3 and equals:
            lines[place] = f"{key}= [{value}, {rng.choice(TOKENS)}]"
        elif way == 4:
            lines.insert(rng.randrange(len(lines) + 1), lines[place])
        elif way == 5 and len(lines) > 1:
            lines.pop(place)
        else:
            changed = change(lines[place].encode("utf-8", "surrogateescape"), rng)
            lines[place] = changed.decode("utf-8", "surrogateescape")
    return "\n".join(lines).encode("utf-8", "surrogateescape")
