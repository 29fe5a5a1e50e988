"""Marker segments of a JPEG file (ITU-T T.81), checked before anything is decoded or memory is taken.

Common readers accept truncated and damaged files with a warning at most. Here every marker is walked, from the first
byte to the end of the image, and what does not add up is refused; `entropy` then does the same for the data
between the markers.
"""

import re
import struct
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from tailcut.errors import DataError
from tailcut.jpeg.limits import OtherKindError, check_size
from tailcut.jpeg.sampling import Sampling, check_factors, sampling_of
from tailcut.transform.block import BLOCK_SIZE, zigzag_order

# A progressive scan visits every block, however few bytes it has. Encoders write some 10 scans, optimisers up to 64.
MAX_SCANS = 100
# The highest symbols of 8-bit images (T.81, tables F.1 and F.2): bits of a DC difference and of an AC coefficient.
MAX_DC_BITS, MAX_AC_BITS = 11, 10
MAX_LOW_BIT = 13

JPEG_START = b"\xff\xd8"
PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
MOST_PIXELS = 1 << 32  # that a header can name: how many are too many is for the reader to say
SOI, EOI, SOS, DQT, DHT, DRI, DNL = 0xD8, 0xD9, 0xDA, 0xDB, 0xC4, 0xDD, 0xDC
APP0, APP1, APP14 = 0xE0, 0xE1, 0xEE
BASELINE, EXTENDED, PROGRESSIVE = 0xC0, 0xC1, 0xC2
REFUSED_FRAMES = {
    **dict.fromkeys((0xC3, 0xC7, 0xCB, 0xCF), "lossless"),
    **dict.fromkeys((0xC5, 0xC6, 0xCD, 0xCE), "hierarchical"),
    **dict.fromkeys((0xC9, 0xCA), "arithmetic-coded"),
}
STANDALONE = {0x01, *range(0xD0, 0xD8)}  # TEM and the restart markers: no length follows

# In a scan, FF00 is a data byte and FFD0 to FFD7 are restart markers; FFFF is a fill byte before a marker.
_MARKER_AFTER_DATA = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")
_EXIF, _XMP = b"Exif\0\0", b"http://ns.adobe.com/xap/1.0/\0"
_FILL = re.compile(rb"\xff+")
_XMP_ORIENTATION = re.compile(rb"tiff:Orientation(?:=\"|>)([1-8])")
_ORIENTATION_TAG = 0x0112
_EXIF_INTEGERS = {1: "B", 3: "H", 4: "I"}  # BYTE, SHORT, LONG


# The i-th coefficient of a file stands at index 8 v + u of its block.
NATURAL_ORDER = zigzag_order().numpy()


@dataclass(frozen=True)
class HuffmanTable:
    """One Huffman code: `counts[i]` codes of i + 1 bits each, and their symbols in order."""

    counts: tuple[int, ...]
    symbols: bytes


@dataclass(frozen=True)
class Component:
    """One colour component: its number in the file, its sampling factors (1 to 4), its slot of quantisation table."""

    identifier: int
    horizontal: int
    vertical: int
    table: int


@dataclass(frozen=True)
class Scan:
    """One scan: entropy-coded data of some components.

    Attributes:
        components: positions in the frame.
        dc_tables: one per component; None where the file has none in that slot.
        ac_tables: likewise.
        band: first and last coefficient, in zigzag order.
        approximation: (high, low) successive approximation: how many low bits lacked before, and lack after it.
        restart_interval: MCUs between two restart markers; 0 for none.
        data: (start, stop) of the entropy-coded bytes in the file.
    """

    components: tuple[int, ...]
    dc_tables: tuple[HuffmanTable | None, ...]
    ac_tables: tuple[HuffmanTable | None, ...]
    band: tuple[int, int]
    approximation: tuple[int, int]
    restart_interval: int
    data: tuple[int, int]


@dataclass(frozen=True)
class JpegMarkers:
    """Contents of the markers of a file.

    Attributes:
        size: (height, width) in pixels, as stored.
        components: 1 or 3 of them; with `any_colors` 1 to 4.
        sampling: the form of the chroma planes; None with `any_colors`.
        is_progressive: coefficients come in several scans.
        scans: in the order of the file.
        quantization: per component, int64 (8, 8) in (v, u).
        orientation: EXIF orientation, 1 to 8; 1 where the file says nothing.
    """

    size: tuple[int, int]
    components: tuple[Component, ...]
    sampling: Sampling | None
    is_progressive: bool
    scans: tuple[Scan, ...]
    quantization: tuple[np.ndarray, ...]
    orientation: int


