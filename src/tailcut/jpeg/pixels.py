"""The numbers of a decoded image file, PNG or JPEG, whatever its mode."""

from contextlib import suppress

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageOps

from tailcut.errors import DataError
from tailcut.jpeg.markers import JPEG_START, MOST_PIXELS, read_outline

# Where a PNG has its bits per channel and its kind of colours; the kind without colours and alpha.
PNG_DEPTH, PNG_COLOUR, PNG_GREY = 24, 25, 0
# What turns an image upright, by its EXIF orientation.
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def decoded_pixels(image: Image.Image, channels: int) -> NDArray[np.float32]:
    """Return an image's pixels, float32 (height, width, channels) in 0..1; transparent images are laid on white.

    Args:
        image: as Pillow decoded it.
        channels: 1 for grey, made of colours by the luma weights of ITU-R BT.601; 3 for RGB.
    """
    if image.mode.startswith("I"):  # 16-bit grey, which `convert` would clip; Pillow has no other integer PNG or JPEG
        numbers = np.asarray(image)
        grey = numbers.astype(np.float32) / np.float32(65535)
        grey[numbers == image.info.get("transparency", -1)] = 1
        return grey[:, :, None].repeat(channels, axis=2)
    plain = _on_white(image).convert("L" if channels == 1 else "RGB")
    pixels = np.array(plain, dtype=np.float32) / np.float32(255)
    return pixels.reshape(image.height, image.width, channels)


def upright(image: Image.Image, content: bytes) -> Image.Image:
    """Return a decoded image turned as its metadata say; of a JPEG file as `read_jpeg` turns its coefficients.

    Args:
        image: as Pillow decoded it. Its key of transparency is corrected where Pillow scaled the pixels alone.
        content: of its file.
    """
    image = as_stored(image, content)
    if content.startswith(JPEG_START):
        turn = TURNS.get(orientation_of(image, content))
        return image if turn is None else image.transpose(turn)
    return ImageOps.exif_transpose(image)


def as_stored(image: Image.Image, content: bytes) -> Image.Image:
    """Return a decoded image as `upright`, but not turned."""
    if not content.startswith(JPEG_START):
        _scale_key(image, content)
    return image


def orientation_of(image: Image.Image, content: bytes) -> int:
    """Return the EXIF orientation, 1 to 8, without decoding; of a JPEG file as `read_jpeg` sees it.

    Where that cannot read the file's beginning, and of PNG files, it is what Pillow finds.
    """
    if content.startswith(JPEG_START):
        with suppress(DataError):  # of bytes between the segments, which libjpeg passes over
            return read_outline(content, max_pixels=MOST_PIXELS)[1]
    # The method of PNG files itself decodes the image, to find the chunks behind it.
    orientation: int = Image.Image.getexif(image).get(ExifTags.Base.Orientation, 1)
    return orientation


def _scale_key(image: Image.Image, content: bytes) -> None:
    """Scale the transparent value of a PNG with 2 or 4 bits of grey as Pillow scales the pixels, to 0 to 255."""
    depth, key = content[PNG_DEPTH], image.info.get("transparency")
    if content[PNG_COLOUR] == PNG_GREY and depth in (2, 4) and isinstance(key, int) and key < 1 << depth:
        image.info["transparency"] = key * 255 // ((1 << depth) - 1)


def _on_white(image: Image.Image) -> Image.Image:
    if not image.has_transparency_data:
        return image
    key = image.info.get("transparency")
    if isinstance(key, tuple) and max(key) > 255:  # of 16 bits, where Pillow has kept the upper 8 of the pixels
        image = image.copy()
        image.info["transparency"] = tuple(number >> 8 for number in key)
    colours = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", colours.size, "white"), colours)
