"""Bounds of processor time that hold on slower machines: what hostile input must not do is take minutes."""

import time

LOOPS = 1_000_000
USUAL_SECONDS = 0.1  # of the loop below, on the machines that the bounds were set on


def allowed(seconds: float) -> float:
    """As many seconds as this machine takes, just now, for what takes `seconds` on a usual one; never fewer."""
    started = time.process_time()
    found: dict[int, int] = {}
    for number in range(LOOPS):
        found[number & 1023] = found.get(number & 255, 0) + number
    return seconds * max(1.0, (time.process_time() - started) / USUAL_SECONDS)


def within(started: float, seconds: float) -> bool:
    """Whether the processor time since `started` is within what is `allowed`."""
    spent = time.process_time() - started
    return spent < seconds or spent < allowed(seconds)
