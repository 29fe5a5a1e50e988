"""Distribution of a total number of coefficients over the tensors of a network."""

import math
from collections.abc import Callable, Sequence
from itertools import cycle

import numpy as np
import torch
from torch import nn

from tailcut.arguments import check_positive
from tailcut.errors import ArgumentError, StructureError
from tailcut.transform import dct, l1_order
from tailcut.weights.layers import Candidate
from tailcut.weights.parametrization.truncated_tensors import truncated_tensors
from tailcut.weights.planning.settings import reasons_to_leave

RULES = ("equal", "proportional", "energy")


def budget(
    model: nn.Module,
    total: int,
    *,
    rule: str = "equal",
    include: str | Sequence[str] | None = None,
    exclude: str | Sequence[str] = (),
    min_kept: int = 1,
) -> dict[str, int]:
    """Split `total` coefficients over the weights of a plain network. Does not change the model.

    Args:
        model: the network before `regularize`.
        total: how many coefficients in all.
        rule: "equal" per tensor (as in the published networks; what a small tensor cannot take goes to the
            others), "proportional" to the tensors' sizes, or by "energy": each coefficient where it adds
            most to the kept part of a tensor's spectral energy (for trained networks).
        include: patterns of names; the weights of all layers in the table when None.
        exclude: patterns of names to leave out.
        min_kept: the fewest coefficients of a tensor.

    Returns:
        Name -> count, for `regularize(num_kept=...)` and `TailTruncation(num_kept=...)`; the counts add up to
        `total`.

    Raises:
        ArgumentError: an unknown rule, a pattern that matches nothing, a total that the tensors cannot hold
            or that leaves less than `min_kept` for some, or "energy" of weights on the meta device.
        StructureError: the model is regularised already.
    """
    if truncated_tensors(model):
        raise StructureError("the model is regularised already; split the budget over to_dense(model)")
    if rule not in RULES:
        raise ArgumentError(f"rule must be one of {', '.join(RULES)}, got {rule!r}")
    total, min_kept = check_positive("total", total), check_positive("min_kept", min_kept)
    chosen = weights_of(model, include, exclude)
    sizes = [candidate.parameter.numel() for candidate in chosen]
    least = [min(min_kept, size) for size in sizes]
    if not sum(least) <= total <= sum(sizes) or not chosen:
        raise ArgumentError(
            f"a total from {sum(least)} to {sum(sizes)} fits the {len(chosen)} chosen tensors, got {total}"
        )
    without_values = [candidate.names[0] for candidate in chosen if candidate.parameter.is_meta]
    if rule == "energy" and without_values:
        raise ArgumentError(
            f'rule "energy" needs the values of the weights, and {without_values[0]} has none on the meta device; '
            'load them first, or take rule "equal" or "proportional"'
        )
    rules: dict[str, Callable[[], list[int]]] = {
        "equal": lambda: _fill([1.0] * len(sizes), sizes, least, total),
        "proportional": lambda: _fill([float(size) for size in sizes], sizes, least, total),
        "energy": lambda: _by_energy(chosen, least, total),
    }
    return {candidate.names[0]: count for candidate, count in zip(chosen, rules[rule](), strict=True)}


def weights_of(model: nn.Module, include: str | Sequence[str] | None, exclude: str | Sequence[str]) -> list[Candidate]:
    """Choose the tensors of a plain network that `regularize` would take with these patterns."""
    found = reasons_to_leave(model, include, exclude)
    return [candidate for candidate, reason in found if reason is None]


def _fill(shares: Sequence[float], sizes: Sequence[int], least: Sequence[int], total: int) -> list[int]:
    """Return counts in proportion to `shares`, between `least` and `sizes`, that sum to `total`."""
    low, high = 0.0, total / min(shares)
    for _ in range(200):
        level = (low + high) / 2
        counts = _at_level(level, shares, sizes, least)
        low, high = (level, high) if sum(counts) <= total else (low, level)
    counts = _at_level(low, shares, sizes, least)
    # The remainder of rounding down is given one by one to those whose exact share was cut most.
    exact = [low * share - count for share, count in zip(shares, counts, strict=True)]
    left = total - sum(counts)
    for place in cycle(sorted(range(len(counts)), key=lambda place: -exact[place])):
        if left == 0:  # the sizes have room for the total
            break
        if counts[place] < sizes[place]:
            counts[place] += 1
            left -= 1
    return counts


def _at_level(level: float, shares: Sequence[float], sizes: Sequence[int], least: Sequence[int]) -> list[int]:
    return [
        max(low, min(size, math.floor(level * share))) for share, size, low in zip(shares, sizes, least, strict=True)
    ]


def _by_energy(chosen: Sequence[Candidate], least: Sequence[int], total: int) -> list[int]:
    """Greedy by the concave envelope of each tensor's cumulative share of energy."""
    counts = np.array(least)
    gains, owners, widths = [], [], []
    for place, candidate in enumerate(chosen):
        for gain, width in _envelope(_energy_in_order(candidate.parameter), least[place]):
            gains.append(gain)
            owners.append(place)
            widths.append(width)
    left = total - int(counts.sum())
    for piece in np.argsort(-np.array(gains), kind="stable"):
        taken = min(left, widths[piece])
        counts[owners[piece]] += taken
        left -= taken
    return [int(count) for count in counts]


def _energy_in_order(parameter: torch.Tensor) -> np.ndarray:
    """Squared coefficients in canonical order, as parts of the whole: (numel,)."""
    weight = parameter.detach().cpu().double()
    energy = dct(weight).square().reshape(-1)[l1_order(weight.shape)]
    total = float(energy.sum())
    return (energy / total if total > 0 else energy).numpy()


def _envelope(energy: np.ndarray, start: int) -> list[tuple[float, int]]:
    """Return the pieces (slope, width) of the least concave function above the cumulative energy, from `start` on."""
    pieces: list[tuple[float, int]] = []
    for value in energy[start:]:
        gain, width = float(value), 1
        while pieces and pieces[-1][0] <= gain:
            last_gain, last_width = pieces.pop()
            gain = (gain * width + last_gain * last_width) / (width + last_width)
            width += last_width
        pieces.append((gain, width))
    return pieces
