"""The laws of `Codec`, tried on every codec, and payloads of old versions that must decode for ever.

A file in golden/ holds one payload: the number of its codec, the bytes of an item, the content and the
payload, both in hex. Files are added, never changed: one that fails means that stored files no longer decode.
"""

import json
import random
import struct
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tailcut.errors import ArgumentError, CorruptFileError
from tailcut.format.codecs import CODECS, Codec
from tailcut.format.codecs.raw import Raw

GOLDEN = sorted((Path(__file__).parent / "golden").glob("*.json"))
ITEM_BYTES = (1, 2, 4, 8)
LARGEST = 65536  # the largest content of the range coder, bytes

every_codec = pytest.mark.parametrize("codec", CODECS.values(), ids=lambda codec: codec.name)
every_item = pytest.mark.parametrize("item_bytes", ITEM_BYTES)


def gaussian(count: int, form: str, seed: int = 0) -> bytes:
    """`count` normal numbers as a little-endian array of the struct format `form`."""
    source = random.Random(seed)
    return struct.pack(f"<{count}{form}", *(source.gauss(0, 1) for _ in range(count)))


# Few byte values, so that runs, repeats and skewed probabilities occur, beside bytes of any kind.
contents = st.one_of(st.binary(max_size=200), st.lists(st.sampled_from([0, 1, 127, 128, 255]), max_size=300).map(bytes))


