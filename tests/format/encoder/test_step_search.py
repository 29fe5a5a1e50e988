"""The search for a step, against a search through all steps; the estimate of bits, against their entropy."""

import math
from collections.abc import Callable

import numpy as np
import pytest

from tailcut.errors import ArgumentError
from tailcut.format.encoder.estimated_bits import expected_bits
from tailcut.format.encoder.step_search import COARSEST, FINEST, REFINEMENT, coarsest_fitting, finest_step
from tailcut.format.quantized.values import step_size

PART = 2.0 ** (-1 / (8 * REFINEMENT))


def inverse(step: float) -> int:
    return int(1000 / step)


def by_entropy(step: float) -> int:
    """As of a million numbers with a mean magnitude of 0.05, and 3,000 bytes that no step changes."""
    return 3000 + int(1_000_000 / 8 * float(expected_bits(0.05 / step)))


def stairs(step: float) -> int:
    """As of three tensors whose steps are whole eighths, each at another place."""
    eighths = 8 * math.log2(step)
    return 500 + sum(max(0, int(200 * (40 - round(eighths + place)))) for place in (0.0, 0.3, 0.6))


CURVES = [(inverse, 777), (by_entropy, 40_000), (by_entropy, 300_000), (by_entropy, 3500), (stairs, 30_000)]


@pytest.mark.parametrize(("size_of", "max_bytes"), CURVES)
@pytest.mark.parametrize("wrong_by", [None, 1.0, 0.9, 1.3, 0.01, 100.0])
def test_the_finest_step_that_fits(size_of: Callable[[float], int], max_bytes: int, wrong_by: float | None) -> None:
    calls: list[float] = []

    def counted(step: float) -> int:
        calls.append(step)
        return size_of(step)

    estimate = None if wrong_by is None else lambda step: wrong_by * size_of(step)
    step = finest_step(counted, max_bytes, estimate=estimate)
    assert size_of(step) <= max_bytes < size_of(step * PART)
    assert len(calls) <= (8 if wrong_by in (1.0, 0.9, 1.3) else 17)


def test_a_good_estimate_needs_few_files() -> None:
    calls: list[float] = []

    def size_of(step: float) -> int:
        calls.append(step)
        return by_entropy(step)

    step = finest_step(size_of, 123_456, estimate=lambda step: 1.06 * by_entropy(step) - 3000)
    assert by_entropy(step) <= 123_456 < by_entropy(step * PART)
    assert len(calls) <= 6


def test_sizes_that_do_not_rise_everywhere_still_fit() -> None:
    noise = np.random.default_rng(0).integers(-40, 40, 4000)

    def size_of(step: float) -> int:
        return by_entropy(step) + int(noise[int(64 * math.log2(step)) + 1024])

    for max_bytes in range(4000, 300_000, 20_000):
        step = finest_step(size_of, max_bytes, estimate=by_entropy)
        assert 0.95 * max_bytes < size_of(step) <= max_bytes


@pytest.mark.parametrize("estimate", [None, inverse])
def test_steps_that_are_too_fine_to_be_coded_do_not_fit(estimate: Callable[[float], float] | None) -> None:
    def size_of(step: float) -> int:
        if step < 0.01:
            raise ArgumentError("too fine")
        return inverse(step)

    step = finest_step(size_of, 1_000_000, estimate=estimate)
    assert step * PART < 0.01 <= step


@pytest.mark.parametrize("estimate", [None, inverse])
def test_a_size_that_no_step_reaches(estimate: Callable[[float], float] | None) -> None:
    with pytest.raises(ArgumentError, match=r"cannot have 90 bytes: with all numbers rounded away it has 103"):
        finest_step(lambda step: 100 + inverse(step), 90, estimate=estimate)
    assert coarsest_fitting(lambda step: 100 + inverse(step), 103) == COARSEST


def test_a_size_that_only_finer_steps_than_the_coarsest_have() -> None:
    """The step is a number of the file too: a coarser one may take some bytes more."""

    def size_of(step: float) -> int:
        return round(100 + 300 / step + 3 * math.log2(step + 1))

    least = min(size_of(step_size(eighth)) for eighth in range(FINEST, COARSEST))
    assert least < size_of(step_size(COARSEST))
    for goal in range(least + 1, least + 8):
        assert size_of(finest_step(size_of, goal)) <= goal
    with pytest.raises(ArgumentError, match=f"cannot have {least - 8} bytes"):
        finest_step(size_of, least - 8)


@pytest.mark.parametrize("max_bytes", [0, -3, 2.5, True, "640"])
def test_bytes_must_be_a_whole_number(max_bytes: int) -> None:
    with pytest.raises(ArgumentError, match="whole number of bytes"):
        finest_step(inverse, max_bytes)


def test_a_finer_end_can_be_given() -> None:
    wanted = 2**30
    assert finest_step(inverse, wanted) == pytest.approx(step_size(FINEST) / PART)
    step = finest_step(inverse, wanted, finest=FINEST - 80)
    assert inverse(step) <= wanted < inverse(step * PART)
