"""Bounds of processor time that hold on slower machines: what hostile input must not do is take minutes."""

import time

LOOPS = 1_000_000
USUAL_SECONDS = 0.1  # of the loop below, on the machines that the bounds were set on


def within(spent: float, seconds: float) -> bool:
    """Whether the processor time `spent` is below `seconds`, or below what this machine takes for them, if slower."""
    return spent < seconds or spent < seconds * _slowness()


def _slowness() -> float:
    """How many times longer than a usual machine this one takes, just now, for a fixed loop."""
    started = time.process_time()
    found: dict[int, int] = {}
    for number in range(LOOPS):
        found[number & 1023] = found.get(number & 255, 0) + number
    return (time.process_time() - started) / USUAL_SECONDS
