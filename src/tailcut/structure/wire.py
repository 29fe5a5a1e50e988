"""Byte primitives of files and edits: unsigned variable-length integers, strings, small typed values."""

import re
import struct
from collections.abc import Sequence

from tailcut.errors import ArgumentError, CorruptFileError, LimitError, TruncatedFileError

type_tags = {"false": 0, "true": 1, "int": 2, "negative": 3, "float": 4, "str": 5, "list": 6}
MAX_TEXT_BYTES = 4096
MAX_LIST_LENGTH = 256
MAX_LIST_DEPTH = 2
MAX_AXES = 16
_MAX_VARINT_BYTES = 9
# Texts are printed: C0, DEL and C1 could control the terminal of a user who inspects a file.
_CONTROL_CHARACTER = re.compile(r"[\x00-\x1f\x7f-\x9f]")

Value = bool | int | float | str | tuple["Value", ...]


class Writer:
    """Collects bytes; every method appends one item."""

    def __init__(self) -> None:
        self._parts = bytearray()

    def raw(self, content: bytes) -> None:
        """Append bytes as they are."""
        self._parts += content

    def byte(self, value: int) -> None:
        """Append one byte, 0..255."""
        self._parts.append(value)

    def uint(self, value: int) -> None:
        """Append an unsigned integer below 2^63, 7 bits a byte, lowest first, top bit = more follow (LEB128)."""
        if not 0 <= value < 1 << 63:
            raise ArgumentError(f"expected an integer from 0 to 2^63 - 1, got {value}")
        while value >= 0x80:
            self._parts.append(value & 0x7F | 0x80)
            value >>= 7
        self._parts.append(value)

    def float64(self, value: float) -> None:
        """Append an IEEE 754 double, little-endian."""
        self._parts += struct.pack("<d", value)

    def text(self, value: str) -> None:
        """Append a string: its length in bytes, then UTF-8."""
        try:
            encoded = value.encode()
        except UnicodeEncodeError as error:
            raise ArgumentError(f"expected a text that UTF-8 can hold, got {value!r}") from error
        if len(encoded) > MAX_TEXT_BYTES:
            raise ArgumentError(f"expected a text of at most {MAX_TEXT_BYTES} bytes, got {len(encoded)}")
        if _has_control_character(value):
            raise ArgumentError(f"expected a text without control characters, got {value!r}")
        self.uint(len(encoded))
        self._parts += encoded

    def shape(self, shape: Sequence[int]) -> None:
        """Append a shape: the number of axes, then the sizes."""
        if len(shape) > MAX_AXES:
            raise ArgumentError(f"expected a tensor of at most {MAX_AXES} axes, got {len(shape)}")
        self.uint(len(shape))
        for size in shape:
            self.uint(size)

    def value(self, value: Value, *, depth: int = 0) -> None:
        """Append a typed value: a tag byte, then its content. Lists nest at most twice."""
        if isinstance(value, bool):
            self.byte(type_tags["true"] if value else type_tags["false"])
        elif isinstance(value, int):
            self.byte(type_tags["int"] if value >= 0 else type_tags["negative"])
            self.uint(abs(value))
        elif isinstance(value, float):
            self.byte(type_tags["float"])
            self.float64(value)
        elif isinstance(value, str):
            self.byte(type_tags["str"])
            self.text(value)
        else:
            if len(value) > MAX_LIST_LENGTH or depth >= MAX_LIST_DEPTH:
                raise ArgumentError(
                    f"expected lists of at most {MAX_LIST_LENGTH} items, nested at most {MAX_LIST_DEPTH} deep, "
                    f"got {len(value)} items at depth {depth + 1}"
                )
            self.byte(type_tags["list"])
            self.uint(len(value))
            for item in value:
                self.value(item, depth=depth + 1)

    def getvalue(self) -> bytes:
        """Return all bytes appended so far."""
        return bytes(self._parts)


class Reader:
    """Takes items off bytes in order; never reads past the end, never builds more than was stored."""

    def __init__(self, content: bytes, *, what: str = "file") -> None:
        self._content = content
        self._position = 0
        self._what = what

    @property
    def remaining(self) -> int:
        """Bytes not read yet."""
        return len(self._content) - self._position

    def raw(self, num_bytes: int) -> bytes:
        """Return the next `num_bytes` bytes."""
        if num_bytes > self.remaining:
            raise TruncatedFileError(
                f"{self._what}: {num_bytes} bytes expected at offset {self._position}, {self.remaining} are left"
            )
        start = self._position
        self._position += num_bytes
        return self._content[start : self._position]

    def byte(self) -> int:
        """Return the next byte."""
        if self._position >= len(self._content):
            self.raw(1)
        self._position += 1
        return self._content[self._position - 1]

    def uint(self, *, at_most: int | None = None, of: str = "a number") -> int:
        """Return the next unsigned integer.

        Raises:
            LimitError: it is above `at_most`.
            CorruptFileError: it is not in its shortest form.
        """
        value = 0
        for count in range(_MAX_VARINT_BYTES):
            byte = self.byte()
            value |= (byte & 0x7F) << (7 * count)
            if byte < 0x80:
                if byte == 0 and count > 0:
                    raise CorruptFileError(f"{self._what}: {of} is not in its shortest form")
                break
        else:
            raise CorruptFileError(f"{self._what}: {of} does not fit into 63 bits")
        if at_most is not None and value > at_most:
            raise LimitError(f"{self._what}: {of} is {value}, at most {at_most} is allowed")
        return value

    def float64(self) -> float:
        """Return the next IEEE 754 double."""
        number: float = struct.unpack("<d", self.raw(8))[0]
        return number

    def text(self) -> str:
        """Return the next string."""
        length = self.uint(at_most=MAX_TEXT_BYTES, of="the length of a text")
        try:
            text = self.raw(length).decode()
        except UnicodeDecodeError as error:
            raise CorruptFileError(f"{self._what}: a text is not valid UTF-8") from error
        if _has_control_character(text):
            raise CorruptFileError(f"{self._what}: a text holds a control character: {text!r}")
        return text

    def shape(self) -> tuple[int, ...]:
        """Return the next shape; its sizes are not checked against anything."""
        num_axes = self.uint(at_most=MAX_AXES, of="the number of axes")
        return tuple(self.uint(of="the size of an axis") for _ in range(num_axes))

    def value(self, *, depth: int = 0) -> Value:
        """Return the next typed value; lists nest at most twice."""
        tag = self.byte()
        if tag in (type_tags["false"], type_tags["true"]):
            return tag == type_tags["true"]
        if tag == type_tags["int"]:
            return self.uint()
        if tag == type_tags["negative"]:
            magnitude = self.uint()
            if magnitude == 0:
                raise CorruptFileError(f"{self._what}: a negative zero")
            return -magnitude
        if tag == type_tags["float"]:
            return self.float64()
        if tag == type_tags["str"]:
            return self.text()
        if tag == type_tags["list"] and depth < MAX_LIST_DEPTH:
            length = self.uint(at_most=MAX_LIST_LENGTH, of="the length of a list")
            return tuple(self.value(depth=depth + 1) for _ in range(length))
        raise CorruptFileError(f"{self._what}: unknown type tag {tag} of a value")

    def end(self) -> None:
        """Check that nothing is left."""
        if self.remaining:
            raise CorruptFileError(f"{self._what}: {self.remaining} bytes are left after the last item")


def _has_control_character(text: str) -> bool:
    return _CONTROL_CHARACTER.search(text) is not None
