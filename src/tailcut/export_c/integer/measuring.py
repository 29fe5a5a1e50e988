"""Batch norm by the statistics of its own input, as `measure` of `runtime/tailcut_run_integer.c` computes it."""

from dataclasses import dataclass

import numpy as np

from tailcut.export_c.integer.arithmetic import ONE, Ints, bits_of, cosines, divided, halved, in_units, scaled
from tailcut.export_c.integer.bounds import Bound
from tailcut.export_c.program.program import Norm


@dataclass(frozen=True)
class Measured:
    """Scales and shifts of all channels, (images, channels) each: mantissas within 16 bits, and exponents."""

    scale: tuple[Ints, Ints]
    shift: tuple[Ints, Ints]


def measured(norm: Norm, numbers: Ints, exponents: Ints, *, is_narrow: bool) -> Measured:
    """Return the scales and shifts that normalise a map.

    Args:
        norm: with one gamma, beta and epsilon.
        numbers: of the map, (images, channels, height, width), the narrow ones if `is_narrow`.
        exponents: of the map, (images,).
        is_narrow: the channels of the norm are sums of cosines of those of the map.
    """
    flat = numbers.reshape(*numbers.shape[:2], -1)
    positions = flat.shape[2]
    means = divided(flat.sum(2), positions)
    centred = flat - means[:, :, None]
    products = centred @ centred.transpose(0, 2, 1)  # (images, channels, channels), below 2^63
    diagonal = np.diagonal(products, axis1=1, axis2=2)
    halves = np.maximum(_bits(diagonal.max(1)) - 30, 0)
    products = halved(products, halves[:, None, None])
    if is_narrow:
        mix = cosines(norm.channels, flat.shape[1])
        parts = halved(mix @ products, 14)  # (images, wide, narrow)
        wide_means, square = means @ mix.T, halved(np.maximum((parts * mix).sum(2), 0), 14)
    else:
        wide_means, square = means * ONE, np.diagonal(products, axis1=1, axis2=2)
    variance, unit = _normalized(square, (halves + 2 * exponents)[:, None])
    epsilon = Bound.of(*(np.reshape(part, (1,)) for part in scaled(norm.epsilon)))
    total = Bound(variance // positions, unit).plus(epsilon)
    scale = _divided_by_root(_scaled(norm.gamma, norm.channels), *_normalized(total.most, total.exponent))
    mean = _parted(wide_means, (exponents - 14)[:, None])
    shift = _parted(-mean[0] * scale[0], mean[1] + scale[1])
    if norm.beta is not None:
        shift = _sum(shift, scaled(norm.beta))
    return Measured(scale, shift)


def _scaled(gamma: object, channels: int) -> tuple[Ints, Ints]:
    return scaled(np.ones(channels) if gamma is None else np.asarray(gamma))


def _bits(values: Ints) -> Ints:
    """Return how many bits they have, of 0 and more, below 2^63."""
    high = values >> 31
    return np.where(high > 0, bits_of(high) + 31, bits_of(values & ((1 << 31) - 1)))


def _normalized(values: Ints, exponents: Ints) -> tuple[Ints, Ints]:
    """Return them with the highest bits that 31 bits hold; 0 stays."""
    shift = np.where(values > 0, _bits(values) - 31, 0)
    made = np.where(shift > 0, values >> np.maximum(shift, 0), values << np.maximum(-shift, 0))
    return made, exponents + shift


def _parted(values: Ints, exponents: Ints) -> tuple[Ints, Ints]:
    """Return them in 15 bits and a sign."""
    count = np.maximum(_bits(np.where(values < 0, ~values, values)) - 15, 0)
    return values >> count, exponents + count


def _sum(one: tuple[Ints, Ints], two: tuple[Ints, Ints]) -> tuple[Ints, Ints]:
    unit = np.maximum(one[1], two[1])
    unit = np.where(one[0] == 0, two[1], unit)
    unit = np.where(two[0] == 0, one[1], unit) - 14
    return _parted(in_units(*one, unit) + in_units(*two, unit), unit)


def _divided_by_root(scale: tuple[Ints, Ints], square: Ints, exponents: Ints) -> tuple[Ints, Ints]:
    odd = exponents & 1
    root = np.sqrt((square >> odd).astype(np.float64)).astype(np.int64)  # below 2^31: the exact floor
    made, unit = _parted((np.abs(scale[0]) << 15) // root, scale[1] - 15 - ((exponents + odd) >> 1))
    return np.where(scale[0] < 0, -made, made), unit
