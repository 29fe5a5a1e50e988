import numpy as np
import pytest

pytest.importorskip("numba")

from tailcut.execution import compiled, loops


def test_sizes_agree_with_those_of_the_callers() -> None:
    assert (loops.STRIP, loops.BLOCK) == (compiled.STRIP, compiled.BLOCK)


def test_a_range_of_positions_is_added_and_the_rest_left() -> None:
    rng = np.random.default_rng(0)
    source, matrix, projection = rng.normal(size=(3, 40)), rng.normal(size=(4, 3)), rng.normal(size=(2, 4))
    result = np.ones((2, 40))
    loops.project_strips(source, 1, matrix, np.zeros(4), 0.0, np.inf, projection, result, 10, 30)
    expected = np.ones((2, 40))
    expected[:, 10:30] += projection @ np.maximum(matrix @ source[:, 10:30], 0)
    np.testing.assert_allclose(result, expected)


def test_rows_of_a_convolution() -> None:
    source = np.arange(2 * 1 * 5 * 6, dtype=np.float64).reshape(2, 1, 5, 6)
    result = np.zeros((1, 1, 5, 6))
    loops.correlate_rows(source, np.ones((1, 2, 1, 1)), 0, 0, 1, 1, result, 1, 3)
    assert (result[0, 0, 1:3] == source.sum(0)[0, 1:3]).all()
    assert (result[0, 0, [0, 3, 4]] == 0).all()


def test_moments_of_a_range() -> None:
    source = np.random.default_rng(0).normal(size=(2, 1500))
    mean, scatter = np.empty(2), np.empty((2, 2))
    loops.strip_moments(source, mean, scatter, 100, 1300)
    part = source[:, 100:1300]
    np.testing.assert_allclose(mean, part.mean(1))
    np.testing.assert_allclose(scatter, np.cov(part, bias=True) * 1200)