ADVICE = "give max_pixels=N"


def read_markers(
    data: bytes, *, any_colors: bool = False, max_pixels: int | None = None, advice: str = ADVICE
) -> JpegMarkers:
    """Walk all markers of a JPEG file, up to its end-of-image marker; what follows that is not looked at.

    Args:
        data: the file.
        any_colors: take 1 to 4 components of any colours and sampling.
        max_pixels: see `limits.check_size`.
        advice: likewise.

    Raises:
        DataError: the file is no JPEG, is truncated or damaged, is too large, or is of a kind that has no 8-bit YCbCr
            or grey DCT coefficients (CMYK, RGB; `OtherKindError`: 12 bits, lossless, arithmetic coding).
    """
    return _Walk(data, any_colors=any_colors, max_pixels=max_pixels, advice=advice).to_end()


def read_outline(data: bytes, *, max_pixels: int | None = None) -> tuple[tuple[int, int], int]:
    """(height, width) in pixels as stored, and EXIF orientation, of a JPEG file of any kind.

    Nothing behind the beginning of the first scan is looked at: this is for those who leave the rest to a decoder.

    Raises:
        DataError: the file is no JPEG, is damaged before its first scan or is too large (see `limits.check_size`).
    """
    return _Walk(data, max_pixels=max_pixels).to_first_scan()


