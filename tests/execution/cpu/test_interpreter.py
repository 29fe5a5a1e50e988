import numpy as np
import pytest

pytest.importorskip("numba")

from tailcut.execution.cpu import interpreter


@pytest.mark.parametrize(("num", "k"), [(1, 1), (4, 4), (5, 6), (8, 3), (3, 9)])
def test_products_of_any_size_are_added(num: int, k: int) -> None:
    rng = np.random.default_rng(0)
    factors, rows, into = (
        rng.normal(size=(num + 2, k + 3)),
        rng.normal(size=(k + 1, 70)),
        rng.normal(size=(num + 1, 70)),
    )
    expected = into.copy()
    expected[1:, :64] += factors[2:, 3:] @ rows[1:, :64]
    interpreter.add_product(factors, 2, num, 3, k, rows, 1, into, 1, 64)
    np.testing.assert_allclose(into, expected)


@pytest.mark.parametrize(("num", "k"), [(4, 1), (4, 4), (8, 5)])
def test_dots_of_rows_are_added(num: int, k: int) -> None:
    rng = np.random.default_rng(0)
    left, right, into = rng.normal(size=(num + 1, 70)), rng.normal(size=(k + 2, 70)), rng.normal(size=(num + 1, k + 3))
    expected = into.copy()
    expected[1:, 3:] += left[1:, :64] @ right[2:, :64].T
    interpreter.add_dots(left, 1, num, right, 2, k, into, 1, 3, 64)
    np.testing.assert_allclose(into, expected)


def test_what_is_no_number_stays_so_in_clamps_and_maxima() -> None:
    nan = float("nan")
    values = np.zeros((4, 512))
    values[0, :3] = [nan, 1.0, -2.0]
    code = np.array([[1, 0, 0, 0, 0], [1, 1, 0, 0, 0], [5, 0, 1, 0, 0], [3, 2, 0, 0, 0]], dtype=np.int64)
    bounds = np.array([[-np.inf, np.inf]] * 3 + [[0, np.inf]])
    other = np.zeros((4, 512))
    other[0, :3] = [5.0, nan, -1.0]
    result = np.empty((4, 512))
    nothing = np.empty((0, 512))
    sources, parameters = (nothing, values, other), (np.zeros((4, 1)), np.zeros((4, 1)), np.empty((0, 0)))
    interpreter.forward_strips(code, bounds, sources, parameters, True, result, 0, 512)
    np.testing.assert_array_equal(result[0, :4], [nan, nan, 0, 0])
