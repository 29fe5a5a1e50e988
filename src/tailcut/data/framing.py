"""Resized and cropped images: the whole squashed, the middle, or a random part to train on."""

from functools import partial

import torch
from torch import Tensor

from tailcut.errors import ArgumentError, DataError
from tailcut.transform.resizing import random_region, resized

MAX_SIDE = 4096
MAX_RESIZED_PIXELS = 1 << 26  # of an image that is resized before its middle is cut out
# A side, for the whole image squashed to a square; or the shorter side to resize to, and the side of the middle.
Framing = int | tuple[int, int]


def check_framing(framing: Framing) -> None:
    """Raise unless the wanted size of images, in pixels, is possible.

    Raises:
        ArgumentError: a side is not 1 to 4096, or the middle is larger than the image.
    """
    sides = (framing,) if isinstance(framing, int) else framing
    for side in sides:
        if not 1 <= side <= MAX_SIDE:
            raise ArgumentError(f"the size of images must be 1 to {MAX_SIDE}, got {side}")
    if sides[-1] > sides[0]:
        raise ArgumentError(f"a middle of {sides[-1]} pixels does not fit into images whose shorter side is {sides[0]}")


def side_of(framing: Framing) -> int:
    """Return the height and width of the images that come out."""
    return framing if isinstance(framing, int) else framing[1]


def shorter_side_of(framing: Framing) -> int | None:
    """Return what the shorter side is resized to before the middle is cut out; None where images are squashed."""
    return None if isinstance(framing, int) else framing[0]


def named(framing: Framing) -> str:
    """Return the framing as it stands behind `@` in the name of a data set."""
    return f"{framing}" if isinstance(framing, int) else f"{framing[0]}/{framing[1]}"


def framed(images: Tensor, framing: Framing) -> Tensor:
    """Resize images (n, channels, height, width) to (n, channels, side, side), bilinear with antialiasing.

    For a side they are squashed. For a pair their shorter side is resized to the first number and the middle of the
    second is cut out, as torchvision's `Resize` and `CenterCrop` do. Bytes are rounded to whole grey levels.
    """
    side = side_of(framing)
    if isinstance(framing, int):
        return resized(images, side, side)
    height, width = images.shape[-2:]
    shorter = framing[0]
    longer = int(shorter * max(height, width) / min(height, width))
    rows, columns = (shorter, longer) if height <= width else (longer, shorter)
    if rows * columns > MAX_RESIZED_PIXELS:  # of a strip, one pixel high
        raise DataError(
            f"an image of {height} x {width} pixels, resized to {rows} x {columns} before the middle is cut out, has "
            f"more than {MAX_RESIZED_PIXELS:,} pixels: take the image out, or give one side, @{side}, which squashes "
            "images"
        )
    images = resized(images, rows, columns)
    top, left = round((rows - side) / 2), round((columns - side) / 2)
    return images[..., top : top + side, left : left + side]


def random_part(image: Tensor, side: int, noise: torch.Generator) -> Tensor:
    """Cut a random part out of an image (channels, height, width) and resize it to (channels, side, side).

    See `random_region`; four numbers are drawn for each part that is tried.
    """
    height, width = image.shape[-2:]
    draw = partial(torch.rand, 4, generator=noise, dtype=torch.float64)
    top, left, rows, columns = random_region(height, width, lambda: draw().tolist())
    return resized(image[None, :, top : top + rows, left : left + columns], side, side)[0]
