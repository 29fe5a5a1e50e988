"""The numbers of decoded images, against Pillow's and against arithmetic by hand."""

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
