"""The reference decoder of DEFLATE against zlib: good streams, each kind of bad one, and damaged ones."""

import random
import zlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.format.codecs.inflate import inflate

from tailcut.errors import CorruptFileError

CODE_LENGTH_ORDER = (16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15)


def deflate(content: bytes, level: int = 9, strategy: int = zlib.Z_DEFAULT_STRATEGY, flush: int = 0) -> bytes:
    """A stream by zlib; `flush` cuts it into blocks every so many bytes."""
    compressor = zlib.compressobj(level, zlib.DEFLATED, -15, 9, strategy)
    payload = b""
    for start in range(0, len(content), flush or len(content) or 1):
        payload += compressor.compress(content[start : start + (flush or len(content))])
        payload += compressor.flush(zlib.Z_SYNC_FLUSH) if flush else b""
    return payload + compressor.flush()


def by_zlib(payload: bytes, num_bytes: int) -> bytes | None:
    """What zlib makes of the whole payload; None if it is not one stream of `num_bytes` bytes."""
    decompressor = zlib.decompressobj(-15)
    try:
        content = decompressor.decompress(payload, num_bytes + 1)
    except zlib.error:
        return None
    whole = decompressor.eof and not decompressor.unused_data and len(content) == num_bytes
    return content if whole else None


def by_reference(payload: bytes, num_bytes: int) -> bytes | None:
    try:
        return inflate(payload, num_bytes)
    except CorruptFileError:
        return None


contents = st.one_of(
    st.binary(max_size=400), st.lists(st.sampled_from([b"a", b"bc", b"abcabc"]), max_size=200).map(b"".join)
)


@settings(max_examples=150, deadline=None)
@given(
    content=contents,
    level=st.sampled_from([0, 1, 6, 9]),
    strategy=st.sampled_from([zlib.Z_DEFAULT_STRATEGY, zlib.Z_HUFFMAN_ONLY, zlib.Z_RLE, zlib.Z_FIXED]),
    flush=st.sampled_from([0, 50]),
)
def test_inflate_undoes_zlib(content: bytes, level: int, strategy: int, flush: int) -> None:
    assert inflate(deflate(content, level, strategy, flush), len(content)) == content


def test_inflate_undoes_zlib_on_long_contents() -> None:
    source = random.Random(0)
    words = [source.randbytes(source.randrange(1, 400)) for _ in range(60)]
    far = b"".join(source.choice(words) for _ in range(400))  # matches of all lengths and distances up to 32 KiB
    for content in (
        far,
        source.randbytes(70_000),
        bytes(100_000),
        bytes(source.choices(range(256), range(256), k=9000)),
    ):
        for level in (0, 9):
            assert inflate(deflate(content, level), len(content)) == content


class Bits:
    """Writes the bits of a DEFLATE stream by hand."""

    def __init__(self) -> None:
        self.text = ""

    def number(self, value: int, count: int) -> "Bits":
        """A number of `count` bits, lowest bit first, as headers and extra bits are."""
        self.text += f"{value:0{count}b}"[::-1] if count else ""
        return self

    def code(self, word: str) -> "Bits":
        """A code word, first bit first."""
        self.text += word
        return self

    def payload(self) -> bytes:
        text = self.text + "0" * (-len(self.text) % 8)
        return bytes(int(text[start : start + 8][::-1], 2) for start in range(0, len(text), 8))


def block(kind: int) -> Bits:
    return Bits().number(1, 1).number(kind, 2)


def dynamic(lengths: dict[int, int], num_symbols: int = 257, num_distances: int = 1, num_lengths: int = 19) -> Bits:
    """The head of a dynamic block, with these lengths of the code length code."""
    bits = block(2).number(num_symbols - 257, 5).number(num_distances - 1, 5).number(num_lengths - 4, 4)
    for symbol in CODE_LENGTH_ORDER[:num_lengths]:
        bits.number(lengths.get(symbol, 0), 3)
    return bits


def zeros(bits: Bits, count: int) -> Bits:
    """`count` code lengths 0 by symbol 18, whose code word is 1."""
    while count:
        run = min(138, count)
        bits.code("1").number(run - 11, 7)
        count -= run
    return bits


# Code lengths of the code length code: symbol 1 is "0", symbol 18 is "1".
ONE_AND_ZEROS = {1: 1, 18: 1}

GOOD = {
    "empty fixed block": (block(1).code("0000000"), b""),
    "fixed literal": (block(1).code("00110000").code("0000000"), b"\0"),
    "fixed match": (block(1).code("10010001").code("0000010").code("00000").code("0000000"), b"a" * 5),
    "longest match": (block(1).code("10010001").code("11000101").code("00000").code("0000000"), b"a" * 259),
    # The only symbol is the end of the block, with one bit; the distance code has one symbol too.
    "single symbols": (zeros(dynamic(ONE_AND_ZEROS), 256).code("0").code("0").code("0"), b""),
}

