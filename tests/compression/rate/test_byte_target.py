"""The weight of the bytes: a network that is simulated ends at its goal."""

import math
from itertools import pairwise

import pytest

from tailcut.compression.rate.byte_target import MARGIN, ByteTarget


def simulated(target: ByteTarget, delay: float, start: float, overhead: float) -> float:
    """A network whose numbers follow the price of a byte in so many steps."""
    size = start
    for _ in range(target.num_steps):
        target.follow(size, lambda size=size: round(size + overhead))  # type: ignore[misc]
        wanted = start * (target.price / 1e-5) ** -0.3
        size *= math.exp((math.log(wanted) - math.log(size)) / delay)
    return size + overhead


@pytest.mark.parametrize("delay", [30, 100, 200])
def test_it_ends_at_the_goal(delay: float) -> None:
    target = ByteTarget(start_bytes=4500, target_bytes=1500, num_steps=4000)
    assert simulated(target, delay, start=4400, overhead=100) == pytest.approx(MARGIN * 1500, rel=0.01)


def test_the_goal_falls_and_stays() -> None:
    target = ByteTarget(start_bytes=4000, target_bytes=1000, num_steps=100)
    goals = []
    for target.num_done in range(101):
        goals.append(target.goal)
    assert goals[0] == 4000
    assert all(later < earlier for earlier, later in pairwise(goals[:41]))
    assert goals[40:] == [pytest.approx(MARGIN * 1000)] * 61


def test_the_file_is_asked_now_and_then() -> None:
    asked: list[int] = []

    def count() -> int:
        asked.append(1)
        return 500

    target = ByteTarget(start_bytes=400, target_bytes=400, num_steps=1000)
    for _ in range(250):
        target.follow(300.0, count)
    assert len(asked) == 3
    assert target.overhead == 200
    assert target.num_bytes == 500


def test_state_and_back() -> None:
    target = ByteTarget(start_bytes=900, target_bytes=300, num_steps=100)
    for number in range(30):
        target.follow(800.0 - number, lambda: 850)
    other = ByteTarget(start_bytes=1, target_bytes=1, num_steps=1)
    other.load_state_dict(target.state_dict())
    assert other == target


def test_far_from_the_goal_the_price_of_a_byte_moves_at_a_bounded_pace() -> None:
    target = ByteTarget(1000.0, 500, 100)
    for num_bytes, distance in ((1e6, 1.0), (0.0, -0.5), (1100.0, 0.1)):
        target.num_bytes = num_bytes
        assert target.distance == pytest.approx(distance)


def test_a_step_is_compared_with_the_goal_of_its_own_time() -> None:
    target = ByteTarget(1000.0, 500, 10)
    before = target.weight
    target.follow(1000.0, lambda: 1000)
    assert target.weight == before