@every_codec
@every_item
@settings(max_examples=60, deadline=None)
@given(content=contents)
def test_decode_undoes_encode(codec: Codec, item_bytes: int, content: bytes) -> None:
    content = content[: len(content) // item_bytes * item_bytes]
    payload = codec.encode(content, item_bytes)
    if payload is None:
        assert content == b""  # contents as small as these apply everywhere, but the range coder wants some
    else:
        assert codec.decode(payload, len(content), item_bytes) == content
        assert codec.encode(content, item_bytes) == payload


@every_codec
@every_item
@pytest.mark.parametrize(
    "content",
    [
        bytes(4096),
        b"\xff" * 4096,
        bytes(range(256)) * 8,
        random.Random(1).randbytes(8192),
        gaussian(1024, "e"),
    ],
    ids=["zeros", "ones", "counting", "random", "float16"],
)
def test_decode_undoes_encode_on_larger_contents(codec: Codec, item_bytes: int, content: bytes) -> None:
    payload = codec.encode(content, item_bytes)
    assert payload is not None
    assert codec.decode(payload, len(content), item_bytes) == content


@every_codec
def test_encode_may_only_decline_by_size(codec: Codec) -> None:
    for size in (2, 64, LARGEST):
        assert codec.encode(bytes(size), 2) is not None


@every_codec
@pytest.mark.parametrize(("content", "item_bytes"), [(b"abc", 2), (b"abcde", 4), (b"", 3), (b"", 0), (b"ab", -1)])
def test_encode_refuses_partial_items(codec: Codec, content: bytes, item_bytes: int) -> None:
    with pytest.raises(ArgumentError):
        codec.encode(content, item_bytes)


@every_codec
def test_decode_refuses_sizes_that_are_no_whole_number_of_items(codec: Codec) -> None:
    payload = codec.encode(bytes(8), 2)
    assert payload is not None
    for num_bytes in (-2, -1, 7, 9):
        with pytest.raises(CorruptFileError):
            codec.decode(payload, num_bytes, 2)
    with pytest.raises(ArgumentError):
        codec.decode(payload, 8, 3)


@every_codec
@every_item
def test_decode_refuses_another_size(codec: Codec, item_bytes: int) -> None:
    content = random.Random(2).randbytes(64)
    payload = codec.encode(content, item_bytes)
    assert payload is not None
    for num_bytes in range(0, 256, item_bytes):
        if num_bytes != len(content):
            with pytest.raises(CorruptFileError, match=f"^{codec.name} payload: .*; the file is damaged"):
                codec.decode(payload, num_bytes, item_bytes)


@every_codec
@every_item
def test_decode_refuses_what_follows_the_payload(codec: Codec, item_bytes: int) -> None:
    content = gaussian(32, "e")
    payload = codec.encode(content, item_bytes)
    assert payload is not None
    for tail in (b"\0", b"\xff", b"\0\0\0\0\0", payload):
        with pytest.raises(CorruptFileError):
            codec.decode(payload + tail, len(content), item_bytes)


@every_codec
def test_decode_refuses_a_payload_that_ends_early(codec: Codec) -> None:
    content = gaussian(100, "e")
    payload = codec.encode(content, 2)
    assert payload is not None
    for length in range(len(payload)):
        with pytest.raises(CorruptFileError):
            codec.decode(payload[:length], len(content), 2)


def mutated(payload: bytes, source: random.Random) -> bytes:
    """A damaged copy of `payload`: bits flipped, bytes changed, cut out, doubled, put in, or reversed."""
    changed = bytearray(payload)
    for _ in range(source.choice((1, 1, 1, 2, 4))):
        start = source.randrange(len(changed) + 1)
        end = min(len(changed), start + source.choice((1, 1, 2, 8)))
        kind = source.randrange(8)
        if kind <= 2 and end > start:
            changed[start] ^= 1 << source.randrange(8)
        elif kind == 3:
            changed[start:end] = source.randbytes(end - start)
        elif kind == 4:
            del changed[start:end]
        elif kind == 5:
            changed[start:start] = changed[start:end] or source.randbytes(1)
        elif kind == 6:
            changed[start:] = source.randbytes(len(changed) - start)
        else:
            changed[start:] = changed[start:][::-1]
    return bytes(changed)


@every_codec
@every_item
def test_damaged_payloads_raise_or_give_what_the_size_says(codec: Codec, item_bytes: int) -> None:
    source = random.Random(f"{codec.number} {item_bytes}")
    sizes = (8, 40, 96)
    originals = [gaussian(size // 2, "e", size) for size in sizes] + [bytes(size) for size in sizes]
    num_refused = 0
    for _ in range(600):
        content = source.choice(originals)
        payload = codec.encode(content, item_bytes)
        assert payload is not None
        damaged = mutated(payload, source)
        num_bytes = source.choice([len(content)] * 3 + [source.randrange(200)])
        try:
            decoded = codec.decode(damaged, num_bytes, item_bytes)
        except CorruptFileError:
            num_refused += 1
        else:
            assert len(decoded) == num_bytes
            again = codec.encode(decoded, item_bytes)
            assert again is not None
            assert codec.decode(again, num_bytes, item_bytes) == decoded
    assert num_refused > 150


@every_codec
def test_decode_takes_little_memory_whatever_the_payload_is(codec: Codec) -> None:
    hostile = [
        CODECS[1].encode(bytes(50_000_000), 1) or b"",  # expands a thousandfold
        bytes(100_000),
        b"\xff" * 100_000,
        random.Random(3).randbytes(100_000),
    ]
    for payload in hostile:
        tracemalloc.start()
        try:
            with pytest.raises(CorruptFileError):
                codec.decode(payload, 1000, 2)
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert peak < len(payload) + 200_000


@pytest.mark.parametrize("path", GOLDEN, ids=lambda path: path.stem)
def test_stored_payloads_decode_for_ever(path: Path) -> None:
    golden = json.loads(path.read_text(encoding="ascii"))
    codec = CODECS[golden["codec"]]
    content, payload = bytes.fromhex(golden["content"]), bytes.fromhex(golden["payload"])
    assert codec.decode(payload, len(content), golden["item_bytes"]) == content
    if codec.name != "deflate":  # builds of zlib may choose other payloads for one content
        assert codec.encode(content, golden["item_bytes"]) == payload


def test_every_codec_and_item_size_has_stored_payloads() -> None:
    stored = {(golden["codec"], golden["item_bytes"]) for golden in (json.loads(path.read_text()) for path in GOLDEN)}
    assert stored == {(number, item_bytes) for number in CODECS for item_bytes in ITEM_BYTES}


def test_payload_is_the_content() -> None:
    assert Raw().encode(b"\x01\x02\x03\x04", 2) == b"\x01\x02\x03\x04"
    assert Raw().encode(b"", 8) == b""


def test_a_payload_of_another_length_is_refused() -> None:
    with pytest.raises(CorruptFileError, match="expected 2 bytes, got 4"):
        Raw().decode(b"\x01\x02\x03\x04", 2, 2)
