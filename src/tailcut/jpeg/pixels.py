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
        return np.asarray(image).astype(np.float32)[:, :, None].repeat(channels, axis=2) / np.float32(65535)
    plain = _on_white(image).convert("L" if channels == 1 else "RGB")
    pixels = np.array(plain, dtype=np.float32) / np.float32(255)
    return pixels.reshape(image.height, image.width, channels)


def _on_white(image: Image.Image) -> Image.Image:
    if not image.has_transparency_data:
        return image
    colours = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", colours.size, "white"), colours)
