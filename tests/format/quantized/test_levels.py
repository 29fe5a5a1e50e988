"""The tables that codec 3 begins with, against the distribution that they are of."""

import math

import pytest

from tailcut.format.quantized.levels import INITIAL_STOP, INITIAL_ZERO
from tailcut.format.quantized.loops import LEVELS


@pytest.mark.parametrize("level", range(LEVELS))
def test_tables_are_those_of_a_laplace_distribution(level: int) -> None:
    mean = 2 ** ((level - 8) / 2)
    ratio = (math.sqrt(1 + mean**2) - 1) / mean
    magnitudes = sum(2 * n * (1 - ratio) / (1 + ratio) * ratio**n for n in range(1, 80_000))
    assert magnitudes == pytest.approx(mean, rel=1e-3)
    assert INITIAL_ZERO[level] == min(max(round(65536 * (1 - ratio) / (1 + ratio)), 64), 65472)
    assert INITIAL_STOP[level] == min(max(round(65536 * (1 - ratio)), 64), 65472)
