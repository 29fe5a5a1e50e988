"""Entropy decoding of a JPEG file to quantised coefficients, with every bit accounted for."""

import functools
import importlib
from typing import Any

import numpy as np

from tailcut.errors import DataError, MissingExtraError
from tailcut.jpeg.markers import MAX_LOW_BIT, HuffmanTable, JpegMarkers, Scan
from tailcut.jpeg.sampling import num_blocks
from tailcut.transform.block import BLOCK_SIZE

NUM_COEFFICIENTS = BLOCK_SIZE**2
UNSEEN = -1


def decode(data: bytes, markers: JpegMarkers) -> list[np.ndarray]:
    """Return the quantised coefficients of each component.

    Args:
        data: the file.
        markers: what `read_markers` gave for it.

    Returns:
        Per component int16 (blocks_h, blocks_w, 8, 8) in (v, u).

    Raises:
        DataError: the data of a scan end early, go on for too long, or break a rule of the format; or a scan lacks.
        MissingExtraError: numba is not installed.
    """
    loops = _loops()
    frame = _Frame(markers)
    kinds = _scan_kinds(loops, markers)
    for scan in markers.scans:
        # Each block takes a bit at least, so that a small file cannot ask for much memory.
        if scan.band[0] == 0 and frame.num_blocks_in(scan) > 8 * (scan.data[1] - scan.data[0]):
            raise DataError("it is truncated: its image data are too short for its size")
    blocks = np.zeros((frame.first_block[-1], NUM_COEFFICIENTS), np.int16)
    source = np.frombuffer(data, np.uint8)
    for number, (scan, kind) in enumerate(zip(markers.scans, kinds, strict=True)):
        where = f"scan {number + 1} of {len(kinds)}" if len(kinds) > 1 else "its image data"
        _decode_scan(loops, source, frame, scan, kind, blocks, where)
    return [frame.plane(blocks, index) for index in range(len(markers.components))]


