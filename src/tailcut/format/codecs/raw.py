"""Codec 0: the content, unchanged."""

from typing import ClassVar

from .codec import Codec


class Raw(Codec):
    """Codec 0, `raw`: the payload is the content, byte for byte. It applies to every content."""

    number: ClassVar[int] = 0
    name: ClassVar[str] = "raw"

    def encode(self, content: bytes, item_bytes: int, known: bytes = b"") -> bytes:
        """Return the content itself. See `Codec.encode`."""
        self._check_content(content, item_bytes)
        return bytes(content)

    def decode(self, payload: bytes, num_bytes: int, item_bytes: int, known: bytes = b"") -> bytes:
        """Return the payload itself, which must have `num_bytes` bytes. See `Codec.decode`."""
        self._check_size(num_bytes, item_bytes)
        if len(payload) != num_bytes:
            raise self._corrupt(f"expected {num_bytes} bytes, got {len(payload)}")
        return bytes(payload)
