import io
import struct
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tests.inputs.jpegs import encode, frame_position, photo, replaced, segment, segments

from tailcut.errors import DataError
from tailcut.jpeg import markers as marker_module
from tailcut.jpeg.markers import NATURAL_ORDER, read_markers, read_outline

SMALL = encode(photo(40, 56), "4:2:0", quality=80)


def inserted(data: bytes, marker: int, content: bytes, position: int = 2) -> bytes:
    return data[:position] + struct.pack(">BBH", 0xFF, marker, len(content) + 2) + content + data[position:]


def without(data: bytes, *markers: int) -> bytes:
    for marker in markers:
        while any(kind == marker for kind, _, _ in segments(data)):
            start, stop = segment(data, marker)
            data = data[:start] + data[stop:]
    return data


def with_orientation(content: bytes) -> int:
    return read_markers(inserted(SMALL, 0xE1, b"Exif\0\0" + content)).orientation


def tiff(order: str, entries: list[tuple[int, int, int, int]], start: int = 8) -> bytes:
    head = {"<": b"II*\0", ">": b"MM\0*"}[order] + struct.pack(f"{order}I", start) + bytes(start - 8)
    forms = {1: "Bxxx", 3: "Hxx", 4: "I"}
    packed = [struct.pack(f"{order}HHI{forms[kind]}", tag, kind, n, value) for tag, kind, n, value in entries]
    return head + struct.pack(f"{order}H", len(entries)) + b"".join(packed)


@pytest.mark.parametrize("sampling", ["4:4:4", "4:2:2", "4:2:0", "4:4:0", "grayscale"])
@pytest.mark.parametrize("quality", [1, 30, 75, 100])
def test_what_pillow_reads_too(sampling: str, quality: int) -> None:
    data = encode(photo(31, 50), sampling, quality=quality)
    markers = read_markers(data)
    image: Any = Image.open(io.BytesIO(data))
    assert (markers.size, markers.sampling) == ((31, 50), sampling)
    assert [(c.identifier, c.horizontal, c.vertical, c.table) for c in markers.components] == image.layer
    assert (markers.is_progressive, len(markers.scans), markers.orientation) == (False, 1, 1)
    # Pillow gives the tables row by row.
    tables = {slot: np.array(table).reshape(8, 8) for slot, table in image.quantization.items()}
    for component, table in zip(markers.components, markers.quantization, strict=True):
        assert np.array_equal(table, tables[component.table])


def test_natural_order_is_that_of_the_standard() -> None:
    """The numbers of T.81, figure A.6: where each place of a block comes in the file."""
    figure = """
        0  1  5  6 14 15 27 28
        2  4  7 13 16 26 29 42
        3  8 12 17 25 30 41 43
        9 11 18 24 31 40 44 53
       10 19 23 32 39 45 52 54
       20 22 33 38 46 51 55 60
       21 34 37 47 50 56 59 61
       35 36 48 49 57 58 62 63"""
    assert np.array_equal(NATURAL_ORDER.argsort(), np.array(figure.split(), dtype=int))


def test_progressive_scans() -> None:
    markers = read_markers(encode(photo(40, 56), "4:2:0", progressive=True))
    assert markers.is_progressive
    # libjpeg's script: DC of all, AC of each in two steps of precision, then the last bits.
    assert [scan.components for scan in markers.scans[:2]] == [(0, 1, 2), (0,)]
    assert markers.scans[0].band == (0, 0)
    assert markers.scans[0].approximation == (0, 1)
    assert {scan.approximation for scan in markers.scans[-3:]} == {(1, 0)}


def test_restart_interval_is_that_of_its_scan() -> None:
    assert read_markers(encode(photo(40, 56), restart_marker_blocks=3)).scans[0].restart_interval == 3


def test_what_follows_the_image_is_not_looked_at() -> None:
    assert read_markers(SMALL + b"\xff\xd8 anything").size == (40, 56)


