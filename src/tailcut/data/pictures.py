"""Pictures of any kind as float tensors, and masks as PNG files."""

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor
from torch.nn.functional import interpolate

from tailcut.errors import ArgumentError, DataError
from tailcut.files import atomic_write

FORMATS = ("PNG", "JPEG")
HALF = 128  # of a byte
_DEPTH, _COLOUR = 24, 25  # where a PNG has its bits per channel and its kind of colours
_GREY = 0  # the kind without colours and alpha
# What Pillow raises for damaged files: OSError and SyntaxError are its own, the others come from below it.
_DAMAGED = (
    OSError,
    SyntaxError,
    ValueError,
    TypeError,
    IndexError,
    EOFError,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
)


def read_picture(path: str | Path, *, channels: int, size: tuple[int, int] | None = None) -> Tensor:
    """Read a PNG or JPEG file of any mode, upright.

    The orientation in the EXIF data is honoured; transparent pictures are laid on white; grey is made of
    colours by the luma weights of ITU-R BT.601; 16 bits are kept of grey without alpha only, of others the higher 8.

    Args:
        path: the file.
        channels: 1 for grey, 3 for RGB.
        size: (height, width) to resize to, bilinear with antialiasing; None keeps the picture's own.

    Returns:
        float32 (1, channels, height, width) in 0..1.

    Raises:
        ArgumentError: `channels` is neither 1 nor 3, or `size` is not positive.
        DataError: the file cannot be read, is damaged or is no PNG or JPEG picture.
    """
    if channels not in (1, 3):
        raise ArgumentError(f"channels must be 1 (grey) or 3 (RGB), got {channels}")
    if size is not None and (len(size) != 2 or min(size) < 1):
        raise ArgumentError(f"size must be a positive (height, width), got {size}")
    image = _open(Path(path))
    if image.mode.startswith("I"):  # 16-bit grey; Pillow has no other integer PNG or JPEG
        pixels = np.asarray(image).astype(np.float32)[:, :, None].repeat(channels, axis=2) / 65535
    else:
        pixels = np.array(_flat(image).convert("L" if channels == 1 else "RGB"), dtype=np.float32) / 255
        pixels = pixels.reshape(image.height, image.width, channels)
    picture = torch.from_numpy(pixels).permute(2, 0, 1).contiguous()[None]
    if size is not None and size != (image.height, image.width):
        picture = interpolate(picture, size=size, mode="bilinear", antialias=True)
    return picture


def read_mask(path: str | Path) -> Tensor:
    """Read a mask from a PNG or JPEG file, upright.

    Foreground is each pixel of a PNG whose value (of colours the largest, of a palette the index) is above 0, and each
    of a JPEG whose value is 128 or more, since compression leaves small values beside edges. What is wholly transparent
    is background.

    Returns:
        int64 (height, width) of 0 and 1.

    Raises:
        DataError: the file cannot be read, is damaged, is no PNG or JPEG picture, or has 16 bits per channel and is
            not plain grey.
    """
    content = _read(Path(path))
    image = _decoded(Path(path), content)
    if image.format == "PNG" and content[_DEPTH] == 16 and content[_COLOUR] != _GREY:
        # Pillow reads the high bytes of these alone, and small values would become background.
        raise DataError(
            f"cannot use the mask {path}: expected 8 bits per channel, or 16-bit grey without alpha, and it has 16 "
            "bits with colours or alpha; save it with 8 bits or as 16-bit grey"
        )
    values = np.asarray(image if len(image.getbands()) == 1 else image.convert("RGB"))
    if values.ndim == 3:
        values = values.max(axis=2)
    is_foreground = values >= HALF if image.format == "JPEG" else values > 0
    return torch.from_numpy((is_foreground & _is_seen(image)).astype(np.int64))


def write_mask(path: str | Path, mask: Tensor) -> None:
    """Write a mask as a 1-bit PNG, foreground white, whole or not at all.

    Args:
        path: the file; one that exists is replaced.
        mask: bool or integer (height, width); values above 0 are foreground.

    Raises:
        ArgumentError: the mask is not a picture of two axes, or the folder of `path` does not exist.
    """
    if mask.ndim != 2 or 0 in mask.shape or mask.is_floating_point():
        raise ArgumentError(f"a mask must be bool or integer (height, width), got {mask.dtype} {tuple(mask.shape)}")
    pixels = (mask > 0).cpu().numpy().astype(np.uint8) * 255
    with atomic_write(path) as file:
        Image.fromarray(pixels).convert("1", dither=Image.Dither.NONE).save(file, format="PNG", optimize=True)


def picture_size(path: str | Path) -> tuple[int, int]:
    """(height, width) of a PNG or JPEG file as `read_picture` gives it; raises DataError as it does."""
    image = _open(Path(path))
    return image.height, image.width


def _open(path: Path) -> Image.Image:
    """The decoded picture, turned upright; DataError for whatever is wrong with the file."""
    return _decoded(path, _read(path))


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise DataError(f"cannot read the picture {path}: {error.strerror or error}") from error


def _decoded(path: Path, content: bytes) -> Image.Image:
    try:
        with Image.open(io.BytesIO(content), formats=FORMATS) as image:
            image.verify()  # checks what loading does not: the end of a PNG; the picture must be opened anew
        with Image.open(io.BytesIO(content), formats=FORMATS) as image:
            image.load()
            upright = ImageOps.exif_transpose(image)
            upright.format = image.format  # which a copy forgets
            return upright
    except UnidentifiedImageError as error:
        raise DataError(f"{path} is no PNG or JPEG picture, or it is damaged at its beginning") from error
    except _DAMAGED as error:
        raise DataError(f"cannot use the picture {path}: {error}") from error


def _is_seen(image: Image.Image) -> np.ndarray:
    """Which pixels are not wholly transparent, bool (height, width)."""
    if not image.has_transparency_data:
        return np.ones((image.height, image.width), dtype=bool)
    if image.mode.startswith("I"):  # 16-bit grey, of which one value may be transparent; Pillow cannot convert it
        seen: np.ndarray = np.asarray(image) != image.info["transparency"]
    else:
        seen = np.asarray(image.convert("RGBA").getchannel("A")) > 0
    return seen


def _flat(image: Image.Image) -> Image.Image:
    """The picture without transparency: laid on white where it has any."""
    if not image.has_transparency_data:
        return image
    colours = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", colours.size, "white"), colours)
