"""SPEC.md, "Meaning": coefficients to the dense tensor, by the definition."""

import itertools
import math

from conformance.reference.decoder import Kept, order_of


def dense(entry: Kept) -> list[float]:
    """Return the numbers of the dense tensor, row-major, as float64."""
    indices = order_of(entry)
    values = dict(zip(indices, entry.numbers, strict=False))
    for axis in entry.axes:
        values = _inverse(values, axis, entry.shape[axis])
    return [math.fsum([values.get(index, 0.0)]) for index in itertools.product(*map(range, entry.shape))]


def _inverse(values: dict[tuple[int, ...], float], axis: int, size: int) -> dict[tuple[int, ...], float]:
    """Return the inverse of the orthonormal DCT-II along one axis."""
    made: dict[tuple[int, ...], float] = {}
    for index, value in values.items():
        k = index[axis]
        scale = math.sqrt((1 if k == 0 else 2) / size)
        for n in range(size):
            place = (*index[:axis], n, *index[axis + 1 :])
            made[place] = made.get(place, 0.0) + value * scale * math.cos(math.pi * (2 * n + 1) * k / (2 * size))
    return made
