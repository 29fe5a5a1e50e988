"""The blocks that rounding with error feedback works on, against NumPy."""

import numpy as np
import torch

from tailcut.format.sensitivity import block_of


def test_upper_factor_of_the_inverse() -> None:
    half = torch.randn(12, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    curvature = half.T @ half + torch.eye(5, dtype=torch.float64)
    upper = block_of(("weight",), curvature).upper.double().numpy()
    assert np.array_equal(upper, np.triu(upper))
    np.testing.assert_allclose(upper.T @ upper, np.linalg.inv(curvature.numpy()), rtol=1e-5, atol=1e-7)
