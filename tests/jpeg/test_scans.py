"""The loops by themselves; whole files are read in test_jpeg.py."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("numba")

from tailcut.jpeg import scans as loops
from tailcut.jpeg.entropy import _lookup
from tailcut.jpeg.markers import NATURAL_ORDER, HuffmanTable


def unstuffed(data: bytes, num_intervals: int) -> tuple[int, list[bytes]]:
    """The number that `unstuff` returns, and the bytes of each interval."""
    words = np.zeros(len(data) // 4 + num_intervals + 1, np.uint32)
    starts, ends = np.full((2, num_intervals), -1)
    num = loops.unstuff(np.frombuffer(data, np.uint8), 0, len(data), words, starts, ends)
    stream = words.astype(">u4").tobytes()
    return num, [stream[4 * start : end // 8] for start, end in zip(starts, ends, strict=True)] if num > 0 else []


@given(st.lists(st.lists(st.sampled_from([0, 1, 0xD0, 0xFE, 0xFF])).map(bytes), min_size=1, max_size=12))
def test_stuffing_and_restart_markers_are_taken_out(intervals: list[bytes]) -> None:
    data = b""
    for number, interval in enumerate(intervals):
        marker = bytes((0xFF, 0xD0 + (number - 1) % 8)) if number else b""
        data += marker + interval.replace(b"\xff", b"\xff\0")
    assert unstuffed(data, len(intervals)) == (len(intervals), intervals)


def test_fill_bytes_are_no_data() -> None:
    assert unstuffed(b"a\xff\xff\xff\xd0b\xff\xff\0\xff", 2) == (2, [b"a", b"b\xff"])


@pytest.mark.parametrize("data", [b"a\xff\xd1b", b"a\xff\xd0b\xff\xd0c", b"a\xff\xd0b\xff\xd1c\xff\xd2", b"a\xff\x01"])
def test_restart_markers_out_of_order_or_too_many(data: bytes) -> None:
    assert unstuffed(data, 3)[0] == -1


@given(st.integers(1, 15), st.data())
def test_values_are_those_of_the_standard(size: int, data: st.DataObject) -> None:
    """T.81, table F.1: category n holds -2^n + 1 ... -2^(n-1) and 2^(n-1) ... 2^n - 1, in this order."""
    order = [*range(-(2**size) + 1, -(2 ** (size - 1)) + 1), *range(2 ** (size - 1), 2**size)]
    place = data.draw(st.integers(0, 2**size - 1))
    assert loops._value(0x7F << 32 | place << (32 - size), 32, size) == order[place]


# Codes for a difference of 0 bits and of 1 bit, and for the AC symbols: end, 0/1, 1/1 (run/size) and 16 zeros.
DC_TABLE = HuffmanTable((0, 2) + (0,) * 14, b"\0\1")
AC_TABLE = HuffmanTable((0, 3, 1) + (0,) * 13, b"\0\1\x11\xf0")
END, PLUS, MINUS, ZERO_PLUS, ZEROS = "00", "011", "010", "101", "110"
SAME, MORE, LESS = "00", "011", "010"


def decoded(
    bits: str,
    kind: int = loops.SEQUENTIAL,
    num_blocks: int = 1,
    band: tuple[int, int, int] = (0, 63, 0),
    start: int = 0,
) -> tuple[int, np.ndarray]:
    """The status, and the blocks in zigzag order, of a grey scan given as text of bits."""
    bits += "1" * (-len(bits) % 8)
    stream = int(bits, 2).to_bytes(len(bits) // 8, "big") if bits else b""
    words = np.frombuffer(stream + bytes(4 * loops.BLOCK_WORDS + (-len(stream) % 4)), ">u4").astype(np.uint32)
    blocks = np.full(64 * num_blocks, start, np.int16)
    status, _ = loops.decode_scan(
        kind,
        words,
        (num_blocks, np.zeros(1, np.int64), np.full(1, len(bits))),
        (1, num_blocks),
        np.array([[0, num_blocks, 1, 1]]),
        _lookup(DC_TABLE)[None],
        _lookup(AC_TABLE)[None],
        band,
        blocks,
    )
    return status, blocks.reshape(num_blocks, 64)[:, NATURAL_ORDER]


def test_a_sequential_block() -> None:
    status, (block,) = decoded(MORE + PLUS + MINUS + ZERO_PLUS + ZEROS + MINUS + END)
    assert status == loops.DONE
    assert np.flatnonzero(block).tolist() == [0, 1, 2, 4, 21]
    assert block[block != 0].tolist() == [1, 1, -1, 1, -1]


def test_dc_is_a_sum_of_differences() -> None:
    status, blocks = decoded((MORE + END) * 3 + LESS + END + SAME + END, num_blocks=5)
    assert (status, blocks[:, 0].tolist()) == (loops.DONE, [1, 2, 3, 2, 2])


@pytest.mark.parametrize(
    ("bits", "status"),
    [
        (MORE + PLUS * 63, loops.DONE),
        (MORE + ZEROS * 3 + PLUS * 15, loops.DONE),
        (MORE + ZEROS * 4, loops.BAD_POSITION),
        (MORE + PLUS * 62 + ZERO_PLUS, loops.BAD_POSITION),
        (MORE + PLUS * 10, loops.BAD_CODE),
        ("1111", loops.BAD_CODE),
        (MORE + "1110", loops.BAD_CODE),
        (MORE + PLUS + END + "1" * 8, loops.BYTES_LEFT),
        (MORE + PLUS + END, loops.DONE),
        ("", loops.ENDS_EARLY),
        (MORE + PLUS * 8 + "01", loops.ENDS_EARLY),
    ],
)
def test_status_of_a_block(bits: str, status: int) -> None:
    found = decoded(bits)[0]
    if bits == MORE + PLUS * 10:  # the bits that fill the last byte are no code, or they end early
        assert found in (loops.BAD_CODE, loops.ENDS_EARLY)
    else:
        assert found == status


def test_values_are_bounded() -> None:
    """Differences of up to 1 bit add up to at most 11 bits."""
    assert decoded((MORE + END) * 2047, num_blocks=2047)[0] == loops.DONE
    assert decoded((MORE + END) * 2048, num_blocks=2048)[0] == loops.BAD_VALUE
    assert decoded(MORE * 1024, loops.DC_FIRST, 1024, (0, 0, 1))[0] == loops.BAD_VALUE
    assert decoded(PLUS, loops.AC_FIRST, 1, (1, 1, 9))[0] == loops.DONE
    assert decoded(PLUS, loops.AC_FIRST, 1, (1, 1, 10))[0] == loops.BAD_VALUE


def test_progressive_dc() -> None:
    status, blocks = decoded(MORE + MORE + LESS, loops.DC_FIRST, 3, (0, 0, 2))
    assert (status, blocks[:, 0].tolist()) == (loops.DONE, [4, 8, 4])
    status, blocks = decoded("101", loops.DC_REFINE, 3, (0, 0, 1), start=4)
    assert (status, blocks[:, 0].tolist()) == (loops.DONE, [6, 4, 6])


def test_progressive_ac() -> None:
    status, blocks = decoded(PLUS + ZERO_PLUS + END + MINUS + END, loops.AC_FIRST, 2, (3, 20, 2))
    assert status == loops.DONE
    assert [np.flatnonzero(block).tolist() for block in blocks] == [[3, 5], [3]]
    assert blocks[:, 3].tolist() == [4, -4]
    # The end of the block, then one more bit for each coefficient of the band that is there.
    status, blocks = decoded("0" + "0" + "1" * 18, loops.AC_REFINE, 1, (3, 20, 1), start=-4)
    assert status == loops.DONE
    assert blocks[0, 3:21].tolist() == [-6] * 18
    assert blocks[0, 21:].tolist() == [-4] * 43


def test_a_refined_block_with_a_new_coefficient() -> None:
    """Code 1/1 with the sign 1: over one zero, refining what is not zero, then a new +1 at the next zero."""
    status, blocks = decoded("10" + "1" + "00", loops.AC_REFINE, 1, (1, 5, 0), start=0)
    assert status == loops.DONE
    assert blocks[0, 1:6].tolist() == [0, 1, 0, 0, 0]
    assert decoded("10" + "1" + "10" + "1" + "10" + "1", loops.AC_REFINE, 1, (1, 5, 0))[0] == loops.BAD_POSITION