def test_fill_bytes_before_markers() -> None:
    at, _ = segment(SMALL, 0xDB)
    filled = SMALL[:at] + b"\xff\xff\xff" + SMALL[at:-2] + b"\xff\xff" + SMALL[-2:]
    assert read_markers(filled).size == (40, 56)


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("start", [8, 20])
@pytest.mark.parametrize("kind", [1, 3, 4], ids=["byte", "short", "long"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation(order: str, start: int, kind: int, orientation: int) -> None:
    entries = [(0x010F, 3, 1, 5), (0x0112, kind, 1, orientation), (0x0128, 3, 1, 2)]
    assert with_orientation(tiff(order, entries, start)) == orientation


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"II*\0",
        b"XX*\0" + bytes(20),
        tiff("<", [(0x0112, 3, 1, 9)]),
        tiff("<", [(0x0112, 3, 1, 0)]),
        tiff("<", [(0x0112, 4, 1, 9 << 16)]),
        tiff("<", [(0x0112, 3, 2, 6)]),
        tiff("<", [(0x0112, 3, 1, 6)])[:-4],
        b"II*\0\xff\xff\xff\xff" + bytes(30),
        b"MM\0*\0\0\0\x08\xff\xff" + bytes(30),
    ],
)
def test_orientation_that_cannot_be_read_is_upright(content: bytes) -> None:
    assert with_orientation(content) == 1


def test_orientation_in_xmp_counts_where_exif_has_none() -> None:
    packet = b'http://ns.adobe.com/xap/1.0/\0<rdf:Description tiff:Orientation="6"/>'
    data = inserted(SMALL, 0xE1, packet)
    assert read_markers(data).orientation == 6
    assert read_markers(inserted(data, 0xE1, b"Exif\0\0" + tiff("<", [(0x0112, 3, 1, 3)]))).orientation == 3
    assert Image.open(io.BytesIO(data)).getexif()[0x0112] == 6, "Pillow sees it too"


def test_tables_of_16_bits() -> None:
    start, stop = segment(SMALL, 0xDB)
    values = np.frombuffer(SMALL, np.uint8, 64, start + 5)
    wide = bytes((0x10,)) + (values.astype(np.uint16) * 256).astype(">u2").tobytes()
    data = SMALL[:start] + struct.pack(">BBH", 0xFF, 0xDB, 2 + len(wide)) + wide + SMALL[stop:]
    before, after = read_markers(SMALL).quantization[0], read_markers(data).quantization[0]
    assert np.array_equal(after, before * 256)


@pytest.mark.parametrize(
    ("adobe", "letters", "is_rgb"),
    [
        (0, b"\1\2\3", True),
        (1, b"\1\2\3", False),
        (None, b"RGB", True),
        (1, b"RGB", False),
        (None, b"\0\1\2", False),
    ],
)
def test_colours_without_jfif(adobe: int | None, letters: bytes, is_rgb: bool) -> None:
    frame, (scan, _) = frame_position(SMALL), segment(SMALL, 0xDA)
    data = SMALL
    for index, letter in enumerate(letters):
        data = replaced(data, frame + 10 + 3 * index, letter)
        data = replaced(data, scan + 5 + 2 * index, letter)
    if adobe is not None:
        data = inserted(data, 0xEE, b"Adobe\0\x64\0\0\0\0" + bytes((adobe,)))
    assert read_markers(data).sampling == "4:2:0", "JFIF is always YCbCr"
    data = without(data, 0xE0)
    if is_rgb:
        with pytest.raises(DataError, match="components are R, G and B"):
            read_markers(data)
    else:
        assert read_markers(data).sampling == "4:2:0"


def changed_frame(offset: int, *values: int, data: bytes = SMALL) -> bytes:
    return replaced(data, frame_position(data) + offset, *values)


def changed_scan(offset: int, *values: int) -> bytes:
    return replaced(SMALL, segment(SMALL, 0xDA)[0] + offset, *values)


GREY = encode(photo(16, 16), "grayscale")

