"""Levels of a progressive file, version 3: blocks that are each complete and checked, the lowest first. See SPEC.md."""

import zlib
from collections.abc import Sequence

from tailcut.errors import ArgumentError, ChecksumError, CorruptFileError, LimitError, TruncatedFileError
from tailcut.structure import Reader, Writer

MAX_LEVELS = 8
PARTS = 256
"""The count of a tensor in a level is so many parts of that in the level above, rounded up."""

_CHECKSUM_BYTES = 4


def count_below(count: int, parts: int) -> int:
    """Return how many coefficients of a tensor the level below has; at least one of one or more."""
    return -(-count * parts // PARTS)


def parts_of(fractions: Sequence[float]) -> tuple[int, ...]:
    """Return the parts that each level has of the one above, from the lowest.

    Args:
        fractions: of all levels but the highest, the coefficients of a tensor that it has, as parts of all.

    Raises:
        ArgumentError: they do not rise from above 0 to below 1, or are too many or too close.
    """
    shown = ", ".join(f"{fraction!r}" for fraction in fractions)
    numbers = [fraction for fraction in fractions if isinstance(fraction, (int, float)) and 0 < fraction < 1]
    if not numbers or len(numbers) < len(fractions) or sorted(set(numbers)) != list(numbers):
        raise ArgumentError(f"levels must rise from above 0 to below 1, such as (0.25, 0.5); got {shown}")
    if len(numbers) >= MAX_LEVELS:
        raise ArgumentError(
            f"a file has at most {MAX_LEVELS} levels, the whole network one of them; got {len(numbers)} more"
        )
    above = [*numbers[1:], 1.0]
    parts = tuple(max(1, round(PARTS * low / high)) for low, high in zip(numbers, above, strict=True))
    if max(parts) >= PARTS:
        raise ArgumentError(f"levels must differ by one part in {PARTS} or more; got {shown}")
    return parts


def join_blocks(parts: Sequence[int], blocks: Sequence[bytes]) -> bytes:
    """Return what follows the version of a file: the levels' parts, then each block with its size and checksum."""
    content = bytes([len(blocks), *parts])
    for block in blocks:
        writer = Writer()
        writer.uint(len(block))
        content += writer.getvalue() + block
        content += zlib.crc32(content).to_bytes(_CHECKSUM_BYTES, "little")
    return content


def split_blocks(content: bytes, level: int | None) -> tuple[tuple[int, ...], list[bytes]]:
    """Return the parts of all levels, and the blocks up to a level, or all that are there.

    Args:
        content: the file behind its version.
        level: from 1; None for the highest that is there. What follows its block is not looked at.

    Raises:
        FormatError: in one of its kinds.
        ArgumentError: the file has no such level.
    """
    reader = Reader(content)
    num_levels = reader.byte()
    if not 2 <= num_levels <= MAX_LEVELS:
        raise LimitError(f"a file of {num_levels} levels, 2 to {MAX_LEVELS} are allowed")
    parts = tuple(reader.raw(num_levels - 1))
    if 0 in parts:
        raise CorruptFileError("a level has no part of the one above")
    if level is not None and not 1 <= level <= num_levels:
        raise ArgumentError(f"the file has levels 1 to {num_levels}, asked for was {level}")
    blocks: list[bytes] = []
    while len(blocks) < (level or num_levels):
        if blocks and level is None and not reader.remaining:
            break  # cut at the end of a level
        try:
            block = reader.raw(reader.uint(of="the size of a level"))
            end = len(content) - reader.remaining
            checksum = int.from_bytes(reader.raw(_CHECKSUM_BYTES), "little")
        except TruncatedFileError as error:
            raise TruncatedFileError(_cut(len(blocks), num_levels)) from error
        if zlib.crc32(memoryview(content)[:end]) != checksum:
            raise ChecksumError(
                f"the checksum of level {len(blocks) + 1} does not match: the file is damaged; {_rest(len(blocks))}"
            )
        blocks.append(block)
    if level is None and len(blocks) == num_levels and reader.remaining:
        raise CorruptFileError(f"{reader.remaining} bytes follow the highest level")
    return parts, blocks


def _cut(num_whole: int, num_levels: int) -> str:
    return f"the file ends within level {num_whole + 1} of {num_levels}; {_rest(num_whole)}"


def _rest(num_whole: int) -> str:
    if not num_whole:
        return "get a fresh copy"
    return f"get a fresh copy, or take what is whole: load(path, level={num_whole}), or --level {num_whole}"
