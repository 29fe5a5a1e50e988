"""SPEC.md, "Levels": the blocks of a file of version 3, and how many coefficients each level has."""

import zlib
from dataclasses import dataclass, field

from conformance.reference.codecs import QUANTIZED
from conformance.reference.items import Items
from conformance.reference.refusal import require


@dataclass(frozen=True)
class Blocks:
    """The contents of a file, the lowest level first; a file of version 1 or 2 has one.

    Attributes:
        contents: of the levels that are there.
        parts: of every level but the highest, in 1 / 256.
    """

    contents: list[bytes]
    parts: list[int] = field(default_factory=list)

    def counts(self, count: int) -> list[int]:
        """Return how many coefficients a tensor has in each level, from its count in the highest."""
        found = [count]
        for part in reversed(self.parts):
            found.insert(0, -(-found[0] * part // 256))
        return found


def split(content: bytes) -> Blocks:
    """Return the blocks of a whole file of version 3, or of one that was cut at the end of a level."""
    file = Items(content)
    file.take(5)
    number = file.byte()
    require(2 <= number <= 8, "level-number", str(number))
    parts = [file.byte() for _ in range(number - 1)]
    require(0 not in parts, "level-parts")
    contents: list[bytes] = []
    while len(contents) < number and (not contents or file.place < len(content)):
        require(file.place < len(content), "level-cut", "no block")
        size = file.varint()
        require(size + 4 <= len(content) - file.place, "level-cut", f"level {len(contents) + 1}")
        contents.append(file.take(size))
        covered = content[5 : file.place]
        require(int.from_bytes(file.take(4), "little") == zlib.crc32(covered), "level-checksum")
    require(file.place == len(content), "level-followed")
    return Blocks(contents, parts)


@dataclass
class Head:
    """What comes before the payloads of a further level."""

    has_others: bool
    codecs: list[int]
    payloads: list[bytes]


def read_head(level: Items, streams: list[int]) -> Head:
    """Read the content of a further level, of a file whose lowest level has these streams: type and codec of each."""
    mark = level.byte()
    require(mark <= 1, "level-others", str(mark))
    codecs = []
    for kind in streams if mark else streams[:1]:
        codecs.append(level.byte())
        require(codecs[-1] <= 5, "codec-known")
        require((kind // 16 == QUANTIZED) == (codecs[-1] in (3, 4, 5)), "quantized-codec")
        require(kind // 16 != QUANTIZED or codecs[-1] == kind % 16, "level-quantized-codec")
    lengths = [level.varint() for _ in codecs[:-1]]
    return Head(bool(mark), codecs, [level.take(length) for length in lengths] + [level.rest()])
