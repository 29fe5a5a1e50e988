"""Images at another size, and which part of them is shown."""

import math
from collections.abc import Callable, Sequence

from torch import Tensor
from torch.nn.functional import interpolate

# Random parts: of an image's area, and their width over their height.
AREA_RATIOS, ASPECT_RATIOS, MAX_TRIES = (0.08, 1.0), (3 / 4, 4 / 3), 10

Region = tuple[int, int, int, int]
"""Top row, left column, number of rows, number of columns."""


def random_region(height: int, width: int, draw: Callable[[], Sequence[float]]) -> Region:
    """Return a random part of an image.

    It has 8 % to 100 % of the area, evenly drawn, and is 3/4 to 4/3 times as wide as high, by an evenly drawn
    logarithm; after ten parts that do not fit, the middle (as torchvision's `RandomResizedCrop`).

    Args:
        height: of the image.
        width: likewise.
        draw: gives four random numbers of 0..1, without 1.
    """
    low, high = (math.log(ratio) for ratio in ASPECT_RATIOS)
    for _ in range(MAX_TRIES):
        drawn = draw()
        area = height * width * (AREA_RATIOS[0] + drawn[0] * (AREA_RATIOS[1] - AREA_RATIOS[0]))
        aspect = math.exp(low + drawn[1] * (high - low))
        rows, columns = round(math.sqrt(area / aspect)), round(math.sqrt(area * aspect))
        if 1 <= rows <= height and 1 <= columns <= width:
            return int(drawn[2] * (height - rows + 1)), int(drawn[3] * (width - columns + 1)), rows, columns
    rows, columns = min(height, round(width / ASPECT_RATIOS[0])), min(width, round(height * ASPECT_RATIOS[1]))
    return (height - rows) // 2, (width - columns) // 2, rows, columns


def resized(images: Tensor, height: int, width: int) -> Tensor:
    """Resize images (n, channels, height, width), bilinear with antialiasing; bytes to whole grey levels."""
    if images.shape[-2:] == (height, width):
        return images
    # Of bytes torch gives wrong columns, or none, where the result is one pixel wide.
    in_float = width == 1 and not images.is_floating_point()
    source = images.float() if in_float else images
    found: Tensor = interpolate(source, (height, width), mode="bilinear", antialias=True)
    return found.round().to(images.dtype) if in_float else found
