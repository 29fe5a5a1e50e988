"""Two-scale chroma: the coefficients of a chroma plane enlarged by 2, then subsampled 4:2:0 as in JPEG.

The published pipeline gets chroma as fine as luma from an encoder that halves it: it enlarges the image by 2
(bilinear) and takes the chroma of the enlarged image. Enlarging puts 3/4 of a sample and 1/4 of its neighbour at
each new place, the encoder takes means of 2 x 2 of these. Together: each sample becomes 1/8, 3/4, 1/8 of itself and its
neighbours along each axis, the image repeated at its edges. So nothing need be enlarged; and the cosines of a
DCT-II are eigenvectors of this smoothing, so that it can be undone exactly.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import pad

from tailcut.transform.block import BLOCK_SIZE, block_filters
from tailcut.transform.dct import dct, idct

CENTRE, NEIGHBOUR = 3 / 4, 1 / 8


def smoothed_filters(indices: Sequence[int]) -> Tensor:
    """Return filters that smooth a plane and compute chosen coefficients of its blocks.

    They are those of `block_filters`, one sample wider.

    Args:
        indices: row-major frequencies, 0 to 63.

    Returns:
        float64 (n, 1, 10, 10) on the CPU, for `conv2d` with stride 8 on planes with one more sample on each side, which
        repeats the last.
    """
    filters = block_filters(BLOCK_SIZE, indices, dtype=torch.float64)
    for axis in (-2, -1):
        rows = pad(filters.movedim(axis, -1), (0, 2))
        # The two new places at the end are zero, so that rolling shifts.
        smoothed = NEIGHBOUR * rows + CENTRE * rows.roll(1, -1) + NEIGHBOUR * rows.roll(2, -1)
        filters = smoothed.movedim(-1, axis)
    return filters


def unsmooth(planes: Tensor) -> Tensor:
    """Undo the smoothing of planes of samples (..., height, width). Differentiable, same type."""
    for axis in (-2, -1):
        size = planes.shape[axis]
        angles = torch.arange(size, dtype=torch.float64, device="cpu") * (math.pi / size)
        factors = (CENTRE + 2 * NEIGHBOUR * angles.cos()).to(device=planes.device, dtype=planes.dtype)
        spectrum = dct(planes, (axis,)).movedim(axis, -1) / factors
        planes = idct(spectrum.movedim(-1, axis), (axis,))
    return planes
