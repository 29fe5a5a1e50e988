"""Block transforms against SciPy's DCT of each block."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.fft import dct
from scipy.ndimage import gaussian_filter1d

from tailcut.channels.scoring.blocks import Blocks, BlockTransform

PAPER = Blocks(4, None, is_orthonormal=False, filters_coefficients=False, leaves_ends_out=False)
PUBLISHED = Blocks(2, None, is_orthonormal=True, filters_coefficients=True, leaves_ends_out=True)


@given(size=st.integers(1, 30), block_size=st.integers(1, 12))
def test_axis_is_the_cosines_of_equation_6_in_each_block(size: int, block_size: int) -> None:
    signal = np.random.default_rng(size).normal(size=size)
    blocks = [signal[start : start + block_size] for start in range(0, size, block_size)]
    expected = np.concatenate(
        [
            [
                sum(x * np.cos(np.pi * u * (2 * n + 1) / (2 * len(block))) for n, x in enumerate(block))
                for u in range(len(block))
            ]
            for block in blocks
        ]
    )
    ours = Blocks(block_size, None, False, False, False).axis_matrix(size) @ signal
    np.testing.assert_allclose(ours, expected, rtol=0, atol=1e-12)


def test_smoothing_comes_first_and_crosses_blocks() -> None:
    signal = np.random.default_rng(0).normal(size=12)
    smooth = gaussian_filter1d(signal, 1.3)
    expected = np.concatenate([dct(smooth[start : start + 4]) / 2 for start in (0, 4, 8)])
    ours = Blocks(4, 1.3, False, False, False).axis_matrix(12) @ signal
    np.testing.assert_allclose(ours, expected, rtol=0, atol=1e-13)


def test_filtered_coefficients_stay_within_their_block() -> None:
    signal = np.random.default_rng(0).normal(size=7)
    expected = np.concatenate(
        [gaussian_filter1d(dct(signal[start : start + 2], norm="ortho"), 10) for start in (0, 2, 4)]
    )
    ours = Blocks(2, 10.0, True, True, True).axis_matrix(7) @ signal
    np.testing.assert_allclose(ours, expected, rtol=0, atol=1e-13)
    assert len(ours) == 6


def test_one_block_per_map() -> None:
    signal = np.random.default_rng(0).normal(size=9)
    ours = Blocks(None, None, False, False, False).axis_matrix(9) @ signal
    np.testing.assert_allclose(ours, dct(signal) / 2, rtol=0, atol=1e-13)


@pytest.mark.parametrize(
    "shape", [(1, 1), (2, 3), (10, 10), (11, 10), (5, 200), (32, 32), (33, 31), (64, 40), (101, 70)]
)
@pytest.mark.parametrize(
    "blocks", [PAPER, PUBLISHED, Blocks(4, 1.0, False, False, False), Blocks(None, 2.0, True, False, True)]
)
def test_maps_are_transformed_along_both_axes(shape: tuple[int, int], blocks: Blocks) -> None:
    maps = torch.randn(3, *shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    transform = BlockTransform(*shape, blocks, torch.float64, maps.device)
    rows, columns = (torch.from_numpy(blocks.axis_matrix(size)) for size in shape)
    expected = (rows @ maps @ columns.T).flatten(1)
    found = transform(maps)
    assert transform.num_coefficients == expected.shape[1]
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-11)
    assert found.data_ptr() != maps.data_ptr()


@pytest.mark.parametrize("blocks", [PAPER, PUBLISHED, Blocks(7, 3.0, False, False, True)])
def test_long_axes_take_no_memory_for_zeros(blocks: Blocks) -> None:
    """Positions of attention are maps of one row, (tokens x tokens) long: the whole matrix would take 12 GB."""
    signal = np.random.default_rng(0).normal(size=40_001)
    maps = torch.from_numpy(signal)[None, None]
    found = BlockTransform(1, len(signal), blocks, torch.float64, maps.device)(maps)[0]
    side = blocks.size or 1
    end = (len(signal) // side - 51) * side
    short = blocks.axis_matrix(len(signal) - end) @ signal[end:]
    left, rows = blocks.axis_rows(40_001, 20_000, 20_030)
    assert rows.nbytes < 1e6
    torch.testing.assert_close(found[20_000:20_030], torch.from_numpy(rows @ signal[left : left + rows.shape[1]]))
    torch.testing.assert_close(found[-100:], torch.from_numpy(short[-100:]))  # far from where the short one is cut
