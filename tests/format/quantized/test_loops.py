"""The integer arithmetic of codec 3, against floating point and against itself compiled."""

import math
import random

import pytest

from tailcut.format.quantized import loops
from tailcut.format.quantized.levels import INITIAL_STOP, INITIAL_ZERO
from tailcut.format.quantized.loops import LEVELS


@pytest.mark.parametrize("number", [1, 2, 3, 5, 8, 255, 256, 1000, 2**20 - 1, 2**33 + 7, 2**58])
def test_logarithm_is_close_and_grows(number: int) -> None:
    assert loops.log2_16(number) == pytest.approx(16 * math.log2(number), abs=2.4)
    assert loops.log2_16(number + 1) >= loops.log2_16(number)


def test_logarithm_is_exact_at_powers_of_two() -> None:
    assert [loops.log2_16(1 << power) for power in range(59)] == [16 * power for power in range(59)]


@pytest.mark.parametrize("mean", [0.25, 1, 6, 90, 1500])
def test_the_level_tells_the_magnitude(mean: float) -> None:
    """Level l stands for a mean of 2^((l - 8) / 2), within half a level and the rounding of the logarithm."""
    track = [round(1000 * mean), 1000, 0, round(256 * mean)]
    for num_axes in (0, 1):
        level = loops.expected_level([0], num_axes, [0], [0], track)
        assert level == pytest.approx(8 + 2 * math.log2(mean), abs=1)


def test_places_that_were_large_are_expected_to_be_large() -> None:
    track = [2000, 1000, 512, 512]
    sums, counts = [1600, 400, 1000, 1000], [500, 500, 500, 500]
    levels = [loops.expected_level([place, 2], 2, sums, counts, track) for place in (0, 1)]
    assert levels[0] > levels[1]


def test_levels_stay_within_bounds() -> None:
    assert loops.expected_level([], 0, [], [], [0, 10**6, 0, 0]) == 0
    assert loops.expected_level([], 0, [], [], [10**12, 1, 0, 0]) == loops.LEVELS - 1


def test_walk_over_a_whole_tensor() -> None:
    first, last = [0, 2], [2, 5]
    places, seen = list(first), []
    for _ in range(7):
        seen.append(tuple(places))
        loops.step_on(places, 2, first, last)
    assert seen == [(0, 2), (0, 3), (0, 4), (1, 2), (1, 3), (1, 4), (0, 2)]


def test_probabilities_follow_the_bits_and_keep_off_the_ends() -> None:
    zeros, seen = [32768], [8]
    for _ in range(2000):
        loops.adapt(zeros, seen, 0, 0)
    assert 65536 - 3 * loops.LEAST < zeros[0] <= 65536 - loops.LEAST
    for _ in range(2000):
        loops.adapt(zeros, seen, 0, 1)
    assert loops.LEAST <= zeros[0] < 3 * loops.LEAST
    assert seen[0] == loops.COUNT_LIMIT


def test_a_number_is_read_as_it_was_written() -> None:
    numbers = [
        0,
        1,
        -1,
        2,
        -3,
        4,
        100,
        -5000,
        2**20 - 1,
        -(2**20) + 1,
        *random.Random(0).choices(range(-40, 40), k=300),
    ]
    contexts = [32768] * loops.NUM_CONTEXTS, [8] * loops.NUM_CONTEXTS
    coder, buffer = [0, 1 << 32, 0], bytearray(20_000)
    for number in numbers:
        loops.put_number(coder, buffer, *contexts, 12, number)
    payload = bytes(buffer[: coder[2]]) + (coder[0] + (1 << 24)).to_bytes(5, "big")[1:]
    contexts = [32768] * loops.NUM_CONTEXTS, [8] * loops.NUM_CONTEXTS
    coder = [int.from_bytes(payload[:4], "big"), 1 << 32, 4]
    assert [loops.get_number(coder, payload, *contexts, 12) for _ in numbers] == numbers


@pytest.mark.parametrize("level", range(LEVELS))
def test_tables_are_those_of_a_laplace_distribution(level: int) -> None:
    mean = 2 ** ((level - 8) / 2)
    ratio = (math.sqrt(1 + mean**2) - 1) / mean
    magnitudes = sum(2 * n * (1 - ratio) / (1 + ratio) * ratio**n for n in range(1, 80_000))
    assert magnitudes == pytest.approx(mean, rel=1e-3)
    assert INITIAL_ZERO[level] == min(max(round(65536 * (1 - ratio) / (1 + ratio)), 64), 65472)
    assert INITIAL_STOP[level] == min(max(round(65536 * (1 - ratio)), 64), 65472)
