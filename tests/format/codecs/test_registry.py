"""The choice among codecs, and decoding by number."""

import random
import struct

import pytest

from tailcut.errors import ArgumentError, UnsupportedVersionError
from tailcut.format.codecs import CODECS, best, decode


def test_numbers_and_names_stay_as_files_have_them() -> None:
    assert {number: codec.name for number, codec in CODECS.items()} == {0: "raw", 1: "deflate", 2: "range"}
    assert all(codec.number == number for number, codec in CODECS.items())


@pytest.mark.parametrize(
    ("content", "item_bytes", "name"),
    [
        (b"", 2, "raw"),
        (b"\x12\x34", 2, "raw"),
        (random.Random(0).randbytes(400), 2, "raw"),
        (bytes(1000), 2, "deflate"),
        (random.Random(0).randbytes(50) * 20, 1, "deflate"),
        (struct.pack("<600e", *(random.Random(seed).gauss(0, 1) for seed in range(600))), 2, "range"),
    ],
    ids=["nothing", "one number", "random", "zeros", "repeats", "float16"],
)
def test_best_is_the_shortest(content: bytes, item_bytes: int, name: str) -> None:
    number, payload = best(content, item_bytes)
    assert CODECS[number].name == name
    payloads = {codec.number: codec.encode(content, item_bytes) for codec in CODECS.values()}
    shorter_or_equal = {n: len(p) for n, p in payloads.items() if p is not None and len(p) <= len(payload)}
    assert min(shorter_or_equal) == number
    assert set(shorter_or_equal.values()) == {len(payload)}
    assert decode(number, payload, len(content), item_bytes) == content


def test_best_of_a_content_too_large_for_the_range_coder() -> None:
    number, payload = best(bytes(200_000), 4)
    assert number == 1
    assert decode(number, payload, 200_000, 4) == bytes(200_000)


def test_unknown_numbers_are_refused_by_name() -> None:
    for number in (3, 7, -1, 255):
        with pytest.raises(
            UnsupportedVersionError,
            match=f"unknown codec {number}, known are 0 \\(raw\\), 1 \\(deflate\\), 2 \\(range\\); .* newer version",
        ):
            decode(number, b"", 0, 2)


def test_bad_arguments_are_refused() -> None:
    with pytest.raises(ArgumentError, match="item_bytes must be one of 1, 2, 4, 8, got 3"):
        best(b"abc", 3)
    with pytest.raises(ArgumentError, match="whole number of 2-byte items, got 3 bytes"):
        best(b"abc", 2)


def test_the_table_cannot_be_changed() -> None:
    with pytest.raises(TypeError):
        CODECS[3] = CODECS[0]  # type: ignore[index]
