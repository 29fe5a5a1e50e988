"""Codec 1: byte planes compressed by raw DEFLATE."""

import zlib
from typing import ClassVar

from .codec import Codec

SMALL_LEVEL, LEVEL = 9, 6
SMALL = 1 << 20
"""Contents of at most so many bytes are compressed at level 9: of more it takes four times as long for 0.3 % less."""

RAW_WINDOW_BITS = -15
"""zlib's way to ask for a bare DEFLATE stream (no zlib or gzip wrapper) with a window of 2^15 bytes."""


class Deflate(Codec):
    """Codec 1, `deflate`: the bytes sorted by significance, then DEFLATE. It applies to every content.

    With items of B bytes and N items, `content[B * i + j]` is byte j of item i, and byte B - 1 is the most
    significant one. The planes are B runs of N bytes, the most significant first: for j = B - 1, B - 2,
    ..., 0 the bytes `content[j], content[B + j], content[2 * B + j], ...`. (Signs and exponents of
    neighbours resemble one another, low mantissa bits do not.)

    The payload is the planes as one raw DEFLATE stream (RFC 1951): no zlib header, no checksum, no preset
    dictionary, any mix of stored, fixed and dynamic blocks, a window of at most 32,768 bytes. The stream
    must expand to exactly B * N bytes, and the byte that holds the last bit of its final block must be the
    last byte of the payload; the unused high bits of that byte are ignored.

    The decoder is zlib's, which stops at one byte more than expected, so that no payload expands without
    bound.
    """

    number: ClassVar[int] = 1
    name: ClassVar[str] = "deflate"

    def encode(self, content: bytes, item_bytes: int, known: bytes = b"") -> bytes:
        """Byte planes through zlib. See `Codec.encode`."""
        self._check_content(content, item_bytes)
        planes = b"".join(content[plane::item_bytes] for plane in reversed(range(item_bytes)))
        level = SMALL_LEVEL if len(content) <= SMALL else LEVEL
        compressor = zlib.compressobj(level, zlib.DEFLATED, RAW_WINDOW_BITS)
        return compressor.compress(planes) + compressor.flush()

    def decode(self, payload: bytes, num_bytes: int, item_bytes: int, known: bytes = b"") -> bytes:
        """Return the content of decompressed planes. See `Codec.decode`."""
        self._check_size(num_bytes, item_bytes)
        decompressor = zlib.decompressobj(RAW_WINDOW_BITS)
        try:
            # One byte more than expected: 0 means no limit to zlib, and a stream that is too long shows.
            planes = decompressor.decompress(payload, num_bytes + 1)
        except zlib.error as error:
            raise self._corrupt(f"not a DEFLATE stream ({error})") from error
        if len(planes) > num_bytes:
            raise self._corrupt(f"expected {num_bytes} bytes of content, it holds more")
        if not decompressor.eof:
            raise self._corrupt(f"it ends before the end of its DEFLATE stream ({len(payload)} bytes)")
        if len(planes) < num_bytes:
            raise self._corrupt(f"expected {num_bytes} bytes of content, it holds {len(planes)}")
        if decompressor.unused_data:
            raise self._corrupt(f"{len(decompressor.unused_data)} bytes follow its DEFLATE stream")
        content = bytearray(num_bytes)
        num_items = num_bytes // item_bytes
        for position, plane in enumerate(reversed(range(item_bytes))):
            content[plane::item_bytes] = planes[position * num_items : (position + 1) * num_items]
        return bytes(content)
