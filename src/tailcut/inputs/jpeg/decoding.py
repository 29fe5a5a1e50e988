"""Decoding of JPEG files to pixels, directly at 1/2, 1/4 or 1/8 of their size."""

import functools
import io
import math
from collections.abc import Callable
from typing import Any

import numpy as np
from PIL import Image

from tailcut.errors import DataError, MissingExtraError
from tailcut.jpeg.checking import DAMAGED, check_jpeg
from tailcut.jpeg.limits import check_size
from tailcut.jpeg.markers import ADVICE
from tailcut.jpeg.pixels import decoded_pixels, upright

# From a file, its (height, width) in pixels and a divisor, 1, 2, 4 or 8: uint8 (height, width, 3), rounded up.
Decode = Callable[[bytes, tuple[int, int], int], np.ndarray]


def simplejpeg_decoder(approximate: bool) -> Decode:
    """libjpeg-turbo without Pillow.

    Args:
        approximate: with its fastest inverse DCT and upsampling.

    Raises:
        MissingExtraError: simplejpeg is not installed.
    """
    try:
        from simplejpeg import decode_jpeg
    except ImportError as error:
        raise MissingExtraError("decoding by simplejpeg", "simplejpeg", "jpeg") from error
    return functools.partial(_decode_with_simplejpeg, decode_jpeg, approximate)


def _decode_with_simplejpeg(
    decode_jpeg: Any, approximate: bool, data: bytes, size: tuple[int, int], divisor: int
) -> np.ndarray:
    """Decode a file of (height, width) pixels, made smaller by 1, 2, 4 or 8: uint8 (height, width, 3), rounded up."""
    try:
        pixels: np.ndarray = decode_jpeg(
            data,
            fastdct=approximate,
            fastupsample=approximate,
            min_height=math.ceil(size[0] / divisor),
            min_width=math.ceil(size[1] / divisor),
            min_factor=divisor,
        )
    except ValueError as error:
        raise DataError(f"cannot be decoded: {error}") from error
    return pixels


def decode_with_pillow(data: bytes, size: tuple[int, int], divisor: int) -> np.ndarray:
    """As what `simplejpeg_decoder` gives, in somewhat more time.

    Pillow takes what libjpeg makes of a damaged file, so that the file is checked first.
    """
    check_jpeg(data)
    try:
        with Image.open(io.BytesIO(data), formats=["JPEG"]) as image:
            # Pillow takes the largest divisor that leaves at least so many pixels.
            image.draft(None, (max(1, size[1] // divisor), max(1, size[0] // divisor)))
            return np.array(image.convert("RGB"))
    except (OSError, SyntaxError, ValueError) as error:
        raise DataError(f"cannot be decoded: {error}") from error


def decode_png(data: bytes, max_pixels: int | None) -> np.ndarray:
    """Return a PNG file as `tailcut.data.read_image` reads it, upright and on white, in bytes (height, width, 3).

    Args:
        data: the file.
        max_pixels: see `read_jpeg`.

    Raises:
        DataError: it is damaged, or has too many pixels.
    """
    try:
        with Image.open(io.BytesIO(data), formats=["PNG"]) as image:
            check_size(image.height, image.width, len(data), max_pixels, ADVICE)
            image.verify()  # its end, which loading does not see; the image must be opened anew
        with Image.open(io.BytesIO(data), formats=["PNG"]) as image:
            image.load()
            pixels = decoded_pixels(upright(image, data), channels=3)
    except DataError:  # a ValueError too
        raise
    except DAMAGED as error:
        raise DataError(f"cannot be decoded: {error}") from error
    return np.rint(pixels * 255).astype(np.uint8)
