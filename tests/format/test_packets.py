"""Packets of a file: in any order, twice, missing, damaged, mixed up."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tailcut.errors import ArgumentError, ChecksumError, CorruptFileError, TruncatedFileError
from tailcut.format.packets import FRAME_BYTES, join, read_packet, split


def named(packets: list[bytes]) -> list[tuple[str, bytes]]:
    return [(f"packet {number}", packet) for number, packet in enumerate(packets)]


@given(st.binary(min_size=1, max_size=3000), st.integers(FRAME_BYTES + 5, 400), st.randoms())
def test_any_order_and_twice(content: bytes, size: int, draw: random.Random) -> None:
    packets = split(content, size)
    assert max(map(len, packets)) <= size
    shuffled = packets + packets[: draw.randrange(len(packets) + 1)]
    draw.shuffle(shuffled)
    assert join(named(shuffled)) == content


def test_the_bytes_of_a_packet() -> None:
    first, second = split(b"abcdef", 14)
    assert first[:3] == b"\x8a\x00\x02"
    assert first[3:7] == bytes.fromhex("ef398e4b")  # CRC-32 of b"abcdef", little-endian
    assert first[7:-4] + second[7:-4] == b"abcdef"
    assert read_packet(second).number == 1
    assert len(first) == FRAME_BYTES + 3


def test_missing_packets_are_told_by_number() -> None:
    packets = split(bytes(1000), 50)
    with pytest.raises(TruncatedFileError, match=r"3 of 26 packets are missing: 0, 7, 25 \(numbered from 0\)"):
        join(named([packet for number, packet in enumerate(packets) if number not in (0, 7, 25)]))
    with pytest.raises(TruncatedFileError, match=r"19, \.\.\. 997 "):
        join(named(split(bytes(999), 14)[-1:]))
    with pytest.raises(ArgumentError, match="no packets"):
        join([])


def test_damaged_and_foreign_packets() -> None:
    packets = split(b"one file, in three parts", 20)
    for place in range(1, len(packets[1])):
        damaged = bytearray(packets[1])
        damaged[place] ^= 4
        with pytest.raises(ChecksumError, match="packet 1 is damaged"):
            join(named([packets[0], bytes(damaged)]))
    with pytest.raises(ChecksumError):
        read_packet(packets[0][:-1])
    with pytest.raises(CorruptFileError, match="no packet"):
        read_packet(b"\x89TCT" + bytes(20))
    with pytest.raises(CorruptFileError, match="different files"):
        join(named([packets[0], split(b"another file, in three parts!", 20)[1]]))


def test_too_small_packets() -> None:
    for content, packet_bytes in ((bytes(100), FRAME_BYTES), (bytes(1 << 20), 18)):
        with pytest.raises(ArgumentError, match=r"\d+ bytes do$") as refused:
            split(content, packet_bytes)
        assert split(content, int(str(refused.value).split()[-3]))
    with pytest.raises(ArgumentError, match="empty"):
        split(b"", 100)
    assert len(split(bytes(70_000), 17)) == 35_000


@pytest.mark.parametrize("packet_bytes", [-3, 0, 12])
def test_packets_too_small_for_their_header_say_so(packet_bytes: int) -> None:
    with pytest.raises(ArgumentError, match="of which header and checksum take 11 to 15; 16 bytes do"):
        split(bytes(2000), packet_bytes)
