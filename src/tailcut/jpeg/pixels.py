"""The numbers of a decoded image file, PNG or JPEG, whatever its mode."""

import numpy as np
from numpy.typing import NDArray
from PIL import Image


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


def _on_white(image: Image.Image) -> Image.Image:
    if not image.has_transparency_data:
        return image
    key = image.info.get("transparency")
    if isinstance(key, tuple) and max(key) > 255:  # of 16 bits, where Pillow has kept the upper 8 of the pixels
        image = image.copy()
        image.info["transparency"] = tuple(number >> 8 for number in key)
    colours = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", colours.size, "white"), colours)
