"""Base class of lossless codecs, and the laws that each codec must keep."""

from abc import ABC, abstractmethod
from typing import ClassVar

from tailcut.errors import ArgumentError, CorruptFileError

ITEM_BYTES = (1, 2, 4, 8)
"""The sizes of one number that a codec handles: 8-bit to 64-bit numbers, little-endian."""


class Codec(ABC):
    """A lossless code for arrays of numbers of `item_bytes` bytes each, little-endian.

    A codec has no state and no parameters: the number in the file says all. These laws hold for every
    codec, and `tests/format/codecs/test_codec.py` tries each of them on each codec:

    - Lossless: if `encode(content, item_bytes)` gives a payload, then `decode(payload, len(content),
      item_bytes) == content`, bit for bit, for every byte string whose length is a multiple of
      `item_bytes`.
    - Fixed: what decodes today decodes for ever, to the same bytes, on every machine. The encoder depends
      on its arguments alone. (The DEFLATE encoder is that of the zlib at hand, and builds of zlib may
      choose different payloads for one content; every one of them decodes to it.)
    - Exact: `decode` returns `num_bytes` bytes or raises `CorruptFileError`. It reads the payload to its
      last byte: one that ends early, goes on after the end, or breaks a rule of the codec is refused. (A
      damaged payload can be the payload of another content; only the file's checksum detects it.)
    - Bounded: `decode` takes time and memory in proportion to `num_bytes + len(payload)`, whatever the
      payload claims. The caller checks `num_bytes` against its caps first.
    """

    number: ClassVar[int]
    """The codec's number in the file, 0 to 7."""

    name: ClassVar[str]
    """The codec's name in reports."""

    @abstractmethod
    def encode(self, content: bytes, item_bytes: int, known: bytes = b"") -> bytes | None:
        """Return `content`, encoded.

        Args:
            content: the numbers, little-endian, one after another.
            item_bytes: bytes of one number: 1, 2, 4 or 8.
            known: numbers that the reader has already, for a codec that learns from them.

        Returns:
            The payload (it may be longer than `content`), or None when the codec does not apply to a
            content of this size.

        Raises:
            ArgumentError: `item_bytes` is none of 1, 2, 4, 8, or `content` is not a whole number of items.
        """

    @abstractmethod
    def decode(self, payload: bytes, num_bytes: int, item_bytes: int, known: bytes = b"") -> bytes:
        """Return `payload`, decoded.

        Args:
            payload: what `encode` gave.
            num_bytes: the length of the content, known from the header; already checked against the caps.
            item_bytes: bytes of one number: 1, 2, 4 or 8.
            known: as for `encode`.

        Returns:
            The content, exactly `num_bytes` bytes.

        Raises:
            ArgumentError: `item_bytes` is none of 1, 2, 4, 8.
            CorruptFileError: `payload` is not a payload of this codec for `num_bytes` bytes.
        """

    def _check_content(self, content: bytes, item_bytes: int) -> None:
        _check_item_bytes(item_bytes)
        if len(content) % item_bytes:
            raise ArgumentError(
                f"{self.name}: expected a whole number of {item_bytes}-byte items, got {len(content)} bytes"
            )

    def _check_size(self, num_bytes: int, item_bytes: int) -> None:
        _check_item_bytes(item_bytes)
        if num_bytes < 0 or num_bytes % item_bytes:
            raise self._corrupt(f"{num_bytes} bytes are not a whole number of {item_bytes}-byte items")

    def _corrupt(self, reason: str) -> CorruptFileError:
        return CorruptFileError(f"{self.name} payload: {reason}; the file is damaged, get a fresh copy of it")


def _check_item_bytes(item_bytes: int) -> None:
    if item_bytes not in ITEM_BYTES:
        raise ArgumentError(f"item_bytes must be one of {', '.join(map(str, ITEM_BYTES))}, got {item_bytes!r}")