class _Walk:
    """The state of a reader between markers."""

    def __init__(
        self, data: bytes, *, any_colors: bool = False, max_pixels: int | None = None, advice: str = ADVICE
    ) -> None:
        if not data:
            raise DataError("it is no JPEG file: it is empty")
        if not data.startswith(JPEG_START):
            kind = ", but as a PNG file" if data.startswith(PNG_SIGNATURE) else ""
            raise DataError(f"it is no JPEG file: it does not begin with the bytes FF D8{kind}")
        self.data, self.any_colors, self.max_pixels, self.advice = data, any_colors, max_pixels, advice
        self.position = 2
        self.kind = 0  # of the frame; 0 until it came
        self.size = (0, 0)
        self.components: tuple[Component, ...] = ()
        self.scans: list[Scan] = []
        self.tables: dict[int, np.ndarray] = {}
        self.quantization: dict[int, np.ndarray] = {}
        self.huffman: dict[tuple[int, int], HuffmanTable] = {}
        self.restart_interval = 0
        self.is_jfif = False
        self.adobe_transform: int | None = None
        self.orientations: dict[bytes, int] = {}

    def to_end(self) -> JpegMarkers:
        segments: dict[int, Callable[[bytes], None]] = {
            DQT: self._read_quantization,
            DHT: self._read_huffman,
            DRI: self._read_restart_interval,
            APP0: self._read_jfif,
            APP1: self._read_orientation,
            APP14: self._read_adobe,
            SOS: self._read_scan,
            **dict.fromkeys((BASELINE, EXTENDED, PROGRESSIVE), self._read_frame),
        }
        while (marker := self._next_marker()) != EOI:
            if marker in REFUSED_FRAMES:
                raise OtherKindError(f"it is {REFUSED_FRAMES[marker]} (marker FF{marker:02X}), which is not supported")
            if marker in (SOI, DNL) or marker in STANDALONE:
                raise DataError(f"marker FF{marker:02X} stands at byte {self.position - 2}, where none is allowed")
            if BASELINE <= marker <= PROGRESSIVE:
                if self.kind:
                    raise DataError("it has more than one frame")
                self.kind = marker
            content = self._content()
            if marker in segments:
                segments[marker](content)
        if not self.scans:
            raise DataError("it ends before any image data")
        return self._result()

    def to_first_scan(self) -> tuple[tuple[int, int], int]:
        while (marker := self._next_marker()) not in (SOS, EOI):
            content = self._content()
            if marker == APP1:
                self._read_orientation(content)
            elif marker in (BASELINE, EXTENDED, PROGRESSIVE, *REFUSED_FRAMES) and len(content) >= 5:
                self._set_size(*struct.unpack(">HH", content[1:5]))
        if self.size == (0, 0):
            raise DataError("it ends before its frame header")
        return self.size, self._orientation()

    def _orientation(self) -> int:
        return self.orientations.get(_EXIF) or self.orientations.get(_XMP) or 1

    def _result(self) -> JpegMarkers:
        missing = [index for index in range(len(self.components)) if index not in self.quantization]
        if missing:
            raise DataError(f"it ends before the data of component {missing[0]}")
        return JpegMarkers(
            self.size,
            self.components,
            None if self.any_colors else sampling_of(self._factors()),
            self.kind == PROGRESSIVE,
            tuple(self.scans),
            tuple(self.quantization[index] for index in range(len(self.components))),
            self._orientation(),
        )

    def _next_marker(self) -> int:
        start = self.position
        fill = _FILL.match(self.data, start)
        self.position = start if fill is None else fill.end()
        if self.position >= len(self.data):
            raise DataError(f"it is truncated: it ends at byte {len(self.data)} without an end-of-image marker")
        if self.position == start:
            raise DataError(f"byte {start} must be FF, the beginning of a marker; it is {self.data[start]:02X}")
        self.position += 1
        return self.data[self.position - 1]

    def _content(self) -> bytes:
        """Return the bytes of the segment whose marker was just read; moves behind it."""
        start = self.position
        length = int.from_bytes(self.data[start : start + 2], "big")
        if start + max(length, 2) > len(self.data):
            raise DataError(f"it is truncated: it ends at byte {len(self.data)} inside a marker segment")
        if length < 2:
            raise DataError(f"the marker segment at byte {start} has the length {length}; it is at least 2")
        self.position = start + length
        return self.data[start + 2 : self.position]

    def _read_jfif(self, content: bytes) -> None:
        self.is_jfif = self.is_jfif or content[:5] == b"JFIF\0"

    def _read_adobe(self, content: bytes) -> None:
        if content[:5] == b"Adobe" and len(content) >= 12:
            self.adobe_transform = content[11]

    def _read_orientation(self, content: bytes) -> None:
        if content.startswith(_EXIF):
            self.orientations.setdefault(_EXIF, _exif_orientation(content[len(_EXIF) :]))
        elif content.startswith(_XMP) and (found := _XMP_ORIENTATION.search(content)):
            self.orientations.setdefault(_XMP, int(found[1]))

    def _read_restart_interval(self, content: bytes) -> None:
        if len(content) != 2:
            raise DataError(f"a restart interval has 2 bytes, this one {len(content)}")
        self.restart_interval = int.from_bytes(content, "big")

    def _read_quantization(self, content: bytes) -> None:
        while content:
            precision, slot = divmod(content[0], 16)
            num_bytes = BLOCK_SIZE**2 * (1 + precision)
            if precision > 1 or slot > 3 or len(content) < 1 + num_bytes:
                raise DataError("a quantisation table is damaged")
            values = np.frombuffer(content, ">u2" if precision else "u1", BLOCK_SIZE**2, 1)
            if not values.all():
                raise DataError("a quantisation table holds a zero")
            table = np.empty(BLOCK_SIZE**2, np.int64)
            table[NATURAL_ORDER] = values
            self.tables[slot] = table.reshape(BLOCK_SIZE, BLOCK_SIZE)
            content = content[1 + num_bytes :]

    def _read_huffman(self, content: bytes) -> None:
        while content:
            kind, slot = divmod(content[0], 16)
            counts = tuple(content[1:17])
            num_symbols = sum(counts)
            symbols = content[17 : 17 + num_symbols]
            if kind > 1 or slot > 3 or len(counts) < 16 or num_symbols > 256 or len(symbols) < num_symbols:
                raise DataError("a Huffman table is damaged")
            # Codes are given out in order; those of each length must leave room (the code of all ones is never used).
            used = sum(count << (15 - i) for i, count in enumerate(counts))
            if used >= 1 << 16:
                raise DataError("a Huffman table has more codes than there can be")
            self.huffman[kind, slot] = HuffmanTable(counts, symbols)
            content = content[17 + num_symbols :]

    def _read_frame(self, content: bytes) -> None:
        if len(content) < 6 or len(content) != 6 + 3 * content[5]:
            raise DataError("its frame header is damaged")
        precision, height, width, num_components = struct.unpack(">BHHB", content[:6])
        if precision != 8:
            raise OtherKindError(f"its samples have {precision} bits; only 8 are supported")
        self._set_size(height, width)
        if num_components not in ((1, 2, 3, 4) if self.any_colors else (1, 3)):
            kind = "CMYK or YCCK" if num_components == 4 else f"an image of {num_components} components"
            error = DataError if self.any_colors else OtherKindError
            raise error(f"it is {kind}; only YCbCr and grayscale are supported (convert it first)")
        self.components = tuple(
            Component(identifier, factors >> 4, factors & 15, table)
            for identifier, factors, table in zip(content[6::3], content[7::3], content[8::3], strict=True)
        )
        if len({component.identifier for component in self.components}) != num_components:
            raise DataError("two of its components have the same number")

    def _set_size(self, height: int, width: int) -> None:
        check_size(height, width, len(self.data), self.max_pixels, self.advice)
        self.size = height, width

    def _factors(self) -> list[tuple[int, int]]:
        return [(component.vertical, component.horizontal) for component in self.components]

    def _read_scan(self, content: bytes) -> None:
        if not self.kind:
            raise DataError("its image data come before the frame header")
        if len(self.scans) >= MAX_SCANS:
            raise DataError(f"it has more than {MAX_SCANS} scans")
        num_components = content[0] if content else 0
        if not 1 <= num_components <= len(self.components) or len(content) != 4 + 2 * num_components:
            raise DataError("a scan header is damaged")
        self._check_colours()
        order = {component.identifier: index for index, component in enumerate(self.components)}
        chosen = tuple(order.get(identifier, -1) for identifier in content[1:-3:2])
        if list(chosen) != sorted(set(chosen)) or chosen[0] < 0:
            raise DataError("a scan names components that are not in the frame, or not in its order")
        slots = content[2:-3:2]
        first, last, approximation = content[-3:]
        end = _MARKER_AFTER_DATA.search(self.data, self.position)
        if end is None:
            raise DataError(f"it is truncated: it ends at byte {len(self.data)} inside its image data")
        self.scans.append(
            Scan(
                chosen,
                tuple(self.huffman.get((0, slot >> 4)) for slot in slots),
                tuple(self.huffman.get((1, slot & 15)) for slot in slots),
                (first, last),
                divmod(approximation, 16),
                self.restart_interval,
                (self.position, end.start()),
            )
        )
        self.position = end.start()
        for index in chosen:
            self._latch_quantization(index)

    def _latch_quantization(self, index: int) -> None:
        """Fix the quantisation table of a component: that in its slot when its first scan begins, as in libjpeg."""
        slot = self.components[index].table
        if slot not in self.tables:
            raise DataError(f"component {index} has no quantisation table (slot {slot})")
        self.quantization.setdefault(index, self.tables[slot])

    def _check_colours(self) -> None:
        """Refuse RGB, by the rules of libjpeg: JFIF is YCbCr, Adobe says, else the components' letters do."""
        if self.any_colors:
            check_factors(self._factors())
            return
        sampling_of(self._factors())
        if len(self.components) == 1 or self.is_jfif:
            return
        letters = bytes(component.identifier for component in self.components if component.identifier < 256)
        if self.adobe_transform == 0 or (self.adobe_transform is None and letters == b"RGB"):
            raise OtherKindError(
                "its components are R, G and B; only YCbCr and grayscale are supported (convert it first)"
            )


def _exif_orientation(content: bytes) -> int:
    """Return the orientation in a TIFF structure; 0 if it is missing or unreadable."""
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(content[:4])
    if order is None or len(content) < 8:
        return 0
    start = struct.unpack_from(f"{order}I", content, 4)[0]
    if start + 2 > len(content):
        return 0
    num_entries = struct.unpack_from(f"{order}H", content, start)[0]
    for position in range(start + 2, min(start + 2 + 12 * num_entries, len(content) - 11), 12):
        tag, kind, number = struct.unpack_from(f"{order}HHI", content, position)
        if tag == _ORIENTATION_TAG:
            form = _EXIF_INTEGERS.get(kind) if number == 1 else None
            value: int = struct.unpack_from(f"{order}{form}", content, position + 8)[0] if form is not None else 0
            return value if 1 <= value <= 8 else 0
    return 0
