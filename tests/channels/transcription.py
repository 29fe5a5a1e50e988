"""The scores of one map written down from the formulas with SciPy, block by block: the oracle of the tests."""

import numpy as np
from scipy.fft import dctn
from scipy.ndimage import gaussian_filter

Parts = tuple[float, float, float]


def paper(feature_map: np.ndarray, block_size: int | str = 4, sigma: float | None = 1.0) -> Parts:
    """`spectral`, `dist` and `spatial` by equations 4 to 10."""
    height, width = feature_map.shape
    smooth = feature_map if sigma is None else gaussian_filter(feature_map, sigma)
    side = max(height, width) if isinstance(block_size, str) else block_size
    coefficients = np.zeros_like(feature_map)
    for top in range(0, height, side):
        for left in range(0, width, side):
            block = smooth[top : top + side, left : left + side]
            # SciPy's unnormalised DCT-II has a factor 2 per axis, equation 6 has none.
            coefficients[top : top + side, left : left + side] = dctn(block, type=2) / 4
    dist = np.mean(coefficients >= coefficients.mean())
    return float(np.sqrt(np.sum(coefficients**2))), float(dist), float(np.sqrt(np.sum(feature_map**2)))


def published(feature_map: np.ndarray, block_size: int | str = 2, sigma: float | None = 10.0) -> Parts:
    """`spectral`, `dist` and `spatial` as the authors compute them, of a square map."""
    size = len(feature_map)
    side = size if isinstance(block_size, str) else min(block_size, size)
    coefficients = np.zeros_like(feature_map)
    for row in range(size // side):
        for column in range(size // side):
            place = np.s_[side * row : side * row + side, side * column : side * column + side]
            block = dctn(feature_map[place], norm="ortho")
            coefficients[place] = block if sigma is None else gaussian_filter(block, sigma=sigma)
    dist = np.sum(coefficients > np.mean(coefficients)) / size**2
    return float(np.linalg.norm(coefficients)), float(dist), float(np.linalg.norm(feature_map))


TRANSCRIPTIONS = {"paper": paper, "published": published}
