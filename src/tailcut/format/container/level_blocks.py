"""Levels of a progressive file, version 3: blocks that are each complete and checked, the lowest first. See SPEC.md."""

import zlib
from collections.abc import Sequence
from dataclasses import dataclass

from tailcut.errors import ArgumentError, ChecksumError, CorruptFileError, LimitError, TruncatedFileError
from tailcut.structure import Reader, Writer
from tailcut.weights.nested_levels import MAX_LEVELS

START = 5
"""Bytes of a file before the number of its levels: magic and version."""

_CHECKSUM_BYTES = 4


def join_blocks(parts: Sequence[int], blocks: Sequence[bytes]) -> bytes:
    """Return what follows the version of a file: the levels' parts, then each block with its size and checksum."""
    content = bytes([len(blocks), *parts])
    for block in blocks:
        writer = Writer()
        writer.uint(len(block))
        content += writer.getvalue() + block
        content += zlib.crc32(content).to_bytes(_CHECKSUM_BYTES, "little")
    return content


@dataclass(frozen=True)
class Block:
    """The content of a level, and where it ends in the file, its checksum included."""

    content: bytes
    end: int


def split_blocks(content: bytes, level: int | None) -> tuple[tuple[int, ...], list[Block]]:
    """Return the parts of all levels, and the blocks up to a level, or all that are there.

    Args:
        content: the file.
        level: from 1; None for the highest that is there. What follows its block is not looked at.

    Raises:
        FormatError: in one of its kinds.
        ArgumentError: the file has no such level.
    """
    reader = Reader(content[START:])
    num_levels = reader.byte()
    if not 2 <= num_levels <= MAX_LEVELS:
        raise LimitError(f"a file of {num_levels} levels, 2 to {MAX_LEVELS} are allowed")
    parts = tuple(reader.raw(num_levels - 1))
    if 0 in parts:
        raise CorruptFileError("a level has no part of the one above")
    if level is not None and not 1 <= level <= num_levels:
        raise ArgumentError(f"the file has levels 1 to {num_levels}, asked for was {level}")
    blocks: list[Block] = []
    while len(blocks) < (level or num_levels):
        if blocks and level is None and not reader.remaining:
            break  # cut at the end of a level
        try:
            block = reader.raw(reader.uint(of="the size of a level"))
            end = len(content) - reader.remaining
            checksum = int.from_bytes(reader.raw(_CHECKSUM_BYTES), "little")
        except TruncatedFileError as error:
            raise TruncatedFileError(_cut(len(blocks), num_levels)) from error
        if zlib.crc32(memoryview(content)[START:end]) != checksum:
            raise ChecksumError(
                f"the checksum of level {len(blocks) + 1} does not match: the file is damaged; {_rest(len(blocks))}"
            )
        blocks.append(Block(block, end + _CHECKSUM_BYTES))
    if level is None and len(blocks) == num_levels and reader.remaining:
        raise CorruptFileError(f"{reader.remaining} bytes follow the highest level")
    return parts, blocks


def _cut(num_whole: int, num_levels: int) -> str:
    return f"the file ends within level {num_whole + 1} of {num_levels}; {_rest(num_whole)}"


def _rest(num_whole: int) -> str:
    if not num_whole:
        return "get a fresh copy"
    return f"get a fresh copy, or take what is whole: load(path, level={num_whole})"