BAD = {
    "empty": (Bits(), "ends before its final block"),
    "reserved block type": (block(3), "block type 3"),
    "stored, no complement": (
        block(0).number(0, 5).number(1, 16).number(1, 16).number(0, 8),
        "contradicts its complement",
    ),
    "stored, cut": (block(0).number(0, 5).number(3, 16).number(0xFFFC, 16).number(0, 16), "ends within a stored block"),
    "fixed, no end": (block(1).code("10010001"), "ends before its final block"),
    "length symbol 286": (
        block(1).code("10010001").code("11000110").code("00000").code("0000000"),
        "a length symbol above",
    ),
    "distance symbol 30": (
        block(1).code("10010001").code("0000001").code("11110").code("0000000"),
        "a distance symbol above",
    ),
    "distance before the start": (
        block(1).code("10010001").code("0000001").code("00001").code("0000000"),
        "before the start",
    ),
    "287 symbols": (dynamic(ONE_AND_ZEROS, num_symbols=287), "too many symbols"),
    "31 distances": (dynamic(ONE_AND_ZEROS, num_distances=31), "too many symbols"),
    "too many code length words": (dynamic({1: 1, 2: 1, 18: 1}), "too many code words"),
    "incomplete code length code": (dynamic({1: 2, 18: 2}), "an incomplete code"),
    "single code length word": (dynamic({1: 1}), "an incomplete code"),
    "no code length words": (dynamic({}).number(0, 300), "an incomplete code|no symbol"),
    "repeat comes first": (dynamic({16: 1, 1: 1}).code("1").number(0, 2), "comes first"),
    "repeat goes on too far": (zeros(dynamic(ONE_AND_ZEROS), 250).code("1").number(127, 7), "goes on too far"),
    "no end of block": (
        zeros(dynamic(ONE_AND_ZEROS, num_symbols=267).code("00"), 266),
        "the end of the block has no code word",
    ),
    "too many symbol words": (dynamic(ONE_AND_ZEROS).code("0" * 258), "too many code words"),
    "incomplete symbol code": (zeros(dynamic({2: 1, 18: 1}), 256).code("00"), "an incomplete code"),
    "the unused word": (zeros(dynamic(ONE_AND_ZEROS), 256).code("00").code("1" * 30), "stands for no symbol"),
}


@pytest.mark.parametrize("name", GOOD)
def test_streams_made_by_hand(name: str) -> None:
    bits, content = GOOD[name]
    assert by_zlib(bits.payload(), len(content)) == content
    assert inflate(bits.payload(), len(content)) == content


@pytest.mark.parametrize("name", BAD)
def test_malformed_streams_are_refused_as_by_zlib(name: str) -> None:
    bits, reason = BAD[name]
    for num_bytes in (0, 1, 4, 300):
        assert by_zlib(bits.payload(), num_bytes) is None
        with pytest.raises(CorruptFileError, match=r"^deflate payload: .*; the file is damaged"):
            inflate(bits.payload(), num_bytes)
    with pytest.raises(CorruptFileError, match=reason):
        inflate(bits.payload(), 300)


def test_another_size_and_what_follows_are_refused() -> None:
    payload = deflate(b"abcabcabc" * 10)
    for num_bytes, message in [(89, "longer than 89"), (91, "shorter than 91"), (0, "longer than 0")]:
        with pytest.raises(CorruptFileError, match=message):
            inflate(payload, num_bytes)
    with pytest.raises(CorruptFileError, match="bytes follow"):
        inflate(payload + b"\0", 90)


def test_a_bomb_stops_at_the_size_asked_for() -> None:
    with pytest.raises(CorruptFileError, match="longer than 1000 bytes"):
        inflate(deflate(bytes(20_000_000)), 1000)


def test_damaged_streams_mean_the_same_as_to_zlib() -> None:
    source = random.Random(0)
    text = b"".join(source.choice([b"low", b"high", b"frequency", b" "]) for _ in range(40))
    streams = [
        (deflate(content, level, strategy), len(content))
        for content in (text, source.randbytes(60), bytes(300))
        for level, strategy in (
            (9, zlib.Z_DEFAULT_STRATEGY),
            (9, zlib.Z_HUFFMAN_ONLY),
            (9, zlib.Z_FIXED),
            (0, 0),
        )
    ]
    num_accepted = 0
    for _ in range(3000):
        payload, num_bytes = source.choice(streams)
        damaged = bytearray(payload)
        for _ in range(source.choice((1, 1, 2, 5))):
            damaged[source.randrange(len(damaged))] ^= 1 << source.randrange(8)
        if source.random() < 0.1:
            damaged = damaged[: source.randrange(len(damaged) + 1)]
        content = by_reference(bytes(damaged), num_bytes)
        assert content == by_zlib(bytes(damaged), num_bytes)
        num_accepted += content is not None
    assert 300 < num_accepted < 2500
