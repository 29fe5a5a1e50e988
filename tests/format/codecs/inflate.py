"""Reference decoder for raw DEFLATE (RFC 1951); it accepts and rejects the same payloads as zlib."""

from tailcut.errors import CorruptFileError

CODE_LENGTH_ORDER = (16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15)
LENGTH_EXTRA_BITS = (*(0,) * 8, *(bits for bits in range(1, 6) for _ in range(4)), 0)
LENGTH_BASES = (*(3 + sum(1 << bits for bits in LENGTH_EXTRA_BITS[:index]) for index in range(28)), 258)
DISTANCE_EXTRA_BITS = (0, 0, *(bits for bits in range(14) for _ in range(2)))
DISTANCE_BASES = tuple(1 + sum(1 << bits for bits in DISTANCE_EXTRA_BITS[:index]) for index in range(30))
FIXED_LENGTHS = ([8] * 144 + [9] * 112 + [7] * 24 + [8] * 8, [5] * 32)
END_OF_BLOCK = 256
_Code = dict[tuple[int, int], int]


def inflate(payload: bytes, num_bytes: int) -> bytes:
    """Expand a raw DEFLATE stream.

    Args:
        payload: the stream, to its last byte.
        num_bytes: the length it must expand to, in bytes; no more is ever taken.

    Returns:
        The content, exactly `num_bytes` bytes.

    Raises:
        CorruptFileError: `payload` is not one whole stream of RFC 1951 that expands to `num_bytes` bytes.
    """
    return _Inflater(payload, num_bytes).run()


class _Inflater:
    def __init__(self, payload: bytes, num_bytes: int) -> None:
        self.payload, self.num_bytes, self.content = payload, num_bytes, bytearray()
        self.place = 0  # in bits, from the lowest bit of the first byte (section 3.1.1 of the RFC)

    def run(self) -> bytes:
        final = 0
        while not final:  # 3.2.3
            final, kind = self.bits(1), self.bits(2)
            _require(kind < 3, "block type 3 is reserved")
            if kind == 0:
                self.stored_block()
            else:
                self.compressed_block(*map(_code, FIXED_LENGTHS if kind == 1 else self.dynamic_lengths()))
        _require((self.place + 7) // 8 == len(self.payload), "bytes follow its final block")
        _require(len(self.content) == self.num_bytes, f"it is shorter than {self.num_bytes} bytes")
        return bytes(self.content)

    def bits(self, count: int) -> int:
        _require(self.place + count <= 8 * len(self.payload), "it ends before its final block does")
        self.place, start = self.place + count, self.place
        return sum((self.payload[start + k >> 3] >> (start + k & 7) & 1) << k for k in range(count))

    def symbol(self, code: _Code) -> int:
        length, word = 1, self.bits(1)
        while (length, word) not in code:
            _require(length < 15, "a bit pattern stands for no symbol")
            length, word = length + 1, word << 1 | self.bits(1)
        return code[length, word]

    def stored_block(self) -> None:  # 3.2.4
        self.place = (self.place + 7) // 8 * 8
        length, complement = self.bits(16), self.bits(16)
        _require(length ^ complement == 0xFFFF, "the length of a stored block contradicts its complement")
        run = self.payload[self.place // 8 : self.place // 8 + length]
        _require(len(run) == length, "it ends within a stored block")
        self.extend(run)
        self.place += 8 * length

    def compressed_block(self, symbols: _Code, distances: _Code) -> None:  # 3.2.5
        while (symbol := self.symbol(symbols)) != END_OF_BLOCK:
            if symbol < END_OF_BLOCK:
                self.extend(bytes([symbol]))
            else:
                _require(symbol <= 285, "a length symbol above 285")
                length = LENGTH_BASES[symbol - 257] + self.bits(LENGTH_EXTRA_BITS[symbol - 257])
                index = self.symbol(distances)
                _require(index <= 29, "a distance symbol above 29")
                start = len(self.content) - DISTANCE_BASES[index] - self.bits(DISTANCE_EXTRA_BITS[index])
                _require(start >= 0, "a distance reaches back before the start")
                self.extend((self.content[start : start + length] * length)[:length])

    def dynamic_lengths(self) -> tuple[list[int], list[int]]:  # 3.2.7
        num_symbols, num_distances, num_lengths = self.bits(5) + 257, self.bits(5) + 1, self.bits(4) + 4
        _require(num_symbols <= 286 and num_distances <= 30, "too many symbols")
        given = {index: self.bits(3) for index in CODE_LENGTH_ORDER[:num_lengths]}
        code = _code([given.get(index, 0) for index in range(19)], may_be_single=False)
        lengths: list[int] = []
        while len(lengths) < num_symbols + num_distances:
            symbol = self.symbol(code)
            _require(symbol != 16 or len(lengths) > 0, "a repeated code length comes first")
            count = self.bits((2, 3, 7)[symbol - 16]) + (3, 3, 11)[symbol - 16] if symbol >= 16 else 1
            lengths += [symbol if symbol < 16 else lengths[-1] if symbol == 16 else 0] * count
        _require(len(lengths) == num_symbols + num_distances, "a repeated code length goes on too far")
        _require(lengths[END_OF_BLOCK] > 0, "the end of the block has no code word")
        return lengths[:num_symbols], lengths[num_symbols:]

    def extend(self, run: bytes | bytearray) -> None:
        _require(len(self.content) + len(run) <= self.num_bytes, f"it is longer than {self.num_bytes} bytes")
        self.content += run


def _code(lengths: list[int], may_be_single: bool = True) -> _Code:
    """Return the canonical prefix code of these lengths (3.2.2), as a map from (length, code word) to symbol."""
    code: _Code = {}
    word = previous = 0
    for length, symbol in sorted((length, symbol) for symbol, length in enumerate(lengths) if length):
        word <<= length - previous
        _require(word < 1 << length, "too many code words")
        code[length, word] = symbol
        word, previous = word + 1, length
    # Unused bit patterns are an error, except beside one symbol of one bit, or with no symbol at all.
    _require(word == 1 << previous or (may_be_single and max(lengths) <= 1), "an incomplete code")
    return code


def _require(condition: bool, reason: str) -> None:
    if not condition:
        raise CorruptFileError(f"deflate payload: {reason}; the file is damaged, get a fresh copy of it")
