"""The Gaussian filter against SciPy's."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.ndimage import gaussian_filter, gaussian_filter1d

from tailcut.channels.scoring.gaussian import MAX_SIGMA, gaussian_kernel, gaussian_matrix
from tailcut.errors import ArgumentError


@given(size=st.integers(1, 40), sigma=st.floats(0.01, 30.0))
def test_matrix_filters_as_scipy_does(size: int, sigma: float) -> None:
    signal = np.random.default_rng(size).normal(size=size)
    expected = gaussian_filter1d(signal, sigma)
    np.testing.assert_allclose(gaussian_matrix(size, sigma) @ signal, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("shape", [(32, 32), (7, 7), (2, 2), (1, 1), (5, 9)])
def test_two_axes_filter_as_scipy_does(shape: tuple[int, int]) -> None:
    image = np.random.default_rng(0).normal(size=shape)
    ours = gaussian_matrix(shape[0], 1.0) @ image @ gaussian_matrix(shape[1], 1.0).T
    np.testing.assert_allclose(ours, gaussian_filter(image, 1.0), rtol=0, atol=1e-14)


def test_kernel_is_equation_4_scaled_to_sum_1() -> None:
    kernel = gaussian_kernel(1.5)
    assert len(kernel) == 2 * 6 + 1
    assert kernel.sum() == pytest.approx(1, abs=1e-15)
    assert kernel[8] / kernel[6] == pytest.approx(np.exp(-(2**2) / (2 * 1.5**2)), rel=1e-14)
    assert (kernel == kernel[::-1]).all()


def test_a_constant_stays() -> None:
    np.testing.assert_allclose(gaussian_matrix(11, 3.0) @ np.full(11, 7.0), 7.0, rtol=1e-14)


@pytest.mark.parametrize("sigma", [0.0, -1.0, float("nan"), float("inf"), 2 * MAX_SIGMA])
def test_sigma_out_of_range(sigma: float) -> None:
    with pytest.raises(ArgumentError, match="gaussian_sigma must be above 0"):
        gaussian_kernel(sigma)
