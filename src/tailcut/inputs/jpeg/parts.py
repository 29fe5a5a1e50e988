"""Parts of a JPEG image at a wanted size, cut and resized on its DCT blocks: the middle, or a random one."""

import math

import torch

from tailcut.errors import ArgumentError
from tailcut.inputs.jpeg.augmentation import crop, double_size, halve_size
from tailcut.inputs.jpeg.coefficients import JpegCoefficients
from tailcut.transform.block import BLOCK_SIZE

# Parts begin and end at multiples of it, in pixels: a block of half-size chroma.
UNIT = 2 * BLOCK_SIZE


def check_part_size(size: tuple[int, int]) -> None:
    """Raise `ArgumentError` unless (height, width) is possible for `resized_part`."""
    if any(side < UNIT or side % UNIT for side in size):
        raise ArgumentError(f"the size of stored coefficients must be positive multiples of {UNIT}, got {size}")


def resized_part(
    image: JpegCoefficients, size: tuple[int, int], *, random: bool = False, noise: torch.Generator | None = None
) -> JpegCoefficients:
    """Return a part of an image, halved or doubled to the wanted size, without decoding it.

    The part begins at a multiple of 16 pixels and has 1, 2, 4, ... times `size`, the largest that fits, and is halved
    as often; an image smaller than `size` is doubled. So between half of an image and all of it is shown along its
    shorter side.

    Args:
        image: it is not changed.
        size: (height, width) in pixels, multiples of 16.
        random: a random part of that size in place of the middle.
        noise: gives the random numbers; torch's global generator when None.

    Raises:
        ArgumentError: `size` is not such.
    """
    check_part_size(size)
    scale = min(side / wanted for side, wanted in zip(image.size, size, strict=True))
    num_halvings = math.floor(math.log2(scale))  # or doublings, below 0
    # What is not shown is not resized.
    image = _part(image, size, 2.0**num_halvings, random, noise)
    for _ in range(num_halvings):
        image = halve_size(image)
    for _ in range(-num_halvings):
        image = double_size(image)
    return _part(image, size, 1, random, noise) if num_halvings < 0 else image


def _part(
    image: JpegCoefficients, size: tuple[int, int], factor: float, random: bool, noise: torch.Generator | None
) -> JpegCoefficients:
    """Return the central or a random part of `factor` times `size`, extended to whole blocks inside the image."""
    sides = [min(side, math.ceil(factor * wanted / UNIT) * UNIT) for side, wanted in zip(image.size, size, strict=True)]
    starts = []
    for whole, side in zip(image.size, sides, strict=True):
        num_steps = (whole - side) // UNIT
        start = int(torch.randint(num_steps + 1, (), generator=noise, device="cpu")) if random else num_steps // 2
        starts.append(UNIT * start)
    return crop(image, starts[0], starts[1], sides[0], sides[1])
