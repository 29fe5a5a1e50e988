"""SPEC.md, "Items": takes items off bytes."""

import struct
from typing import Any

from conformance.reference.refusal import refuse, require


class Items:
    """Bytes and a place in them."""

    def __init__(self, content: bytes) -> None:
        self.content = content
        self.place = 0

    def take(self, count: int) -> bytes:
        require(self.place + count <= len(self.content), "cut-off")
        self.place += count
        return self.content[self.place - count : self.place]

    def rest(self) -> bytes:
        return self.take(len(self.content) - self.place)

    def byte(self) -> int:
        return self.take(1)[0]

    def varint(self, most: int | None = None, rule: str = "") -> int:
        value = 0
        for count in range(9):
            byte = self.byte()
            value += (byte & 127) << 7 * count
            if byte < 128:
                require(byte != 0 or count == 0, "varint-shortest")
                if most is not None:
                    require(value <= most, rule, f"{value} > {most}")
                return value
        return refuse("varint-length")

    def float64(self) -> float:
        (value,) = struct.unpack("<d", self.take(8))
        return float(value)

    def text(self) -> str:
        content = self.take(self.varint(4096, "text-length"))
        try:
            text = content.decode("utf-8")
        except UnicodeDecodeError:
            refuse("text-utf8")
        require(not any(ord(c) < 0x20 or 0x7F <= ord(c) <= 0x9F for c in text), "text-control")
        return text

    def shape(self) -> tuple[int, ...]:
        return tuple(self.varint() for _ in range(self.varint(16, "shape-axes")))

    def value(self, depth: int = 0) -> Any:
        tag = self.byte()
        if tag in (0, 1):
            return tag == 1
        if tag == 2:
            return self.varint()
        if tag == 3:
            number = self.varint()
            require(number != 0, "value-negative-zero")
            return -number
        if tag == 4:
            return self.float64()
        if tag == 5:
            return self.text()
        require(tag == 6, "value-tag", str(tag))
        require(depth < 2, "value-nesting")
        return [self.value(depth + 1) for _ in range(self.varint(256, "value-list-length"))]

    def bits(self, width: int, count: int, rule: str) -> list[int]:
        """`count` unsigned numbers of `width` bits, lowest first; unused bits are 0."""
        whole = int.from_bytes(self.take((width * count + 7) // 8), "little")
        require(whole >> width * count == 0, rule)
        return [whole >> width * place & (1 << width) - 1 for place in range(count)]

    def end(self) -> None:
        require(self.place == len(self.content), "bytes-left")
