"""Dependent quantisation: which multiples of their steps a row of numbers becomes, by the Viterbi algorithm."""

from collections.abc import Callable, Iterator, Sequence
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from tailcut.compiling import is_installed
from tailcut.format.quantized.loops import LINE, TRELLIS_INTO
from tailcut.format.quantized.values import step_size

COLUMNS = 64
"""So many numbers of each row are decided together, at most: errors reach those behind them in one product."""

MAX_ROWS = 1 << 12
"""So many rows are rounded at a time: what is kept of all their states takes some 100 MB."""

COMPILED_FROM = 1 << 12
"""From so many numbers on a compiled loop rounds them, if numba is installed: it takes a tenth of the time."""

FINER = step_size(-5)
"""Step in a trellis, of which every other multiple is allowed at a time, over one whose errors are of the same size."""

Decide = Callable[[Tensor, Tensor, Tensor, Tensor | None, Tensor], tuple[Tensor, Tensor, Tensor]]

_NUM_STATES = len(TRELLIS_INTO)
# For each state the two ways into it, each 2 (the state before) + (whether the number between is odd).
_WAYS = torch.tensor(TRELLIS_INTO, device="cpu")


def rounded_along_trellis(
    values: Tensor,
    steps: Tensor,
    upper: Tensor | None = None,
    starts: Sequence[int] = (0,),
    *,
    num_numbers: int = 0,
) -> Tensor:
    """Return numbers as multiples of their steps, each one of those that the numbers before it in its row allow.

    Which multiples are allowed next follows from the parities of those before, see `loops.coded_number`: in each
    state every other one, so a number takes almost a bit less than with all of them. Of all rows that the eight states
    allow that one is chosen whose errors cost the least. Errors are made good by the numbers behind them if
    `upper` is given, as in `row_steps.rounded_with_feedback`; each of the eight ways carries its own.

    Args:
        values: (n, rows), float64.
        steps: of each place in a row, (n,), float64.
        upper: (n, n), see `Block`; None where each error costs the same and stays.
        starts: places at which the trellis begins anew, the first 0.
        num_numbers: how many are rounded in all, if in several calls: of many, a compiled loop rounds also few.

    Returns:
        Whole numbers, float64, shaped like the values.

    Sources:
        Schwarz, Nguyen, Marpe and Wiegand, "Hybrid video coding with trellis-coded quantization", DCC 2019; the states
        are those of ISO/IEC 15938-17.
    """
    is_compiled = max(num_numbers, values.numel()) >= COMPILED_FROM and is_installed()
    decided = _decided_by_loop if is_compiled else _decided
    parts = values.split(MAX_ROWS, dim=1)
    return torch.cat([_rounded_together(part.clone(), steps, upper, starts, decided) for part in parts], 1)


def _rounded_together(
    values: Tensor, steps: Tensor, upper: Tensor | None, starts: Sequence[int], decided: Decide
) -> Tensor:
    """Round some rows; `values` becomes what is left of them."""
    result = torch.empty_like(values)
    entry = torch.zeros(values.shape[1], dtype=torch.int64, device="cpu")
    for start, stop in _spans(len(values), starts):
        if start in starts:
            entry = torch.zeros_like(entry)
        if upper is None:
            factors, costs = None, steps[start:stop].square()
        else:
            factors = feedback(upper, start, stop)
            costs = (steps[start:stop] / upper.diagonal()[start:stop].double()).square()
        result[start:stop], errors, entry = decided(values[start:stop], steps[start:stop], costs, factors, entry)
        if factors is not None:
            values[stop:].addmm_(factors[:, stop - start :].T, errors, alpha=-1)
    return result


def feedback(upper: Tensor, start: int, stop: int) -> Tensor:
    """Return what an error at each place of a span takes from the values from its start on, (places, the rest)."""
    factors = upper[start:stop, start:].double()
    return factors.div_(factors.diagonal()[:, None].clone())


