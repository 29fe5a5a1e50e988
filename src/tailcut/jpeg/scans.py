"""Loops over entropy-coded data, compiled by numba. Import this module only where numba is installed.

No loop trusts the data: a block reads at most BLOCK_WORDS words, and its position is checked after each block against
the end of its restart interval, behind which the array goes on for at least that long. Indices into a block never
leave it. A loop returns one of the numbers below and the MCU it stopped at.
"""

from typing import Any

import numpy as np

from tailcut.compiling import compile_inner, compile_loop
from tailcut.jpeg.markers import MAX_AC_BITS, MAX_DC_BITS, NATURAL_ORDER

DONE, ENDS_EARLY, BYTES_LEFT, BAD_CODE, BAD_POSITION, BAD_VALUE = range(6)
SEQUENTIAL, DC_FIRST, DC_REFINE, AC_FIRST, AC_REFINE = range(5)

# A row of tables begins with two entries for each run of LOOK_BITS bits. The first, unless 0, is the whole AC
# coefficient that they begin with: value << 16 | run << 8 | bits taken; a run of BLOCK_ENDS is the end of the block.
# The second, unless 0, is the code that they begin with: bits taken << 8 | symbol. Longer codes are found by length.
LOOK_BITS = 10
SHORT_CODES = 1 << LOOK_BITS
LAST_CODES, OFFSETS, SYMBOLS = 2 * SHORT_CODES, 2 * SHORT_CODES + 17, 2 * SHORT_CODES + 34
TABLE_SIZE = SYMBOLS + 256
BLOCK_ENDS = 128

# 64 times a code of 16 bits and 16 bits that follow it, and what is read ahead.
BLOCK_WORDS = 66

Array = np.ndarray[Any, Any]
Int = Any  # an int of Python to mypy, an int64 to numba
Reader = tuple[Int, Int, Int]  # next word, bits that were read, how many of them (the low ones) are not yet used

_ORDER = NATURAL_ORDER.copy()


@compile_loop
def unstuff(data: Array, start: int, stop: int, words: Array, starts: Array, ends: Array) -> int:
    """Take the zero bytes after FF and the restart markers out of the data of one scan.

    Args:
        data: uint8, the file.
        start: first byte of the data.
        stop: one behind the last.
        words: uint32, zeros, with room for the data and 4 bytes per restart interval; filled with the bytes, the
            first in the highest bits, each interval from a new word.
        starts: int64, one entry per restart interval; filled with the word where it begins.
        ends: int64, likewise; filled with the bit behind its last one, counted from the first word.

    Returns:
        The number of intervals; -1 if there are more than `starts` has room for, or their numbers are out of order.
    """
    num, at, i = 0, 0, start
    starts[0] = 0
    while i < stop:
        byte = data[i]
        i += 1
        if byte == 0xFF:
            while i < stop and data[i] == 0xFF:
                i += 1
            if i == stop:
                break  # no data: bytes that fill the space before a marker
            following = data[i]
            i += 1
            if following != 0:
                if num + 1 >= len(starts) or following != 0xD0 + num % 8:
                    return -1
                ends[num] = 8 * at
                num += 1
                at = (at + 3) // 4 * 4
                starts[num] = at // 4
                continue
        words[at >> 2] |= np.uint32(byte) << np.uint32(24 - 8 * (at & 3))
        at += 1
    ends[num] = 8 * at
    return num + 1


@compile_inner
def _fill(words: Array, at: Int, held: Int, num: Int) -> Reader:
    """At least 32 unused bits."""
    if num < 32:
        return at + 1, held << 32 | np.int64(words[at]), num + 32
    return at, held, num


@compile_inner
def _symbol(tables: Array, row: Int, held: Int, num: Int) -> tuple[Int, Int]:
    """Return the symbol of the next code and the number of unused bits left; -1 for an invalid code."""
    entry = tables[row, SHORT_CODES + ((held >> (num - LOOK_BITS)) & (SHORT_CODES - 1))]
    if entry != 0:
        return np.int64(entry & 255), num - np.int64(entry >> 8)
    code = (held >> (num - 16)) & 0xFFFF
    for length in range(LOOK_BITS + 1, 17):
        prefix = code >> (16 - length)
        if prefix <= tables[row, LAST_CODES + length]:
            return np.int64(tables[row, SYMBOLS + prefix + tables[row, OFFSETS + length]]), num - length
    return np.int64(-1), num