REFUSED = {
    "empty": (b"", "it is no JPEG file: it is empty"),
    "png": (b"\x89PNG\r\n\x1a\n", "does not begin with the bytes FF D8"),
    "only the start": (SMALL[:2], "truncated: it ends at byte 2 without an end-of-image"),
    "no image": (b"\xff\xd8\xff\xd9", "ends before any image data"),
    "no data": (SMALL[: segment(SMALL, 0xDA)[0]] + b"\xff\xd9", "ends before any image data"),
    "no frame": (without(SMALL, 0xC0), "data come before the frame header"),
    "two frames": (inserted(SMALL, 0xC0, b"x", segment(SMALL, 0xC0)[1]), "more than one frame"),
    "no marker": (SMALL[:2] + b"\0" + SMALL[2:], "byte 2 must be FF, the beginning of a marker; it is 00"),
    "start twice": (SMALL[:2] + SMALL, "marker FFD8 stands at byte 2"),
    "restart in the header": (SMALL[:2] + b"\xff\xd3" + SMALL[2:], "marker FFD3"),
    "lines later": (inserted(SMALL, 0xDC, b"\0\x28"), "marker FFDC"),
    "length 0": (SMALL[:2] + b"\xff\xe5\0\0" + SMALL[2:], "byte 4 has the length 0"),
    "length beyond the end": (SMALL[:2] + b"\xff\xe5\xff\xff", "ends at byte 6 inside a marker segment"),
    "12 bits": (changed_frame(4, 12), "samples have 12 bits; only 8"),
    "height 0": (changed_frame(5, 0, 0), r"size is \(height, width\) \(0, 56\)"),
    "width 0": (changed_frame(7, 0, 0), r"\(40, 0\)"),
    "very large": (changed_frame(5, 255, 255, 255, 255), "65535 x 65535 pixels; at most 16,777,216"),
    "two components": (inserted(b"\xff\xd8\xff\xd9", 0xC0, b"\x08\0\x10\0\x10\x02" + bytes(6)), "of 2 components"),
    "frame too short": (inserted(b"\xff\xd8\xff\xd9", 0xC0, b"\x08\0\x10\0\x10\x03" + bytes(8)), "frame header"),
    "frame of 3 bytes": (inserted(b"\xff\xd8\xff\xd9", 0xC0, b"\x08\0\x10"), "frame header is damaged"),
    "same number": (changed_frame(13, 1), "two of its components have the same number"),
    "sampling 0": (changed_frame(11, 0x20), "sampling factors are not 1 to 4"),
    "sampling 5": (changed_frame(11, 0x15), "sampling factors are not 1 to 4"),
    "sampling 4:1:1": (changed_frame(11, 0x41), "4 x 1, 1 x 1, 1 x 1"),
    "chroma apart": (changed_frame(14, 0x12), "2 x 2, 1 x 2, 1 x 1"),
    "chroma larger": (changed_frame(11, 0x11, 0, 2, 0x22, 1, 3, 0x22), "1 x 1, 2 x 2, 2 x 2"),
    "11 blocks": (changed_frame(11, 0x42, 0, 2, 0x21, 1, 3, 0x21), "4 x 2"),
    "no table": (changed_frame(12, 3), r"component 0 has no quantisation table \(slot 3\)"),
    "scan of none": (changed_scan(4, 0), "scan header is damaged"),
    "scan of four": (changed_scan(4, 4), "scan header is damaged"),
    "scan of one": (changed_scan(4, 1), "scan header is damaged"),
    "scan of others": (changed_scan(5, 9), "components that are not in the frame"),
    "scan twice": (changed_scan(7, 1), "components that are not in the frame, or not in its order"),
    "scan turned": (changed_scan(5, 2, 0, 1), "or not in its order"),
    "restart of 3 bytes": (inserted(SMALL, 0xDD, b"\0\0\1"), "restart interval has 2 bytes, this one 3"),
    "quantisation of 32 bits": (inserted(SMALL, 0xDB, b"\x20" + bytes(range(1, 65))), "quantisation table is damaged"),
    "quantisation slot 4": (inserted(SMALL, 0xDB, b"\x04" + bytes(range(1, 65))), "quantisation table is damaged"),
    "quantisation short": (inserted(SMALL, 0xDB, b"\0" + bytes(range(1, 64))), "quantisation table is damaged"),
    "quantisation 0": (inserted(SMALL, 0xDB, b"\0" + bytes(range(64))), "holds a zero"),
    "Huffman kind": (inserted(SMALL, 0xC4, b"\x20" + bytes(16)), "Huffman table is damaged"),
    "Huffman slot": (inserted(SMALL, 0xC4, b"\x04" + bytes(16)), "Huffman table is damaged"),
    "Huffman short": (inserted(SMALL, 0xC4, b"\0" + bytes(15)), "Huffman table is damaged"),
    "Huffman symbols": (inserted(SMALL, 0xC4, b"\0" + bytes((0, 2)) + bytes(14) + b"x"), "Huffman table is damaged"),
    "Huffman of 257": (inserted(SMALL, 0xC4, b"\0" + bytes(14) + b"\xff\2" + bytes(257)), "Huffman table is damaged"),
    "Huffman too full": (inserted(SMALL, 0xC4, b"\0\2" + bytes(15) + b"ab"), "more codes than there can be"),
    "Huffman too long": (inserted(SMALL, 0xC4, b"\0\1\2" + bytes(14) + b"abc"), "more codes than there can be"),
    "CMYK": (encode(photo(16, 16).convert("CMYK"), "4:4:4"), "CMYK or YCCK"),
    "RGB": (encode(photo(16, 16), "4:4:4", keep_rgb=True), "R, G and B"),
    "lossless": (changed_frame(1, 0xC3), r"it is lossless \(marker FFC3\)"),
    "hierarchical": (changed_frame(1, 0xC5), "it is hierarchical"),
    "arithmetic": (changed_frame(1, 0xC9), "it is arithmetic-coded"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_does_not_add_up_is_refused(name: str) -> None:
    data, message = REFUSED[name]
    with pytest.raises(DataError, match=message):
        read_markers(data)


def test_every_truncation_is_refused() -> None:
    for stop in range(len(SMALL)):
        with pytest.raises(DataError, match=r"truncated|does not begin|is empty"):
            read_markers(SMALL[:stop])


def test_number_of_scans_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(marker_module, "MAX_SCANS", 3)
    with pytest.raises(DataError, match="more than 3 scans"):
        read_markers(encode(photo(16, 16), progressive=True))


def test_missing_component() -> None:
    """A frame of three components and one scan of one."""
    frame = GREY[frame_position(GREY) :][:4] + GREY[frame_position(GREY) + 4 :][:5]
    start, stop = segment(GREY, 0xC0)
    three = b"\xff\xc0\0\x11" + frame[4:9] + b"\3" + b"\1\x11\0\2\x11\0\3\x11\0"
    with pytest.raises(DataError, match="ends before the data of component 1"):
        read_markers(GREY[:start] + three + GREY[stop:])


@pytest.mark.parametrize("sampling", ["4:2:0", "grayscale"])
def test_outline(sampling: str) -> None:
    data = encode(photo(31, 50), sampling)
    data = inserted(data, 0xE1, b"Exif\0\0" + tiff("<", [(0x0112, 3, 1, 5)]))
    assert read_outline(data) == ((31, 50), 5)
    assert read_outline(data[: segment(data, 0xDA)[1]]) == ((31, 50), 5), "the data are not looked at"
    assert read_outline(encode(photo(20, 30).convert("CMYK"), "4:4:4")) == ((20, 30), 1)


@pytest.mark.parametrize("name", ["empty", "png", "only the start", "no image", "height 0", "very large"])
def test_outlines_that_are_refused(name: str) -> None:
    with pytest.raises(DataError, match=REFUSED[name][1].replace("any image data", "its frame header")):
        read_outline(REFUSED[name][0])