def rounded_rows(multiples: Sequence[Tensor], *, num_numbers: int = 0) -> list[Tensor]:
    """Return multiples of a step rounded along a trellis that begins anew in each row, and each `LINE` numbers of it.

    Args:
        multiples: (rows, numbers) of any sizes, float64.
        num_numbers: see `rounded_along_trellis`.
    """
    length = min(LINE, max((x.shape[1] for x in multiples), default=0))
    lines = [nn.functional.pad(x, (0, -x.shape[1] % length)).reshape(-1, length) for x in multiples if x.numel()]
    if not lines:
        return list(multiples)
    ones = torch.ones(length, dtype=torch.float64, device="cpu")
    rounded = rounded_along_trellis(torch.cat(lines).T, ones, num_numbers=num_numbers).T
    found = iter(rounded.split([len(x) for x in lines]))
    return [next(found).reshape(len(x), -1)[:, : x.shape[1]] if x.numel() else x for x in multiples]


def _spans(length: int, starts: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Yield the spans that are decided one after another: none is longer than `COLUMNS`, or goes over a start."""
    for first, last in zip(starts, [*starts[1:], length], strict=True):
        for start in range(first, last, COLUMNS):
            yield start, min(start + COLUMNS, last)


def _decided(
    values: Tensor, steps: Tensor, costs: Tensor, factors: Tensor | None, entry: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the multiples of a span (places, rows), their errors, and the state behind it in each row.

    Args:
        values: (places, rows).
        steps: of the places.
        costs: of an error of one step.
        factors: what each error takes from the values behind it; None for nothing.
        entry: the state before the span in each row.
    """
    num, rows = values.shape
    total = torch.full((_NUM_STATES, rows), torch.inf, dtype=torch.float64, device="cpu")
    total.scatter_(0, entry[None], 0.0)
    left = values[:, None].expand(num, _NUM_STATES, rows)
    chosen, errors, sources = [], [], []
    for place in range(num):
        multiples = left[0] / steps[place]
        found = _nearest(multiples)
        missed = multiples[:, None] - found
        ways = (total[:, None] + missed.square() * costs[place]).reshape(-1, rows)[_WAYS]
        total, which = ways.min(1)
        way = torch.where(which == 0, _WAYS[:, :1], _WAYS[:, 1:])
        source = way >> 1
        error = missed.reshape(-1, rows).gather(0, way) * steps[place]
        chosen.append(found.reshape(-1, rows).gather(0, way))
        errors.append(error)
        sources.append(source)
        left = left[1:]
        if factors is not None:
            left = left.gather(1, source.expand(len(left), -1, -1))
            left -= factors[place, place + 1 : num, None, None] * error
    state = last = total.argmin(0)
    multiples, missed = torch.empty_like(values), torch.empty_like(values)
    for place in reversed(range(num)):
        multiples[place] = chosen[place].gather(0, state[None])[0]
        missed[place] = errors[place].gather(0, state[None])[0]
        state = sources[place].gather(0, state[None])[0]
    return multiples, missed, last


def _decided_by_loop(
    values: Tensor, steps: Tensor, costs: Tensor, factors: Tensor | None, entry: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Return what `_decided` does, the same numbers, by a compiled loop."""
    multiples, errors, states = torch.empty_like(values), torch.empty_like(values), entry.clone()
    given = (values, steps, costs, values.new_empty(0, 0) if factors is None else factors)
    arrays = [np.ascontiguousarray(x.numpy()) for x in given]
    _compiled_loop()(*arrays, states.numpy(), multiples.numpy(), errors.numpy())
    return multiples, errors, states


@cache
def _compiled_loop() -> Any:
    from tailcut.format.encoder.trellis_loop import decide  # imports numba

    return decide


def _nearest(multiples: Tensor) -> Tensor:
    """Return the nearest allowed whole numbers whose coded magnitude is even, and odd.

    Args:
        multiples: of each state, (states, rows).

    Returns:
        (states, 2, rows).
    """
    even, odd = multiples[0::2], multiples[1::2]
    size, sign = odd.abs(), torch.where(odd < 0, -1.0, 1.0)
    third = torch.where(size < 1.5, 0.0, 4 * ((size + 1) / 4).round() - 1)  # 0, 3, 7, ...
    first = 4 * ((size - 1) / 4).round().clamp_(min=0) + 1  # 1, 5, ...
    found = multiples.new_empty(len(multiples), 2, multiples.shape[1])
    found[0::2, 0] = 4 * (even / 4).round()
    found[0::2, 1] = 4 * ((even - 2) / 4).round() + 2
    found[1::2, 0] = sign * third
    found[1::2, 1] = sign * first
    return found
