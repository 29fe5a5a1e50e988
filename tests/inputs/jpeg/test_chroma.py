import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.functional import avg_pool2d, conv2d, interpolate, pad

from tailcut.inputs.jpeg.chroma import smoothed_filters, unsmooth
from tailcut.transform.block import block_dct, to_channels


def noise(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)), dtype=torch.float64)


def enlarged_and_subsampled(planes: Tensor) -> Tensor:
    """The published way: bilinear x 2, then the means of 2 x 2 that a JPEG encoder takes for 4:2:0."""
    flat = planes.reshape(1, -1, *planes.shape[-2:])
    return avg_pool2d(interpolate(flat, scale_factor=2, mode="bilinear"), 2).reshape(planes.shape)


@given(
    blocks=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    indices=st.lists(st.integers(0, 63), unique=True, min_size=1, max_size=5),
)
def test_filters_smooth_as_the_published_way(blocks: tuple[int, int], indices: list[int]) -> None:
    planes = noise(2, 1, 8 * blocks[0], 8 * blocks[1])
    expected = to_channels(block_dct(enlarged_and_subsampled(planes)))[:, 0, indices]
    filters = smoothed_filters(indices)
    assert filters.shape == (len(indices), 1, 10, 10)
    found = conv2d(pad(planes, (1, 1, 1, 1), mode="replicate"), filters, stride=8)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)


def test_filters_of_nothing() -> None:
    assert smoothed_filters(()).shape == (0, 1, 10, 10)


@given(size=st.tuples(st.integers(1, 20), st.integers(1, 20)))
def test_unsmooth_is_the_inverse_at_any_size(size: tuple[int, int]) -> None:
    planes = noise(2, *size)
    torch.testing.assert_close(unsmooth(enlarged_and_subsampled(planes)), planes, rtol=0, atol=1e-12)
    torch.testing.assert_close(enlarged_and_subsampled(unsmooth(planes)), planes, rtol=0, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_types_are_kept(dtype: torch.dtype) -> None:
    assert unsmooth(torch.zeros(3, 4, dtype=dtype)).dtype == dtype
