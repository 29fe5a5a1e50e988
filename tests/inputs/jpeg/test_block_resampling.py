"""The oracle is always the same: samples by SciPy's inverse DCT, the operation on samples, SciPy's DCT."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.fft import dctn, idctn
from scipy.ndimage import convolve1d
from torch.nn.functional import interpolate

from tailcut.errors import ArgumentError
from tailcut.inputs.jpeg.block_resampling import crop_blocks, downsample_blocks, upsample_blocks, upsampled_channels
from tailcut.transform.block import to_channels

FACTORS = st.tuples(st.integers(1, 8), st.integers(1, 8))
GRIDS = st.tuples(st.integers(1, 4), st.integers(1, 4))


def random_plane(*shape: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, 8, 8, dtype=torch.float64, generator=generator)


def samples_of(plane: torch.Tensor) -> np.ndarray:
    blocks = idctn(plane.numpy(), axes=(-2, -1), norm="ortho")
    rows, columns = plane.shape[-4:-2]
    samples: np.ndarray = blocks.swapaxes(-3, -2).reshape(*plane.shape[:-4], 8 * rows, 8 * columns)
    return samples


def blocks_of(samples: np.ndarray) -> np.ndarray:
    rows, columns = (side // 8 for side in samples.shape[-2:])
    blocks = samples.reshape(*samples.shape[:-2], rows, 8, columns, 8).swapaxes(-3, -2)
    coefficients: np.ndarray = dctn(blocks, axes=(-2, -1), norm="ortho")
    return coefficients


@given(FACTORS, GRIDS)
def test_linear_upsampling_is_bilinear(factors: tuple[int, int], grid: tuple[int, int]) -> None:
    plane = random_plane(2, *grid)
    larger = interpolate(torch.from_numpy(samples_of(plane))[None], scale_factor=factors, mode="bilinear")[0]
    np.testing.assert_allclose(upsample_blocks(plane, *factors).numpy(), blocks_of(larger.numpy()), atol=1e-12)


@given(FACTORS, GRIDS)
def test_nearest_upsampling_repeats_samples(factors: tuple[int, int], grid: tuple[int, int]) -> None:
    plane = random_plane(*grid)
    larger = samples_of(plane).repeat(factors[0], -2).repeat(factors[1], -1)
    upsampled = upsample_blocks(plane, *factors, method="nearest")
    np.testing.assert_allclose(upsampled.numpy(), blocks_of(larger), atol=1e-12)


@given(FACTORS, GRIDS, st.booleans(), st.lists(st.integers(0, 63), min_size=1, max_size=6))
def test_chosen_channels_are_those_of_the_whole(
    factors: tuple[int, int], grid: tuple[int, int], smooth: bool, indices: list[int]
) -> None:
    plane = random_plane(2, *grid)
    samples = samples_of(upsample_blocks(plane, *factors))
    for axis in (-2, -1) if smooth else ():
        samples = convolve1d(samples, [1 / 8, 3 / 4, 1 / 8], axis, mode="nearest")
    expected = to_channels(torch.from_numpy(blocks_of(samples)))[..., indices, :, :]
    channels = upsampled_channels(plane, indices, *factors, smooth=smooth)
    np.testing.assert_allclose(channels.numpy(), expected.numpy(), atol=1e-12)


@given(FACTORS, GRIDS)
def test_downsampling_takes_means(factors: tuple[int, int], grid: tuple[int, int]) -> None:
    plane = random_plane(2, *grid)
    samples = samples_of(plane)
    lacking = [-8 * blocks % (8 * factor) for blocks, factor in zip(grid, factors, strict=True)]
    samples = np.pad(samples, ((0, 0), (0, lacking[0]), (0, lacking[1])), mode="edge")
    height, width = (side // factor for side, factor in zip(samples.shape[-2:], factors, strict=True))
    means = samples.reshape(2, height, factors[0], width, factors[1]).mean((2, 4))
    np.testing.assert_allclose(downsample_blocks(plane, *factors).numpy(), blocks_of(means), atol=1e-12)


@given(FACTORS, GRIDS)
def test_downsampling_undoes_nearest_upsampling(factors: tuple[int, int], grid: tuple[int, int]) -> None:
    plane = random_plane(*grid)
    back = downsample_blocks(upsample_blocks(plane, *factors, method="nearest"), *factors)
    np.testing.assert_allclose(back.numpy(), plane.numpy(), atol=1e-12)


@given(st.data())
def test_recutting_is_a_part_of_the_samples(data: st.DataObject) -> None:
    grid = data.draw(GRIDS)
    plane = random_plane(*grid)
    top, left = (data.draw(st.integers(0, 8 * blocks - 1)) for blocks in grid)
    height, width = data.draw(st.integers(1, 8 * grid[0] - top)), data.draw(st.integers(1, 8 * grid[1] - left))
    part = samples_of(plane)[top : top + height, left : left + width]
    part = np.pad(part, ((0, -height % 8), (0, -width % 8)), mode="edge")
    np.testing.assert_allclose(crop_blocks(plane, top, left, height, width).numpy(), blocks_of(part), atol=1e-12)


def test_types_are_kept_and_gradients_flow() -> None:
    plane = random_plane(2, 3).float().requires_grad_()
    results = [
        upsample_blocks(plane),
        downsample_blocks(plane),
        crop_blocks(plane, 3, 1, 9, 9),
        upsampled_channels(plane, [0, 9], smooth=True),
    ]
    assert {result.dtype for result in results} == {torch.float32}
    for result in results:
        (gradient,) = torch.autograd.grad(result.square().sum(), plane)
        assert gradient.abs().sum() > 0


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda plane: upsample_blocks(plane, 0, 2), "factors must be 1 to 8, got 0 and 2"),
        (lambda plane: downsample_blocks(plane, 2, 9), "factors must be 1 to 8, got 2 and 9"),
        (
            lambda plane: upsample_blocks(plane, method="cubic"),  # type: ignore[arg-type]
            "method must be 'linear' or 'nearest', got 'cubic'",
        ),
        (lambda plane: upsample_blocks(plane.long()), "floating-point plane"),
        (lambda plane: upsample_blocks(plane[0]), r"got torch.float64 \(3, 8, 8\)"),
        (lambda plane: downsample_blocks(plane[..., :4]), "floating-point plane"),
        (lambda plane: upsample_blocks(plane[:0]), "at least one block"),
        (lambda plane: upsampled_channels(plane, []), "at least one, got"),
        (lambda plane: upsampled_channels(plane, [64]), r"frequencies 0 to 63.*\[64\]"),
        (lambda plane: crop_blocks(plane, 0, 0, 17, 1), "part of the plane's 16 x 24 samples, got 17 x 1"),
        (lambda plane: crop_blocks(plane, 0, -1, 4, 4), "at row 0, column -1"),
        (lambda plane: crop_blocks(plane, 0, 0, 0, 4), "got 0 x 4"),
    ],
)
def test_bad_arguments(call: object, message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        call(random_plane(2, 3))  # type: ignore[operator]
