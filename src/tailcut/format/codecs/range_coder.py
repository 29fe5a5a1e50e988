"""Codec 2: adaptive binary range coder for arrays of tens to tens of thousands of numbers."""

from collections.abc import Iterator, MutableSequence, Sequence
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

BYTES_PER_DECISION = 2
"""That a decision writes at most: its probability is at least 1 / 65536."""
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
        contexts = _Contexts(8 * item_bytes)
        contexts.learn(known)
        coder, buffer = [0, 1 << 32, 0], bytearray(BYTES_PER_DECISION * 8 * len(content))
        for context, bit in _decisions(content, 8 * item_bytes):
            put_half(coder, buffer, (coder[1] >> 16) * contexts.zeros[context], bit)
            contexts.adapt(context, bit)
        return closed(coder, buffer)

    def decode(self, payload: bytes, num_bytes: int, item_bytes: int, known: bytes = b"") -> bytes:
        """Return the content if `payload` is exactly its encoding. See `Codec.decode`."""
        self._check_size(num_bytes, item_bytes)
        if num_bytes < 1 or len(known) + num_bytes > MAX_BYTES:
            raise self._corrupt(f"expected 1 to {MAX_BYTES - len(known)} bytes of content, the header says {num_bytes}")
        num_bits = 8 * item_bytes
        contexts = _Contexts(num_bits)
        contexts.learn(known)
        zeros, coder, content = contexts.zeros, opened(payload), bytearray()

        def get(context: int) -> int:
            bit = get_half(coder, payload, (coder[1] >> 16) * zeros[context])
            contexts.adapt(context, bit)
            return bit

        for _ in range(num_bytes // item_bytes):
            rotated = 1
            for _ in range(TOP_BITS):
                rotated = rotated << 1 | get(rotated)
            for position in range(num_bits - 1 - TOP_BITS, -1, -1):
                rotated = rotated << 1 | get(TREE_CONTEXTS + position)
            item = (rotated & 1) << (num_bits - 1) | rotated >> 1 & ((1 << (num_bits - 1)) - 1)
            content += item.to_bytes(item_bytes, "little")
        if not is_at_end(coder, payload):
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
        self.zeros = [1 << 15] * (TREE_CONTEXTS + num_low)
        self._counts = [FAST_COUNT] * num_fast + [SLOW_COUNT] * (TREE_CONTEXTS - num_fast) + [LOW_COUNT] * num_low

    def learn(self, known: bytes) -> None:
        """Take in numbers as if they had been coded."""
        for context, bit in _decisions(known, self._num_bits):
            self.adapt(context, bit)

    def adapt(self, context: int, bit: int) -> None:
        """Move the probability of a context towards the bit that came."""
        count = self._counts[context]
        zero = self.zeros[context]
        if bit:
            self.zeros[context] = zero - (zero * RATES[count] >> 16)
        else:
            self.zeros[context] = zero + ((65536 - zero) * RATES[count] >> 16)
        if count < COUNT_LIMIT:
            self._counts[context] = count + 1


def put_half(coder: MutableSequence[int], buffer: MutableSequence[int], bound: int, bit: int) -> None:
    """Write one bit; `bound` is the part of the interval for 0. `coder` is low, range, bytes written.

    This and `get_half` are the arithmetic of codec 3 too, which compiles them.
    """
    if bit:
        coder[0] += bound
        coder[1] -= bound
        if coder[0] >> 32:
            coder[0] -= 1 << 32
            position = coder[2] - 1
            while buffer[position] == 255:
                buffer[position] = 0
                position -= 1
            buffer[position] += 1
    else:
        coder[1] = bound
    while coder[1] < 1 << 24:
        buffer[coder[2]] = coder[0] >> 24
        coder[2] += 1
        coder[0] = (coder[0] << 8) & 0xFFFFFFFF
        coder[1] <<= 8


def get_half(coder: MutableSequence[int], payload: Sequence[int], bound: int) -> int:
    """Read one bit. `coder` is offset, range, bytes read."""
    if coder[0] < bound:
        bit = 0
        coder[1] = bound
    else:
        bit = 1
        coder[0] -= bound
        coder[1] -= bound
    while coder[1] < 1 << 24:
        byte = payload[coder[2]] if coder[2] < len(payload) else 0
        coder[2] += 1
        coder[0] = (coder[0] << 8) | byte
        coder[1] <<= 8
    return bit


def closed(coder: Sequence[int], buffer: Sequence[int]) -> bytes:
    """Return the payload that `put_half` wrote into a buffer, with the final byte flushed."""
    low, written = int(coder[0]) + (1 << 24) - 1, int(coder[2])
    payload = int.from_bytes(bytes(buffer[:written]), "big") + (low >> 32)
    return payload.to_bytes(written, "big") + bytes([low >> 24 & 255])


def opened(payload: bytes) -> list[int]:
    """Return what `get_half` begins a payload with: offset, range, bytes read."""
    return [int.from_bytes(payload[:4].ljust(4, b"\0"), "big"), 1 << 32, 4]


def is_at_end(coder: Sequence[int], payload: bytes) -> bool:
    """Return whether the payload ends with the code, in the final byte that the encoder would write."""
    return coder[2] == len(payload) + 3 and coder[0] < 1 << 24