class _Frame:
    """Positions of the blocks of a frame: component by component, in rows of whole MCUs."""

    def __init__(self, markers: JpegMarkers) -> None:
        # A single component has MCUs of one block, for any sampling factors.
        is_single = len(markers.components) == 1
        factors = [(1, 1) if is_single else (entry.vertical, entry.horizontal) for entry in markers.components]
        self.factors = factors
        height, width = markers.size
        largest = max(v for v, _ in factors), max(h for _, h in factors)
        self.mcus = (-(-height // (BLOCK_SIZE * largest[0])), -(-width // (BLOCK_SIZE * largest[1])))
        self.sizes = [num_blocks((-(-height * v // largest[0]), -(-width * h // largest[1]))) for v, h in factors]
        self.stored = [(self.mcus[0] * v, self.mcus[1] * h) for v, h in factors]
        self.first_block = [0]
        for rows, columns in self.stored:
            self.first_block.append(self.first_block[-1] + rows * columns)

    def mcus_of(self, scan: Scan) -> tuple[int, int]:
        """(rows, columns) of MCUs: a scan of one component has only the blocks that hold samples."""
        return self.sizes[scan.components[0]] if len(scan.components) == 1 else self.mcus

    def blocks_per_mcu(self, scan: Scan, index: int) -> tuple[int, int]:
        """(vertical, horizontal) blocks of component `index` in each MCU of a scan."""
        return (1, 1) if len(scan.components) == 1 else self.factors[index]

    def num_blocks_in(self, scan: Scan) -> int:
        """Return the number of blocks in the scan."""
        rows, columns = self.mcus_of(scan)
        per_mcu = [self.blocks_per_mcu(scan, index) for index in scan.components]
        return rows * columns * sum(v * h for v, h in per_mcu)

    def layout(self, scan: Scan) -> np.ndarray:
        """Return the layout of a scan's blocks in the form that `decode_scan` takes."""
        rows = [
            (self.first_block[index], self.stored[index][1], *self.blocks_per_mcu(scan, index))
            for index in scan.components
        ]
        return np.array(rows, np.int64)

    def plane(self, blocks: np.ndarray, index: int) -> np.ndarray:
        """Return the blocks of one component that hold samples."""
        own = blocks[self.first_block[index] : self.first_block[index + 1]]
        rows, columns = self.sizes[index]
        return own.reshape(*self.stored[index], BLOCK_SIZE, BLOCK_SIZE)[:rows, :columns]


@functools.cache
def _loops() -> Any:
    try:
        return importlib.import_module("tailcut.jpeg.scans")
    except ImportError as error:
        raise MissingExtraError("reading the coefficients of a JPEG file", "numba", "jpeg") from error


def _scan_kinds(loops: Any, markers: JpegMarkers) -> list[int]:
    """Return the kind of each scan; reject scans that are out of order, duplicate or missing.

    libjpeg only warns of these. A progressive file that was cut between two scans is detected only here.
    """
    bits_left = np.full((len(markers.components), NUM_COEFFICIENTS), UNSEEN)
    kinds = []
    for scan in markers.scans:
        if not markers.is_progressive and (scan.band, scan.approximation) != ((0, NUM_COEFFICIENTS - 1), (0, 0)):
            (first, last), (high, low) = scan.band, scan.approximation
            raise DataError(
                f"a scan has the band {first} to {last} and the bits {high} to {low}; without progression both are "
                "fixed, 0 to 63 and 0 to 0"
            )
        if markers.is_progressive:
            kinds.append(_progressive_kind(loops, scan, bits_left))
        elif (bits_left[list(scan.components)] != UNSEEN).any():
            raise DataError("a component has more than one scan")
        else:
            bits_left[list(scan.components)] = 0
            kinds.append(loops.SEQUENTIAL)
    for index, left in enumerate(bits_left):
        if left.any():
            raise DataError(f"it is truncated: not all scans of component {index} are there")
    return kinds


def _progressive_kind(loops: Any, scan: Scan, bits_left: np.ndarray) -> int:
    """Return the kind of one progressive scan; counts down `bits_left` (components, 64)."""
    (first, last), (high, low) = scan.band, scan.approximation
    is_dc, is_first = first == 0, high == 0
    fits = last == 0 if is_dc else first <= last < NUM_COEFFICIENTS and len(scan.components) == 1
    if not fits or low > MAX_LOW_BIT or not (is_first or high == low + 1):
        raise DataError(f"a progressive scan has the band {first} to {last} and the bits {high} to {low}")
    for index in scan.components:
        expected = UNSEEN if is_first else high
        if (bits_left[index, first : last + 1] != expected).any() or (not is_dc and bits_left[index, 0] == UNSEEN):
            raise DataError(f"the progressive scans of component {index} are out of order")
        bits_left[index, first : last + 1] = low
    if is_dc:
        return int(loops.DC_FIRST if is_first else loops.DC_REFINE)
    return int(loops.AC_FIRST if is_first else loops.AC_REFINE)


def _decode_scan(
    loops: Any, source: np.ndarray, frame: _Frame, scan: Scan, kind: int, blocks: np.ndarray, where: str
) -> None:
    rows, columns = frame.mcus_of(scan)
    interval = scan.restart_interval or rows * columns
    num_intervals = -(-rows * columns // interval)
    start, stop = scan.data
    words = np.zeros((stop - start) // 4 + num_intervals + loops.BLOCK_WORDS, np.uint32)
    starts, ends = np.zeros((2, num_intervals), np.int64)
    if loops.unstuff(source, start, stop, words, starts, ends) != num_intervals:
        raise DataError(f"the restart markers in {where} are not the {num_intervals - 1} that there must be")
    empty = np.zeros((1, 1), np.int32)
    needs_dc, needs_ac = kind in (loops.SEQUENTIAL, loops.DC_FIRST), kind not in (loops.DC_FIRST, loops.DC_REFINE)
    status, mcu = loops.decode_scan(
        kind,
        words,
        (interval, starts, ends),
        (rows, columns),
        frame.layout(scan),
        np.stack([_lookup(table) for table in scan.dc_tables]) if needs_dc else empty,
        np.stack([_lookup(table) for table in scan.ac_tables]) if needs_ac else empty,
        (*scan.band, scan.approximation[1]),
        blocks.reshape(-1),
    )
    if status != loops.DONE:
        raise DataError(f"{_meaning(loops, status)} (in {where}, at MCU {mcu} of {rows * columns})")


def _meaning(loops: Any, status: int) -> str:
    return {
        loops.ENDS_EARLY: "it is truncated or damaged: the image data end early",
        loops.BYTES_LEFT: "it is damaged: there are more image data than the size needs",
        loops.BAD_CODE: "it is damaged: the image data hold bits that are no code",
        loops.BAD_POSITION: "it is damaged: a block has more than 64 coefficients",
        loops.BAD_VALUE: "it is damaged: a coefficient is larger than 8-bit samples give",
    }[status]


@functools.lru_cache(maxsize=64)
def _lookup(table: HuffmanTable | None) -> np.ndarray:
    """Return a Huffman table in the form of the loops."""
    if table is None:
        raise DataError("a scan has no Huffman table")
    loops = _loops()
    row = np.zeros(loops.TABLE_SIZE, np.int32)
    coefficients, codes = row[: loops.SHORT_CODES], row[loops.SHORT_CODES : loops.LAST_CODES]
    row[loops.LAST_CODES : loops.OFFSETS] = -1
    row[loops.SYMBOLS : loops.SYMBOLS + len(table.symbols)] = np.frombuffer(table.symbols, np.uint8)
    code = index = 0
    for length, count in enumerate(table.counts, start=1):
        for symbol in table.symbols[index : index + count] if length <= loops.LOOK_BITS else b"":
            spread = 1 << (loops.LOOK_BITS - length)
            codes[code * spread : (code + 1) * spread] = length << 8 | symbol
            coefficients[code * spread : (code + 1) * spread] = _whole_coefficients(loops, length, symbol)
            code, index = code + 1, index + 1
        if count and length > loops.LOOK_BITS:
            row[loops.LAST_CODES + length] = code + count - 1
            row[loops.OFFSETS + length] = index - code
            code, index = code + count, index + count
        code <<= 1
    return row


def _whole_coefficients(loops: Any, length: int, symbol: int) -> np.ndarray:
    """Return the coefficients that fit whole behind a code of `length` bits with this AC symbol; 0 if too few bits."""
    run, size = divmod(symbol, 16)
    rest = np.arange(1 << (loops.LOOK_BITS - length))
    if symbol == 0:
        return np.full_like(rest, loops.BLOCK_ENDS << 8 | length)
    if size == 0 or length + size > loops.LOOK_BITS:
        return np.zeros_like(rest)
    value = rest >> (loops.LOOK_BITS - length - size)
    value = np.where(value >> (size - 1), value, value - (1 << size) + 1)
    entries: np.ndarray = value << 16 | run << 8 | (length + size)
    return entries
