import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.inputs.jpegs import encode, photo

from tailcut.errors import DataError
from tailcut.jpeg import scans
from tailcut.jpeg.entropy import _lookup, decode
from tailcut.jpeg.markers import HuffmanTable, read_markers


@st.composite
def huffman_tables(draw: st.DrawFn) -> HuffmanTable:
    """A random code: words of 1 to 16 bits, never the one of all ones; any symbols."""
    counts, room = [], 1
    for length in range(1, 17):
        room *= 2
        # One word of each length is left over for longer ones, at the end for none.
        count = draw(st.integers(0, min(room - 1, 12 if length < 16 else 80)))
        counts.append(count)
        room -= count
    return HuffmanTable(tuple(counts), draw(st.binary(min_size=sum(counts), max_size=sum(counts))))


def code_words(table: HuffmanTable) -> dict[str, int]:
    """Each word as text, by T.81, figure C.2: words of a length count upwards; for the next length, a zero is added."""
    words, code, symbols = {}, 0, iter(table.symbols)
    for length, count in enumerate(table.counts, start=1):
        for _ in range(count):
            words[f"{code:0{length}b}"] = next(symbols)
            code += 1
        code *= 2
    return words


@given(huffman_tables(), st.integers(0, 2**16 - 1))
def test_lookup_finds_the_word_that_bits_begin_with(table: HuffmanTable, bits: int) -> None:
    text = f"{bits:016b}"
    expected = next((item for item in code_words(table).items() if text.startswith(item[0])), None)
    row = _lookup(table)[None]
    # 32 unused bits, of which the word comes first, below others that were used before.
    symbol, left = scans._symbol(row, 0, 0x5A << 32 | bits << 16, 32)
    if expected is None:
        assert symbol == -1
    else:
        assert (symbol, 32 - left) == (expected[1], len(expected[0]))


@given(huffman_tables(), st.integers(0, 2**10 - 1))
def test_lookup_of_whole_coefficients(table: HuffmanTable, bits: int) -> None:
    text = f"{bits:010b}"
    entry = int(_lookup(table)[bits])
    word, symbol = next((item for item in code_words(table).items() if text.startswith(item[0])), ("", -1))
    run, size = symbol >> 4, symbol & 15
    rest = text[len(word) : len(word) + size]
    if not word or len(rest) < size or (size == 0 and symbol != 0):
        assert entry == 0
    elif symbol == 0:
        assert ((entry >> 8) & 255, entry & 255) == (scans.BLOCK_ENDS, len(word))
    else:
        # T.81, table F.1: a value that begins with 0 is negative, and counts from below.
        value = int(rest, 2) if rest[0] == "1" else int(rest, 2) - 2**size + 1
        assert (entry >> 16, (entry >> 8) & 255, entry & 255) == (value, run, len(word) + size)


def test_rows_of_mcus_are_cut_to_the_blocks_that_hold_samples() -> None:
    data = encode(photo(17, 40), "4:2:0")
    planes = decode(data, read_markers(data))
    assert [plane.shape for plane in planes] == [(3, 5, 8, 8), (2, 3, 8, 8), (2, 3, 8, 8)]
    assert {plane.dtype for plane in planes} == {np.dtype(np.int16)}


def test_a_second_scan_of_a_sequential_component_is_refused() -> None:
    data = encode(photo(16, 16), "grayscale")
    markers = read_markers(data)
    with pytest.raises(DataError, match="a component has more than one scan"):
        decode(data, dataclasses.replace(markers, scans=markers.scans * 2))


def test_errors_say_where() -> None:
    data = encode(photo(32, 32), "4:2:0", progressive=True)
    markers = read_markers(data)
    short = [*markers.scans]
    start, stop = short[4].data
    short[4] = dataclasses.replace(short[4], data=(start, stop - 3))
    with pytest.raises(DataError, match=r"end early \(in scan 5 of 10, at MCU \d+ of 16\)"):
        decode(data, dataclasses.replace(markers, scans=tuple(short)))
    data = encode(photo(32, 32), "grayscale")
    smaller = dataclasses.replace(read_markers(data), size=(16, 32))
    with pytest.raises(DataError, match=r"more image data .* needs \(in its image data, at MCU 8 of 8\)"):
        decode(data, smaller)
