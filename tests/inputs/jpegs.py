"""JPEG files for tests, made by Pillow and simplejpeg from scikit-learn's photos, and what others read in them."""

import functools
import io
import struct
from pathlib import Path

import jpeglib
import numpy as np
import simplejpeg
from PIL import Image
from sklearn.datasets import load_sample_images

PILLOW_SAMPLINGS = {"4:4:4": 0, "4:2:2": 1, "4:2:0": 2}


@functools.cache
def _photos() -> tuple[Image.Image, ...]:
    return tuple(Image.fromarray(pixels) for pixels in load_sample_images().images)


def photo(height: int, width: int, *, number: int = 0) -> Image.Image:
    """A colourful part of a photo, RGB."""
    return _photos()[number].crop((300, 150, 300 + width, 150 + height))


def encode(image: Image.Image, sampling: str = "4:4:4", **options: object) -> bytes:
    """A JPEG file; options are those of Pillow (quality, progressive, restart_marker_blocks, exif ...)."""
    if sampling == "4:4:0":
        quality = int(str(options.pop("quality", 75)))
        assert not options
        return bytes(simplejpeg.encode_jpeg(np.array(image), quality=quality, colorsubsampling="440"))
    buffer = io.BytesIO()
    if sampling == "grayscale":
        image = image.convert("L")
    else:
        options["subsampling"] = PILLOW_SAMPLINGS[sampling]
    image.save(buffer, "JPEG", **options)
    return buffer.getvalue()


def quantized_by_jpeglib(data: bytes, folder: Path) -> list[np.ndarray]:
    """The quantised coefficients as libjpeg reads them, int16 (blocks_h, blocks_w, 8, 8) per component."""
    path = folder / "image.jpg"
    path.write_bytes(data)
    image = jpeglib.read_dct(str(path))
    image.load()
    return [plane for plane in (image.Y, image.Cb, image.Cr) if plane is not None]


def luma_by_pillow(data: bytes) -> np.ndarray:
    """The decoded luma plane, uint8: Pillow has libjpeg leave the chroma out."""
    image = Image.open(io.BytesIO(data))
    image.draft("L", image.size)
    assert image.mode == "L"
    return np.asarray(image)


def ycbcr_by_pillow(data: bytes) -> np.ndarray:
    """The decoded planes, uint8 (3, height, width), not converted to RGB."""
    image = Image.open(io.BytesIO(data))
    image.draft("YCbCr", image.size)
    assert image.mode == "YCbCr"
    return np.asarray(image).transpose(2, 0, 1)


def segments(data: bytes) -> list[tuple[int, int, int]]:
    """(marker, first byte, byte behind it) of each marker segment before the data of the first scan."""
    found, position = [(data[1], 0, 2)], 2
    while found[-1][0] != 0xDA:
        length = struct.unpack_from(">H", data, position + 2)[0]
        found.append((data[position + 1], position, position + 2 + length))
        position += 2 + length
    return found


def segment(data: bytes, marker: int) -> tuple[int, int]:
    """Where the first segment of a marker lies: its first byte, and the byte behind it."""
    return next((start, stop) for kind, start, stop in segments(data) if kind == marker)


def replaced(data: bytes, position: int, *values: int) -> bytes:
    """A copy with other bytes from `position` on."""
    return data[:position] + bytes(values) + data[position + len(values) :]


def frame_position(data: bytes) -> int:
    """Where the frame header begins: FF Cx, length (2), precision, height (2), width (2), components ..."""
    return next(start for kind, start, _ in segments(data) if kind in (0xC0, 0xC1, 0xC2))


def one_scan_per_component(greys: list[bytes], factors: list[int], size: tuple[int, int]) -> bytes:
    """A sequential YCbCr file with three scans, put together from three grey files of the same quality.

    Args:
        greys: baseline grey files, each the plane of a component.
        factors: sampling factors, 16 horizontal + vertical.
        size: (height, width) of the image.
    """
    first = greys[0]
    tables = b"".join(first[start:stop] for kind, start, stop in segments(first) if kind in (0xDB, 0xC4))
    frame = b"\xff\xc0" + struct.pack(">HBHHB", 17, 8, *size, 3)
    frame += b"".join(bytes((index + 1, factor, 0)) for index, factor in enumerate(factors))
    scans = b""
    for index, grey in enumerate(greys):
        start, stop = segment(grey, 0xDA)
        scans += replaced(grey[start:stop], 5, index + 1) + grey[stop:-2]
    return b"\xff\xd8" + tables + frame + scans + b"\xff\xd9"
