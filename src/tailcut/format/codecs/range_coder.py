"""Codec 2: adaptive binary range coder for arrays of tens to tens of thousands of numbers."""

from collections.abc import Iterator
from typing import ClassVar

from .codec import Codec

MAX_BYTES = 65536
"""Largest content, bytes. The coder is plain Python: this bounds the time that a hostile payload takes."""

TOP_BITS = 8
"""Bits of each item that are coded in a tree of contexts; the others have one context per position."""

TREE_CONTEXTS = 1 << TOP_BITS

FAST_LEVELS = 5
"""Levels of the tree, from its root, that learn at once: as many as float16 has exponent bits."""

FAST_COUNT = 0
SLOW_COUNT = 8
LOW_COUNT = 4
COUNT_LIMIT = 126
"""Where the count of decisions in a context stops: from then on it adapts by 1 part in 127.5."""

RATES = tuple((2 << 16) // (2 * count + 3) for count in range(COUNT_LIMIT + 1))
"""Rate of adaptation by count, in 1 / 65536. From count 0 it gives (zeros + 1/4) / (decisions + 1/2)."""


class RangeCoder(Codec):
    """Codec 2, `range`: a binary range coder with adaptive probabilities.

    It applies to contents of 1 to 65,536 bytes, known numbers included.

    All numbers below are unsigned integers, `//` rounds down, and no floating-point number takes part, so
    that the same content has the same payload everywhere. The code is one-to-one: `decode` accepts
    `payload` only if it is the one that `encode` gives for the content.

    Items. The content is N items of W bits (W = 8 * item_bytes), little-endian, coded one after another.
    Item x is first rotated left by one bit within its W bits, y = ((x << 1) | (x >> (W - 1))) mod 2^W: so
    the sign of a floating-point number comes last and its exponent first. The W bits of y are coded one by
    one, from bit W - 1 down to bit 0, each with a context:

    - The upper 8 bits: the context is the node of a binary tree. The node is 1 at bit W - 1; after each bit
      b it becomes 2 * node + b. So there are contexts 1 to 255.
    - Bit i of the others (W - 9 >= i >= 0): the context is 256 + i.

    Contexts. Each has a probability p of a zero, in 1 / 65536, and a count n of decisions. At the start
    p is 32768 in all of them; n is 0 in contexts 1 to 31 (levels 0 to 4 of the tree), 8 in contexts 32 to
    255 and 4 in contexts from 256. After a bit was coded with it, a context changes. With
    r = 131072 // (2 * n + 3):

    - bit 0: p = p + ((65536 - p) * r) // 65536;
    - bit 1: p = p - (p * r) // 65536;
    - then n = n + 1 if n < 126.

    (So p stays within 1 to 65535 by itself.)

    Known numbers. Contexts begin as if the numbers that the reader has already had been coded before.

    Interval. The coder holds `low` and `range`, at the start 0 and 2^32. To code a bit with probability p:

    - bound = (range // 65536) * p;
    - bit 0: range = bound; bit 1: low = low + bound and range = range - bound;
    - if low >= 2^32, a carry: subtract 2^32 from low and add 1 to the number that the payload bytes written
      so far form, most significant byte first (it always fits);
    - while range < 2^24: append the byte low // 2^24 to the payload, then low = (low * 256) mod 2^32 and
      range = range * 256.

    End. After the last bit of the last item: low = low + 2^24 - 1, with a carry as above if low >= 2^32,
    and one last byte low // 2^24 is appended. The payload thus is a binary fraction in the final interval,
    with as many bytes as there were renormalisations, plus one.

    Decoder. It holds `offset` (the payload read so far, less `low`) and `range`. At the start, `offset` is
    the first four bytes of the payload, most significant first, and `range` is 2^32. Bytes after the end of
    the payload read as 0. To decode a bit, with bound as above:

    - if offset < bound the bit is 0, and range = bound;
    - otherwise it is 1, offset = offset - bound and range = range - bound;
    - while range < 2^24: offset = offset * 256 + the next byte, and range = range * 256.

    After the last bit exactly three bytes must have been read after the end of the payload, and `offset`
    must be less than 2^24. Otherwise the payload is refused.
    """

    number: ClassVar[int] = 2
    name: ClassVar[str] = "range"

    def encode(self, content: bytes, item_bytes: int, known: bytes = b"") -> bytes | None:
        """Return the payload, or None if `content` is empty or has more than 65,536 bytes. See `Codec.encode`."""
        self._check_content(content, item_bytes)
        if not content or len(known) + len(content) > MAX_BYTES:
            return None
        encoder = _Encoder(8 * item_bytes)
        encoder.learn(known)
        for context, bit in _decisions(content, 8 * item_bytes):
            encoder.put(context, bit)
        return encoder.finish()

    def decode(self, payload: bytes, num_bytes: int, item_bytes: int, known: bytes = b"") -> bytes:
        """Return the content if `payload` is exactly its encoding. See `Codec.decode`."""
        self._check_size(num_bytes, item_bytes)
        if num_bytes < 1 or len(known) + num_bytes > MAX_BYTES:
            raise self._corrupt(f"expected 1 to {MAX_BYTES - len(known)} bytes of content, the header says {num_bytes}")
        num_bits = 8 * item_bytes
        decoder = _Decoder(num_bits, payload)
        decoder.learn(known)
        content = bytearray()
        for _ in range(num_bytes // item_bytes):
            rotated = 1
            for _ in range(TOP_BITS):
                rotated = rotated << 1 | decoder.get(rotated)
            for position in range(num_bits - 1 - TOP_BITS, -1, -1):
                rotated = rotated << 1 | decoder.get(TREE_CONTEXTS + position)
            item = (rotated & 1) << (num_bits - 1) | rotated >> 1 & ((1 << (num_bits - 1)) - 1)
            content += item.to_bytes(item_bytes, "little")
        if not decoder.finished():
            raise self._corrupt(f"its {len(payload)} bytes are not the code of any {num_bytes} bytes of content")
        return bytes(content)


def _decisions(content: bytes, num_bits: int) -> Iterator[tuple[int, int]]:
    for start in range(0, len(content), num_bits // 8):
        item = int.from_bytes(content[start : start + num_bits // 8], "little")
        rotated = (item << 1) & ((1 << num_bits) - 1) | item >> (num_bits - 1)
        node = 1
        for position in range(num_bits - 1, num_bits - 1 - TOP_BITS, -1):
            bit = rotated >> position & 1
            yield node, bit
            node = node << 1 | bit
        for position in range(num_bits - 1 - TOP_BITS, -1, -1):
            yield TREE_CONTEXTS + position, rotated >> position & 1


class _Contexts:
    """The adaptive probabilities of all contexts, as `RangeCoder` specifies them."""

    def __init__(self, num_bits: int) -> None:
        num_fast = 1 << FAST_LEVELS
        self._num_bits = num_bits
        num_low = num_bits - TOP_BITS
        self._zeros = [1 << 15] * (TREE_CONTEXTS + num_low)
        self._counts = [FAST_COUNT] * num_fast + [SLOW_COUNT] * (TREE_CONTEXTS - num_fast) + [LOW_COUNT] * num_low

    def learn(self, known: bytes) -> None:
        """Take in numbers as if they had been coded."""
        for context, bit in _decisions(known, self._num_bits):
            self._adapt(context, bit)

    def _adapt(self, context: int, bit: int) -> None:
        count = self._counts[context]
        zero = self._zeros[context]
        if bit:
            self._zeros[context] = zero - (zero * RATES[count] >> 16)
        else:
            self._zeros[context] = zero + ((65536 - zero) * RATES[count] >> 16)
        if count < COUNT_LIMIT:
            self._counts[context] = count + 1


class _Encoder(_Contexts):
    """The encoder's interval and the payload written so far."""

    def __init__(self, num_bits: int) -> None:
        super().__init__(num_bits)
        self._low = 0
        self._range = 1 << 32
        self._payload = bytearray()

    def put(self, context: int, bit: int) -> None:
        """Code one bit."""
        bound = (self._range >> 16) * self._zeros[context]
        if bit:
            self._raise_low(bound)
            self._range -= bound
        else:
            self._range = bound
        self._adapt(context, bit)
        while self._range < 1 << 24:
            self._write_byte()
            self._range <<= 8

    def finish(self) -> bytes:
        """Return the payload, with the final byte flushed."""
        self._raise_low((1 << 24) - 1)
        self._write_byte()
        return bytes(self._payload)

    def _raise_low(self, amount: int) -> None:
        self._low += amount
        if self._low >> 32:
            self._low -= 1 << 32
            position = len(self._payload) - 1
            while self._payload[position] == 255:
                self._payload[position] = 0
                position -= 1
            self._payload[position] += 1

    def _write_byte(self) -> None:
        self._payload.append(self._low >> 24)
        self._low = self._low << 8 & 0xFFFFFFFF


class _Decoder(_Contexts):
    """The decoder's interval and its place in the payload."""

    def __init__(self, num_bits: int, payload: bytes) -> None:
        super().__init__(num_bits)
        self._payload = payload
        self._next = 4
        self._offset = int.from_bytes(payload[:4].ljust(4, b"\0"), "big")
        self._range = 1 << 32

    def get(self, context: int) -> int:
        """Decode one bit."""
        bound = (self._range >> 16) * self._zeros[context]
        if self._offset < bound:
            bit = 0
            self._range = bound
        else:
            bit = 1
            self._offset -= bound
            self._range -= bound
        self._adapt(context, bit)
        while self._range < 1 << 24:
            byte = self._payload[self._next] if self._next < len(self._payload) else 0
            self._next += 1
            self._offset = self._offset << 8 | byte
            self._range <<= 8
        return bit

    def finished(self) -> bool:
        """Return whether the payload ends with the code, in the final byte that the encoder would write."""
        return self._next == len(self._payload) + 3 and self._offset < 1 << 24
