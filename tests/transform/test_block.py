import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.fft import dctn, idctn
from torch import Tensor
from torch.nn.functional import conv2d

from tailcut.errors import ArgumentError
from tailcut.transform.block import (
    MAX_JOINED_SIDE,
    block_dct,
    block_filters,
    block_idct,
    from_channels,
    to_channels,
    zigzag_order,
)

# Table K.1 / figure A.6 of ITU-T T.81, as libjpeg writes it down: the row-major index of the i-th coefficient.
LIBJPEG_ZIGZAG = [
    *(0, 1, 8, 16, 9, 2, 3, 10, 17, 24, 32, 25, 18, 11, 4, 5),
    *(12, 19, 26, 33, 40, 48, 41, 34, 27, 20, 13, 6, 7, 14, 21, 28),
    *(35, 42, 49, 56, 57, 50, 43, 36, 29, 22, 15, 23, 30, 37, 44, 51),
    *(58, 59, 52, 45, 38, 31, 39, 46, 53, 60, 61, 54, 47, 55, 62, 63),
]


def noise(*shape: int, dtype: torch.dtype = torch.float64, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def by_scipy(maps: Tensor, size: int) -> np.ndarray:
    """Block after block, (..., blocks_h, blocks_w, size, size)."""
    height, width = maps.shape[-2:]
    flat = maps.double().reshape(-1, height, width).numpy()
    blocks = [
        [
            [dctn(one[top : top + size, left : left + size], norm="ortho") for left in range(0, width, size)]
            for top in range(0, height, size)
        ]
        for one in flat
    ]
    return np.array(blocks).reshape(*maps.shape[:-2], height // size, width // size, size, size)


@given(
    size=st.integers(1, MAX_JOINED_SIDE + 3),
    blocks=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    lead=st.lists(st.integers(1, 2), max_size=2),
    dtype=st.sampled_from([torch.float64, torch.float32]),
)
def test_each_block_like_scipy(size: int, blocks: tuple[int, int], lead: list[int], dtype: torch.dtype) -> None:
    maps = noise(*lead, size * blocks[0], size * blocks[1], dtype=dtype)
    result = block_dct(maps, size)
    assert result.dtype == dtype
    tolerance = 1e-12 if dtype == torch.float64 else 1e-4
    np.testing.assert_allclose(result.numpy(), by_scipy(maps, size), rtol=0, atol=tolerance)
    torch.testing.assert_close(block_idct(result), maps, rtol=0, atol=tolerance)
    if size > 1:
        assert torch.equal(from_channels(to_channels(result)), result)


@pytest.mark.parametrize("size", [4, 8, 12])
def test_inverse_like_scipy(size: int) -> None:
    blocks = noise(2, 3, size, size)
    expected = idctn(blocks.numpy(), axes=(-2, -1), norm="ortho").transpose(0, 2, 1, 3).reshape(2 * size, 3 * size)
    np.testing.assert_allclose(block_idct(blocks).numpy(), expected, rtol=0, atol=1e-12)


def test_axes_are_v_then_u() -> None:
    """A map that changes from left to right has horizontal frequencies only."""
    ramp = torch.arange(8.0).expand(8, 8)
    block = block_dct(ramp)[0, 0]
    assert block[0, 1].abs() > 10
    assert block[1:].abs().max() < 1e-4
    assert to_channels(block_dct(ramp))[1, 0, 0] == block[0, 1]
    assert to_channels(block_dct(ramp.T))[8, 0, 0] == pytest.approx(float(block[0, 1]), rel=1e-6)


@pytest.mark.parametrize("size", [2, 8, 16])
def test_filters_compute_the_chosen_channels_only(size: int) -> None:
    maps = noise(3, 1, 4 * size, 3 * size)
    indices = [0, size * size - 1, size, 1]
    filters = block_filters(size, indices, dtype=torch.float64)
    assert filters.shape == (4, 1, size, size)
    expected = to_channels(block_dct(maps, size))[:, 0, indices]
    torch.testing.assert_close(conv2d(maps, filters, stride=size), expected, rtol=0, atol=1e-12)
    torch.testing.assert_close(filters.square().sum((1, 2, 3)), torch.ones(4, dtype=torch.float64))


def test_filters_of_nothing() -> None:
    assert block_filters(8, []).shape == (0, 1, 8, 8)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("size", [4, 12])
def test_half_precision_is_computed_in_float32_and_autocast_does_not_round(dtype: torch.dtype, size: int) -> None:
    maps = noise(2 * size, size, dtype=dtype)
    assert torch.equal(block_dct(maps, size), block_dct(maps.float(), size).to(dtype))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rounded = block_dct(maps.float(), size)
        back = block_idct(rounded)
    assert torch.equal(rounded, block_dct(maps.float(), size))
    assert torch.equal(back, block_idct(rounded))


@pytest.mark.parametrize("size", [2, 9])
def test_gradcheck(size: int) -> None:
    maps = noise(2, size, 2 * size).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: block_dct(x, size), (maps,))
    assert torch.autograd.gradcheck(block_idct, (block_dct(maps, size).detach().requires_grad_(),))


def test_meta_empty_and_strided_maps() -> None:
    assert block_dct(torch.empty(2, 16, 8, device="meta")).shape == (2, 2, 1, 8, 8)
    assert block_dct(torch.empty(0, 8, 8)).shape == (0, 1, 1, 8, 8)
    maps = noise(16, 24)
    torch.testing.assert_close(block_dct(maps.T), block_dct(maps.T.contiguous()), rtol=0, atol=0)


def test_zigzag_is_libjpegs() -> None:
    assert zigzag_order().tolist() == LIBJPEG_ZIGZAG


@pytest.mark.parametrize("size", range(1, 12))
def test_zigzag_steps_to_a_neighbour(size: int) -> None:
    order = zigzag_order(size).tolist()
    assert sorted(order) == list(range(size * size))
    places = np.array([divmod(index, size) for index in order])
    assert np.abs(np.diff(places, axis=0)).max(initial=0) <= 1


@pytest.mark.parametrize(
    ("shape", "size", "message"),
    [
        ((8,), 8, r"expected maps \(..., height, width\), got shape \(8,\)"),
        ((8, 12), 8, r"multiples of the block size 8, got 8 x 12; pad them first"),
        ((9, 8), 8, r"got 9 x 8"),
        ((8, 8), 0, "expected a block size of at least 1, got 0"),
    ],
)
def test_maps_that_do_not_fit(shape: tuple[int, ...], size: int, message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        block_dct(torch.zeros(shape), size)


def test_other_bad_input() -> None:
    with pytest.raises(ArgumentError, match=r"expected a floating-point tensor to transform, got torch\.int64"):
        block_dct(torch.zeros(8, 8, dtype=torch.int64))
    for function in (block_idct, to_channels):
        for blocks in (torch.zeros(8, 8, 8), torch.zeros(1, 1, 8, 7)):
            with pytest.raises(ArgumentError, match="as many v as u, got shape"):
                function(blocks)
    for channels in (torch.zeros(63, 2, 2), torch.zeros(4, 4), torch.zeros(0, 1, 1)):
        with pytest.raises(ArgumentError, match="one per frequency, got shape"):
            from_channels(channels)
    for index in (-1, 64):
        with pytest.raises(ArgumentError, match="expected frequencies 0 to 63"):
            block_filters(8, [0, index])
    with pytest.raises(ArgumentError, match="block size"):
        zigzag_order(0)
