"""The numbers of decoded images, against Pillow's and against arithmetic by hand."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from tailcut.jpeg.pixels import decoded_pixels

NOISE = np.random.default_rng(0).integers(0, 256, (4, 6, 4), dtype=np.uint8)


@pytest.mark.parametrize("channels", [1, 3])
def test_sixteen_bits_are_kept(channels: int) -> None:
    values = np.linspace(0, 65535, 24, dtype=np.uint16).reshape(4, 6)
    pixels = decoded_pixels(Image.fromarray(values), channels)
    assert pixels.shape == (4, 6, channels)
    assert pixels.dtype == np.float32
    for channel in range(channels):
        np.testing.assert_allclose(pixels[:, :, channel], values / 65535, rtol=1e-6)


def test_what_is_transparent_shows_white() -> None:
    alpha = NOISE[:, :, 3:] / 255
    expected = NOISE[:, :, :3] / 255 * alpha + (1 - alpha)
    np.testing.assert_allclose(decoded_pixels(Image.fromarray(NOISE), 3), expected, atol=1.1 / 255)


@pytest.mark.parametrize(("mode", "channels"), [("RGB", 3), ("L", 1), ("1", 1), ("P", 3), ("CMYK", 3)])
def test_other_modes_are_as_pillow_converts_them(mode: str, channels: int) -> None:
    image = Image.fromarray(NOISE[:, :, :3]).convert(mode)
    plain = np.asarray(image.convert("L" if channels == 1 else "RGB"), dtype=np.float64).reshape(4, 6, channels)
    pixels = decoded_pixels(image, channels)
    assert pixels.shape == (4, 6, channels)
    assert pixels.dtype == np.float32
    np.testing.assert_allclose(pixels, plain / 255, rtol=1e-6)


def png(values: np.ndarray, colour_type: int, transparent: bytes) -> Image.Image:
    """An image of 16 bits with a transparent colour, as PNG has it; Pillow does not write such."""
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    height, width = values.shape[:2]
    header = struct.pack(">IIBBBBB", width, height, 16, colour_type, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"tRNS", transparent), (b"IDAT", zlib.compress(rows)), (b"IEND", b""))
    content = b"\x89PNG\r\n\x1a\n"
    for kind, data in chunks:
        content += struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
    return Image.open(io.BytesIO(content))


def test_a_transparent_colour_of_sixteen_bits_shows_white() -> None:
    grey = np.array([[1000, 40000, 65535]], dtype=np.uint16)
    pixels = decoded_pixels(png(grey, 0, struct.pack(">H", 40000)), 1)
    np.testing.assert_allclose(pixels[0, :, 0], [1000 / 65535, 1, 1], rtol=1e-6)
    colours = np.array([[[5000, 40000, 20000], [5000, 40000, 60000]]], dtype=np.uint16)
    pixels = decoded_pixels(png(colours, 2, struct.pack(">HHH", 5000, 40000, 20000)), 3)
    np.testing.assert_allclose(pixels[0, 0], [1, 1, 1])
    np.testing.assert_allclose(pixels[0, 1], colours[0, 1] / 65535, atol=1 / 255)
