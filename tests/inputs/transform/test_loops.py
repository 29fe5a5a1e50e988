"""The loops by themselves; what they are put together to is tested in test_compiled.py."""

import numpy as np
import pytest
from scipy.fft import dctn

pytest.importorskip("numba")

from tailcut.inputs.transform import loops


def test_pixels_of_one_colour_give_the_dct_of_blocks() -> None:
    """Red counts once, the others not at all: the coefficients are those of SciPy."""
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (3, 16, 24), dtype=np.uint8)
    basis = dctn(np.eye(8), axes=(0,), norm="ortho")
    indices = [(0, 0), (3, 5), (7, 7)]
    horizontal = np.zeros((3, loops.NUM_AROUND), np.float32)
    for channel, (_, u) in enumerate(indices):
        horizontal[channel, :8] = basis[u]
    result = np.empty((3, 2, 3), np.float32)
    loops.transform_pixels(
        pixels,
        basis.astype(np.float32),
        np.zeros((0, loops.AROUND), np.float32),
        np.array([v for v, _ in indices]),
        horizontal,
        np.array([0.5, 0, -1], np.float32),
        result,
    )
    blocks = dctn(pixels[0].astype(float).reshape(2, 8, 3, 8).swapaxes(1, 2), axes=(-2, -1), norm="ortho")
    expected = np.stack([blocks[..., v, u] for v, u in indices]) + np.array([0.5, 0, -1])[:, None, None]
    np.testing.assert_allclose(result, expected, atol=1e-3)


def test_rows_around_a_block_repeat_at_the_edges() -> None:
    """Sums of the 10 x 10 pixels around each block."""
    pixels = np.random.default_rng(1).integers(0, 256, (3, 16, 16), dtype=np.uint8)
    result = np.empty((1, 2, 2), np.float32)
    ones = np.zeros((1, loops.NUM_AROUND), np.float32)
    ones[0, : 3 * loops.AROUND] = 1
    around = np.ones((1, loops.AROUND), np.float32)
    loops.transform_pixels(
        pixels, np.zeros((0, 8), np.float32), around, np.array([0]), ones, np.zeros(1, np.float32), result
    )
    padded = np.pad(pixels.astype(float), ((0, 0), (1, 1), (1, 1)), mode="edge")
    expected = [[padded[:, y : y + 10, x : x + 10].sum() for x in (0, 8)] for y in (0, 8)]
    np.testing.assert_allclose(result[0], expected, rtol=1e-6)


def test_frequencies_are_scaled_and_shifted() -> None:
    plane = np.random.default_rng(2).normal(size=(3, 4, 64)).astype(np.float32)
    result = np.empty((2, 2, 3), np.float32)
    scale, shift = np.array([2, -1], np.float32), np.array([0, 5], np.float32)
    loops.select_frequencies(plane.ravel(), 4 * 64, np.array([9, 63]), scale, shift, result)
    np.testing.assert_allclose(result[0], 2 * plane[:2, :3, 9], rtol=1e-6)
    np.testing.assert_allclose(result[1], 5 - plane[:2, :3, 63], rtol=1e-6)


@pytest.mark.parametrize("grid", [(1, 1), (1, 3), (2, 1), (3, 4)])
def test_neighbours_are_left_out_at_the_edges(grid: tuple[int, int]) -> None:
    """Maps that take one number from each place; the sum over the neighbours that are there, by hand."""
    plane = np.random.default_rng(3).normal(size=(*grid, 8, 8)).astype(np.float32)
    # From the block before, the block itself and the one behind: (v, u) = (1, 2), (0, 0) and (5, 7), with weights.
    places = [(1, 2), (0, 0), (5, 7)]
    vertical, horizontal = np.zeros((4, 2, 1, 24), np.float32), np.zeros((4, 1, 3, 24), np.float32)
    for kind in range(4):
        for d in range(3):
            is_missing = (kind % 2, 0, kind // 2)[d]
            if not is_missing:
                vertical[kind, :, 0, 8 * d + places[d][0]] = (d + 1, -d - 1)
                horizontal[kind, 0, :, 8 * d + places[d][1]] = (1, 10 * d, -1)
    result = np.empty((1, 2 * grid[0], 3 * grid[1]), np.float32)
    numbers, shift = plane.ravel(), np.full(1, 0.25, np.float32)
    loops.upsample_frequencies(numbers, 64 * grid[1], grid, vertical, horizontal, np.array([0]), shift, result)
    for y in range(2 * grid[0]):
        for x in range(3 * grid[1]):
            total = 0.25
            for d in range(3):
                for e in range(3):
                    i, b = y // 2 + d - 1, x // 3 + e - 1
                    if 0 <= i < grid[0] and 0 <= b < grid[1]:
                        weight = (d + 1, -d - 1)[y % 2] * (1, 10 * e, -1)[x % 3]
                        total += weight * float(plane[i, b, places[d][0], places[e][1]])
            assert result[0, y, x] == pytest.approx(total, abs=1e-4)
