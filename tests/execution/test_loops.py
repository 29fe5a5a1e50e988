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
