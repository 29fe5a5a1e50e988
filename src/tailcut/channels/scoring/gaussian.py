"""Gaussian filter of equation 4 as a matrix, so that smoothing and transform are one product."""

import numpy as np

from tailcut.errors import ArgumentError

# As SciPy's gaussian_filter: the kernel ends after this many sigma.
TRUNCATE = 4.0
MAX_SIGMA = 1000.0


def gaussian_kernel(sigma: float) -> np.ndarray:
    """Return the samples of equation 4 along one axis, cut off and scaled to sum 1.

    Args:
        sigma: standard deviation in pixels, above 0, at most 1,000.

    Returns:
        float64 (2 radius + 1,), radius = int(4 sigma + 0.5): the kernel of `scipy.ndimage.gaussian_filter`.

    Raises:
        ArgumentError: sigma is out of range.
    """
    if not 0 < sigma <= MAX_SIGMA:
        raise ArgumentError(
            f"gaussian_sigma must be above 0 and at most {MAX_SIGMA:g}, or None for no filter; got {sigma}"
        )
    radius = int(TRUNCATE * sigma + 0.5)
    distance = np.arange(-radius, radius + 1)
    with np.errstate(under="ignore"):
        kernel = np.exp(-0.5 * (distance / sigma) ** 2)
    normalized: np.ndarray = kernel / kernel.sum()
    return normalized


def gaussian_matrix(size: int, sigma: float) -> np.ndarray:
    """Return the matrix that filters an axis: `matrix @ signal` is `scipy.ndimage.gaussian_filter1d(signal, sigma)`.

    Beyond its ends the signal is mirrored, with the pixel at the end repeated (SciPy's mode `reflect`, its
    default), as often as the kernel is longer than the axis.

    Args:
        size: length of the axis, at least 1.
        sigma: see `gaussian_kernel`.

    Returns:
        float64 (size, size); each row sums to 1.
    """
    return gaussian_rows(size, sigma, 0, size)[1]


def gaussian_rows(size: int, sigma: float, first: int, last: int) -> tuple[int, np.ndarray]:
    """Return rows of `gaussian_matrix` without the columns at both ends in which they are all zero.

    Args:
        size: length of the axis.
        sigma: see `gaussian_kernel`.
        first: of the rows.
        last: behind the last row.

    Returns:
        The first column that is there, and the rows, float64 (last - first, columns).
    """
    kernel = gaussian_kernel(sigma)
    radius = len(kernel) // 2
    pixels = np.arange(first, last)
    reached = (pixels[:, None] + np.arange(-radius, radius + 1)) % (2 * size)
    reached = np.where(reached < size, reached, 2 * size - 1 - reached)
    left = int(reached.min())
    rows = np.zeros((len(pixels), int(reached.max()) + 1 - left))
    np.add.at(rows, (pixels[:, None] - first, reached - left), np.broadcast_to(kernel, reached.shape))
    return left, rows
