"""SPEC.md, "Codecs" and "Number types": payloads to numbers."""

import math
import struct
import zlib
from typing import Any

from conformance.reference.refusal import refuse, require

# Number type -> (name, bytes of one, struct code); bfloat16 has no code.
TYPES = {
    0: ("float32", 4, "f"),
    1: ("float16", 2, "e"),
    2: ("bfloat16", 2, ""),
    3: ("float64", 8, "d"),
    4: ("int64", 8, "q"),
    5: ("int32", 4, "i"),
    6: ("int16", 2, "h"),
    7: ("int8", 1, "b"),
    8: ("uint8", 1, "B"),
    9: ("bool", 1, "B"),
    10: ("quantized", 4, "f"),
    11: ("integers", 8, "q"),
}
QUANTIZED, INTEGERS = 10, 11
FLOATS = ("float32", "float16", "bfloat16", "float64", "quantized")
# The largest finite number of each type.
LARGEST = {
    "float16": 65504.0,
    "bfloat16": (2 - 2**-7) * 2.0**127,
    "float32": (2 - 2**-23) * 2.0**127,
    "float64": (2 - 2**-52) * 2.0**1023,
}
# Above this, rounding to the nearest gives infinity.
OVERFLOWS = {
    "float16": 65520.0,
    "bfloat16": (2 - 2**-8) * 2.0**127,
    "float32": (2 - 2**-24) * 2.0**127,
    "float64": math.inf,
}


def numbers_of(content: bytes, number: int) -> list[Any]:
    """Return the numbers of a type: float or int of Python."""
    name, size, code = TYPES[number]
    count = len(content) // size
    if name == "bfloat16":
        words = struct.unpack(f"<{count}H", content)
        return [struct.unpack("<f", struct.pack("<I", word << 16))[0] for word in words]
    values = list(struct.unpack(f"<{count}{code}", content))
    if name == "bool":
        require(all(value <= 1 for value in values), "bool")
    return values


def decode(codec: int, payload: bytes, count: int, size: int, below: bytes = b"") -> bytes:
    """Return the bytes of `count` numbers of `size` bytes, in a level above that with `below`."""
    if codec == 0:
        require(len(payload) == count * size, "payload-raw", f"{len(payload)} bytes for {count * size}")
        return payload
    if codec == 1:
        planes = inflate(payload, count * size, "payload-deflate", "payload-deflate-end")
        # Plane 0 has the most significant byte of each number, which comes last in the number.
        return bytes(planes[(size - 1 - byte) * count + item] for item in range(count) for byte in range(size))
    require(count > 0 and len(below) + count * size <= 65_536, "level-range-size" if below else "payload-range-size")
    decoder = RangeDecoder(payload, 8 * size)
    decoder.learn(below)
    return decoder.run(count)


def inflate(payload: bytes, length: int, rule: str, end_rule: str) -> bytes:
    """Return a raw DEFLATE stream that expands to just `length` bytes and ends with the payload."""
    stream = zlib.decompressobj(-15)
    try:
        content = stream.decompress(payload, length + 1)
    except zlib.error as error:
        refuse(rule, str(error))
    require(stream.eof and len(content) == length, rule)
    require(not stream.unused_data, end_rule)
    return content


class RangeDecoder:
    """Codec 2."""

    def __init__(self, payload: bytes, width: int) -> None:
        self.payload, self.width = payload, width
        self.zero = [32768] * (256 + width)
        self.seen = [0] * 32 + [8] * 224 + [4] * width
        self.read = 0
        self.offset = 0
        for _ in range(4):
            self.offset = self.offset * 256 + self.next_byte()
        self.range = 2**32

    def next_byte(self) -> int:
        self.read += 1
        return self.payload[self.read - 1] if self.read <= len(self.payload) else 0

    def bit(self, context: int) -> int:
        bound = self.range // 65536 * self.zero[context]
        if self.offset < bound:
            found, self.range = 0, bound
        else:
            found, self.range, self.offset = 1, self.range - bound, self.offset - bound
        self.learn_bit(context, found)
        while self.range < 2**24:
            self.offset = self.offset * 256 + self.next_byte()
            self.range *= 256
        return found

    def learn_bit(self, context: int, found: int) -> None:
        zero, seen = self.zero[context], self.seen[context]
        rate = 131072 // (2 * seen + 3)
        self.zero[context] = zero - zero * rate // 65536 if found else zero + (65536 - zero) * rate // 65536
        self.seen[context] = min(126, seen + 1)

    def learn(self, content: bytes) -> None:
        """Leave the contexts as if these numbers had been decoded."""
        size = self.width // 8
        for at in range(0, len(content), size):
            item = int.from_bytes(content[at : at + size], "little")
            rotated = (item << 1 | item >> (self.width - 1)) % 2**self.width
            node = 1
            for place in range(self.width - 1, -1, -1):
                bit = rotated >> place & 1
                upper = place > self.width - 9
                self.learn_bit(node if upper else 256 + place, bit)
                node = 2 * node + bit if upper else node

    def run(self, count: int) -> bytes:
        content = bytearray()
        for _ in range(count):
            rotated, node = 0, 1
            for place in range(self.width - 1, -1, -1):
                upper = place > self.width - 9
                bit = self.bit(node if upper else 256 + place)
                node = 2 * node + bit if upper else node
                rotated = 2 * rotated + bit
            item = rotated >> 1 | (rotated & 1) << (self.width - 1)
            content += item.to_bytes(self.width // 8, "little")
        require(self.read == len(self.payload) + 3 and self.offset < 2**24, "payload-range-end")
        return bytes(content)
