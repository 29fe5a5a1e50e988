import numpy as np
import pytest

pytest.importorskip("numba")

from tailcut.execution.cpu import compiled, loops


def test_sizes_agree_with_those_of_the_callers() -> None:
    assert (loops.STRIP, loops.BLOCK) == (compiled.STRIP, compiled.BLOCK)


def test_a_part_of_a_row_is_copied_and_no_row_is_zeros() -> None:
    source, into = np.arange(20.0).reshape(2, 10), np.full(8, -1.0)
    loops.copy_row(source, 1, 3, into, 2, 4)
    assert into.tolist() == [-1, -1, 13, 14, 15, 16, -1, -1]
    loops.copy_row(source, -1, 3, into, 3, 2)
    assert into.tolist() == [-1, -1, 13, 0, 0, 16, -1, -1]
