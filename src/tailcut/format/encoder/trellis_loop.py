"""The loop of `trellis` for one row after another, compiled by numba. Import this module only where it is installed.

It gives the same numbers as torch's operations in `trellis`, bit for bit: each sum and product is the same, in the
same order.
"""

from typing import Any

import numpy as np

from tailcut.compiling import compile_inner, compile_loop
from tailcut.format.quantized.loops import TRELLIS_INTO

Array = np.ndarray[Any, Any]

_NUM_STATES = len(TRELLIS_INTO)
_WAYS = np.array(TRELLIS_INTO)


@compile_inner
def _nearest(multiple: float, in_odd_state: int, odd: int) -> Any:
    """Return the nearest allowed whole number whose coded magnitude is even, or odd."""
    if in_odd_state == 0:
        return 4 * np.rint((multiple - 2 * odd) / 4) + 2 * odd
    size, sign = abs(multiple), -1.0 if multiple < 0 else 1.0
    if odd == 1:
        return sign * (4 * max(np.rint((size - 1) / 4), 0.0) + 1)  # 1, 5, ...
    return sign * (0.0 if size < 1.5 else 4 * np.rint((size + 1) / 4) - 1)  # 0, 3, 7, ...


@compile_inner
def _weigh(left: Array, place: int, step: float, cost: float, ways: tuple[Array, Array, Array, Array]) -> None:
    """Fill in what each way out of each state chooses, misses (in steps), and costs with all before it."""
    total, found, missed, sums = ways
    for state in range(_NUM_STATES):
        multiple = left[state, place] / step
        for odd in range(2):
            way = 2 * state + odd
            found[way] = _nearest(multiple, state % 2, odd)
            missed[way] = multiple - found[way]
            sums[way] = total[state] + missed[way] * missed[way] * cost


@compile_inner
def _take(values: Array, factors: Array, error: float, rest: Array) -> None:
    """Write into `rest` what an error leaves of the values."""
    for place in range(len(rest)):
        rest[place] = values[place] - factors[place] * error


@compile_inner
def _cheapest(total: Array) -> int:
    state = 0
    for other in range(1, _NUM_STATES):
        state = other if total[other] < total[state] else state
    return state


def _decide(
    values: Array, steps: Array, costs: Array, factors: Array, states: Array, multiples: Array, errors: Array
) -> None:
    """Fill in the multiples and errors of all rows, and the state behind each.

    Args:
        values: (places, rows).
        steps: of the places.
        costs: of an error of one step.
        factors: (places, at least places), what each error takes from the values behind it; (0, 0) for nothing.
        states: of each row before the first place; becomes that behind the last.
        multiples: written, (places, rows).
        errors: written, (places, rows).
    """
    num, rows = values.shape
    left, again = np.empty((_NUM_STATES, num)), np.empty((_NUM_STATES, num))
    total, sums = np.empty(_NUM_STATES), np.empty(2 * _NUM_STATES)
    found, missed = np.empty(2 * _NUM_STATES), np.empty(2 * _NUM_STATES)
    chosen, made = np.empty((num, _NUM_STATES)), np.empty((num, _NUM_STATES))
    sources = np.empty((num, _NUM_STATES), np.int64)
    for row in range(rows):
        for state in range(_NUM_STATES):
            total[state] = np.inf
            for place in range(num):
                left[state, place] = values[place, row]
        total[states[row]] = 0.0
        for place in range(num):
            _weigh(left, place, steps[place], costs[place], (total, found, missed, sums))
            for state in range(_NUM_STATES):
                first, second = _WAYS[state, 0], _WAYS[state, 1]
                way = second if sums[second] < sums[first] else first
                source, error = way >> 1, missed[way] * steps[place]
                total[state], sources[place, state] = sums[way], source
                chosen[place, state], made[place, state] = found[way], error
                if len(factors) > 0:
                    _take(left[source, place + 1 :], factors[place, place + 1 : num], error, again[state, place + 1 :])
            if len(factors) > 0:
                left, again = again, left
        state = states[row] = _cheapest(total)
        for place in range(num - 1, -1, -1):
            multiples[place, row], errors[place, row] = chosen[place, state], made[place, state]
            state = sources[place, state]


decide = compile_loop(_decide)