@compile_inner
def _value(held: Int, num: Int, size: Int) -> Int:
    """Return the next `size` bits (1 or more) as a signed number (T.81, F.2.2.1)."""
    value = (held >> (num - size)) & ((1 << size) - 1)
    return value if value >> (size - 1) else value - (1 << size) + 1


@compile_inner
def _difference(words: Array, reader: Reader, tables: Array, row: Int) -> tuple[Int, Int, Reader]:
    """Return the status, and the difference of a DC coefficient to that of the block before."""
    at, held, num = reader
    at, held, num = _fill(words, at, held, num)
    size, num = _symbol(tables, row, held, num)
    if size < 0:
        return BAD_CODE, 0, (at, held, num)
    if size > MAX_DC_BITS:
        return BAD_VALUE, 0, (at, held, num)
    if size == 0:
        return DONE, 0, (at, held, num)
    return DONE, _value(held, num, size), (at, held, num - size)


@compile_inner
def _sequential_ac(
    words: Array, reader: Reader, tables: Array, row: Int, blocks: Array, block: Int
) -> tuple[Int, Reader]:
    """Decode the AC coefficients of a block of a sequential image."""
    at, held, num = reader
    k: Int = 1
    while k < 64:
        at, held, num = _fill(words, at, held, num)
        entry = np.int64(tables[row, (held >> (num - LOOK_BITS)) & (SHORT_CODES - 1)])
        if entry != 0:
            num -= entry & 255
            k += (entry >> 8) & 255
            if k < 64:
                blocks[block + _ORDER[k]] = entry >> 16
                k += 1
                continue
            return DONE if k >= BLOCK_ENDS else BAD_POSITION, (at, held, num)
        symbol, num = _symbol(tables, row, held, num)
        if symbol < 0:
            return BAD_CODE, (at, held, num)
        size, run = symbol & 15, symbol >> 4
        if size == 0:
            if run == 0:
                break
            if run < 15:
                return BAD_CODE, (at, held, num)
            k += 16
            if k > 64:
                return BAD_POSITION, (at, held, num)
            continue
        k += run
        if k > 63:
            return BAD_POSITION, (at, held, num)
        if size > MAX_AC_BITS:
            return BAD_VALUE, (at, held, num)
        blocks[block + _ORDER[k]] = _value(held, num, size)
        num -= size
        k += 1
    return DONE, (at, held, num)


@compile_inner
def _first_ac(
    words: Array, reader: Reader, tables: Array, band: tuple[Int, Int, Int], blocks: Array, block: Int, ending: Int
) -> tuple[Int, Int, Reader]:
    """Decode the first scan of a band of AC coefficients; return the status and the length of the end-of-band run."""
    at, held, num = reader
    k, last, low = band
    if ending > 0:
        return DONE, ending - 1, reader
    while k <= last:
        at, held, num = _fill(words, at, held, num)
        symbol, num = _symbol(tables, 0, held, num)
        if symbol < 0:
            return BAD_CODE, 0, (at, held, num)
        size, run = symbol & 15, symbol >> 4
        if size == 0:
            if run < 15:
                ending = (1 << run) - 1 + ((held >> (num - run)) & ((1 << run) - 1))
                return DONE, ending, (at, held, num - run)
            k += 16
            continue
        k += run
        if k > last:
            return BAD_POSITION, 0, (at, held, num)
        if size + low > MAX_AC_BITS:
            return BAD_VALUE, 0, (at, held, num)
        blocks[block + _ORDER[k]] = _value(held, num, size) << low
        num -= size
        k += 1
    return DONE, 0, (at, held, num)


@compile_inner
def _refine_ac(
    words: Array, reader: Reader, tables: Array, band: tuple[Int, Int, Int], blocks: Array, block: Int, ending: Int
) -> tuple[Int, Int, Reader]:
    """Decode one more bit of a band of AC coefficients (T.81, G.1.2.3); return as `_first_ac` does."""
    at, held, num = reader
    k, last, low = band
    while k <= last:
        fresh, run = 0, 64
        if ending == 0:
            at, held, num = _fill(words, at, held, num)
            symbol, num = _symbol(tables, 0, held, num)
            size, run = symbol & 15, symbol >> 4
            if symbol < 0 or size > 1:
                return BAD_CODE, 0, (at, held, num)
            if size == 1:
                num -= 1
                fresh = (1 if (held >> num) & 1 else -1) << low
            elif run < 15:
                ending = (1 << run) + ((held >> (num - run)) & ((1 << run) - 1))
                num -= run
                run = 64
        while k <= last:  # go over `run` zeros; each coefficient that is none has a bit of its own
            place = block + _ORDER[k]
            before = blocks[place]
            if before != 0:
                at, held, num = _fill(words, at, held, num)
                num -= 1
                if (held >> num) & 1:
                    blocks[place] = before + ((1 if before > 0 else -1) << low)
            elif run == 0:
                break
            else:
                run -= 1
            k += 1
        if fresh != 0:
            if k > last:
                return BAD_POSITION, 0, (at, held, num)
            blocks[block + _ORDER[k]] = fresh
        k += 1
    return DONE, max(ending - 1, 0), (at, held, num)


@compile_inner
def _progressive(
    kind: Int,
    words: Array,
    reader: Reader,
    tables: Array,
    band: tuple[Int, Int, Int],
    blocks: Array,
    block: Int,
    ending: Int,
) -> tuple[Int, Int, Reader]:
    """Decode a block in a progressive scan other than the first DC scan; return as `_first_ac` does."""
    if kind == AC_FIRST:
        return _first_ac(words, reader, tables, band, blocks, block, ending)
    if kind == AC_REFINE:
        return _refine_ac(words, reader, tables, band, blocks, block, ending)
    at, held, num = _fill(words, reader[0], reader[1], reader[2])
    blocks[block] |= ((held >> (num - 1)) & 1) << band[2]
    return DONE, ending, (at, held, num - 1)


@compile_loop
def decode_scan(
    kind: int,
    words: Array,
    intervals: tuple[int, Array, Array],
    mcus: tuple[int, int],
    layout: Array,
    dc_tables: Array,
    ac_tables: Array,
    band: tuple[int, int, int],
    blocks: Array,
) -> tuple[int, int]:
    """Decode one scan into `blocks`.

    Args:
        kind: SEQUENTIAL, DC_FIRST, DC_REFINE, AC_FIRST or AC_REFINE.
        words: uint32, as `unstuff` fills them, and BLOCK_WORDS more.
        intervals: MCUs in a restart interval; where each begins and ends, as `unstuff` says.
        mcus: (rows, columns) of MCUs.
        layout: int64 (components of the scan, 4): first block, blocks in a row, (vertical, horizontal) blocks of an
            MCU.
        dc_tables: int32 (components, TABLE_SIZE).
        ac_tables: int32 (components, TABLE_SIZE).
        band: first and last coefficient in zigzag order; how many low bits lack still after this scan.
        blocks: int16 (64 x blocks of all components,), frequencies row by row; changed.

    Returns:
        The status, and the MCU at which it came up.
    """
    interval, starts, ends = intervals
    rows, columns = mcus
    low = band[2]
    before = np.zeros(len(layout), np.int64)
    reader: Reader = (np.int64(0), np.int64(0), np.int64(0))
    end: Int = np.int64(0)
    ending: Int = np.int64(0)
    segment = 0
    for mcu in range(rows * columns):
        if mcu % interval == 0:
            if mcu > 0 and (end - (32 * reader[0] - reader[2]) >= 8 or ending > 0):
                return BYTES_LEFT, mcu
            reader = (starts[segment], np.int64(0), np.int64(0))
            end = ends[segment]
            segment += 1
            before[:] = 0
        for c in range(len(layout)):
            stride, high, wide = layout[c, 1], layout[c, 2], layout[c, 3]
            corner = layout[c, 0] + (mcu // columns) * high * stride + (mcu % columns) * wide
            for place in range(high * wide):
                block = 64 * (corner + (place // wide) * stride + place % wide)
                if kind in (SEQUENTIAL, DC_FIRST):
                    status, difference, reader = _difference(words, reader, dc_tables, c)
                    before[c] += difference
                    if abs(before[c]) << low >= 1 << MAX_DC_BITS:
                        status = BAD_VALUE
                    blocks[block] = before[c] << low
                    if kind == SEQUENTIAL and status == DONE:
                        status, reader = _sequential_ac(words, reader, ac_tables, c, blocks, block)
                else:
                    status, ending, reader = _progressive(kind, words, reader, ac_tables, band, blocks, block, ending)
                if 32 * reader[0] - reader[2] > end:
                    return ENDS_EARLY, mcu
                if status != DONE:
                    return status, mcu
    if end - (32 * reader[0] - reader[2]) >= 8 or ending > 0:
        return BYTES_LEFT, rows * columns
    return DONE, rows * columns
