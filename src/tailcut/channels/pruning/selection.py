"""Selection of the channels to remove, from scores and rates."""

import math
import numbers
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from tailcut.channels.graph.groups import PASSES_ON, ChannelGraph, PruningGroup
from tailcut.channels.scoring.scores import Scores
from tailcut.errors import ArgumentError

Importance = dict[int, float]


@dataclass(frozen=True)
class Limits:
    """Limits of every selection.

    Attributes:
        min_channels: the fewest channels that a layer keeps.
        round_to: layers that lose channels keep a multiple of this many.
        max_rate: the largest part of a layer's channels to remove.
    """

    min_channels: int = 1
    round_to: int = 1
    max_rate: float = 1.0

    def __post_init__(self) -> None:
        for name in ("min_channels", "round_to"):
            given = getattr(self, name)
            value = number_of(given)
            if not isinstance(value, int) or value < 1:
                raise ArgumentError(f"{name} must be an integer of at least 1, got {given!r}")
            object.__setattr__(self, name, value)
        max_rate = number_of(self.max_rate)
        if max_rate is None or not 0 < max_rate <= 1:
            raise ArgumentError(f"max_rate must be above 0 and at most 1, got {self.max_rate!r}")
        object.__setattr__(self, "max_rate", max_rate)


@dataclass(frozen=True)
class Rate:
    """Rate of a group to remove.

    Attributes:
        value: part of its units, from 0 up to 1, not included.
        layer: the layer whose own scores decide, None for the mean over all layers of the group.
        as_published: what is kept is int(count * (1 - rate)) as the published code computes it: 63 of 320 at 0.8, since
            1 - 0.8 is a little less than 0.2 in floating point. Without it 64.
    """

    value: float
    layer: str | None = None
    as_published: bool = False


def number_of(value: Any) -> int | float | None:
    """Return a number of Python, NumPy or a 0-D tensor as a Python number, or None for anything else.

    Truth values are no numbers, and an array of one number is none either.
    """
    if isinstance(value, Tensor) and value.ndim == 0:
        value = value.item()
    if isinstance(value, bool):
        return None
    if isinstance(value, numbers.Integral):
        return int(value)
    return float(value) if isinstance(value, numbers.Real) else None


def check_rate(value: Any, layer: str) -> float:
    """Return the rate of a layer as a Python number.

    Raises:
        ArgumentError: it is no number from 0 up to 1, not included.
    """
    rate = number_of(value)
    if rate is None or not 0 <= rate < 1:
        hint = ": it would lose all its channels" if rate == 1 else ""
        raise ArgumentError(f"the rate of {layer} must be from 0 up to 1, not included; got {value!r}{hint}")
    return rate


def check_scores(scores: Mapping[str, Tensor], model: nn.Module, graph: ChannelGraph) -> dict[str, Tensor]:
    """Return the scores as float64 vectors on the CPU.

    Raises:
        ArgumentError: they are no vectors of finite numbers, a layer is not known, or a vector has not one number per
            channel.
    """
    modules = dict(model.named_modules())
    checked = {}
    for name, values in scores.items():
        if name not in modules:
            raise ArgumentError(f"scores name a layer {name!r}, which {type(model).__name__} does not have")
        try:
            vector = torch.as_tensor(values, device="cpu").detach().to(torch.float64)
        except (TypeError, ValueError, RuntimeError) as error:
            raise ArgumentError(f"the scores of {name} must be a vector of numbers: {error}") from error
        layer = graph.trace.layers.get(name)
        width = None if layer is None or layer.outer is None else len(layer.outer)
        if vector.ndim != 1 or (width is not None and len(vector) != width):
            expected = "one number per channel" if width is None else f"{width} numbers, one per channel"
            raise ArgumentError(f"the scores of {name} must be {expected}; they have shape {tuple(vector.shape)}")
        if not bool(torch.isfinite(vector).all()):
            raise ArgumentError(f"the scores of {name} hold NaN or infinity: score again")
        checked[name] = vector
    return Scores(checked, method=scores.method, fallback=scores.fallback) if isinstance(scores, Scores) else checked


def importance_of(
    graph: ChannelGraph, group: PruningGroup, scores: Mapping[str, Tensor], layer: str | None = None
) -> Importance | None:
    """Return the importance of each unit of a group, or None if no layer of it has scores.

    Each layer's scores are divided by their mean, so that layers weigh the same. A unit gets the mean over the
    channels that it has in a layer, then the mean over the layers that have it. Layers of `Scores.fallback` count only
    in a group where no other layer has scores.

    Args:
        graph: of the network.
        group: one of its groups.
        scores: as `check_scores` gives them.
        layer: the one layer whose scores count, if it has any and the unit is in it.
    """
    by_layer = {name: _unit_means(graph, name, scores[name]) for name in group.layers if name in scores}
    if not by_layer:
        return None
    fallback = scores.fallback if isinstance(scores, Scores) else frozenset()
    preferred = [means for name, means in by_layer.items() if name not in fallback] or list(by_layer.values())
    units = np.array(group.units, dtype=np.int64)
    found = _mean_over_layers(units, preferred)
    if layer in by_layer:
        own, values = by_layer[layer]
        is_own = np.isin(units, own)
        found[is_own] = values[np.searchsorted(own, units[is_own])]
    return dict(zip(group.units, found.tolist(), strict=True))


def _mean_over_layers(units: np.ndarray, layers: Sequence[tuple[np.ndarray, np.ndarray]]) -> np.ndarray:
    """Return the mean of each unit over the layers that have it, 0 where none has; layers as `_unit_means` gives."""
    totals, counts = np.zeros(len(units)), np.zeros(len(units))
    for own, means in layers:
        places = np.searchsorted(own, units).clip(max=max(0, len(own) - 1))
        there = own[places] == units if len(own) else np.zeros(len(units), dtype=bool)
        totals[there] += means[places[there]]
        counts += there
    return totals / np.maximum(counts, 1)


def is_scored(group: PruningGroup, scores: Mapping[str, Tensor]) -> bool:
    """Return whether any layer of a group has scores."""
    return any(name in scores for name in group.layers)


def select_by_rates(
    graph: ChannelGraph, rates: Mapping[str, Rate], scores: Mapping[str, Tensor], limits: Limits
) -> set[int]:
    """Return the units to remove, by a rate for each group named.

    Raises:
        ArgumentError: a rate is no number from 0 up to 1, or a group to be cut has no scores.
    """
    removed: set[int] = set()
    for name, group in graph.groups.items():  # leaders come before their followers
        rate = rates.get(name)
        if rate is None:
            continue
        rate = replace(rate, value=check_rate(rate.value, rate.layer or name))
        importance = importance_of(graph, group, scores, rate.layer)
        if importance is None:
            if rate.value > 0:
                names = ", ".join(group.layers)
                raise ArgumentError(
                    f"{name} shall be pruned, but the scores name none of {names}: give it the rate 0, or scores of "
                    "its own"
                )
            continue
        lowest = sorted(candidates(graph, group, removed), key=importance.__getitem__)
        removed |= take(graph, group, lowest, limits, rate)
    return removed


def held_by_limits(graph: ChannelGraph, rates: Mapping[str, Rate], removed: set[int], limits: Limits) -> dict[str, str]:
    """Return the groups that have a rate but lose no unit, because of the limits or of their units: name -> why.

    Args:
        graph: of the network.
        rates: by group, as `select_by_rates` takes them.
        removed: the units that go.
        limits: those that held.
    """
    values = {field.name: getattr(limits, field.name) for field in fields(limits)}
    held = {}
    for name, rate in rates.items():
        group = graph.groups[name]
        units = candidates(graph, group, removed)
        if removed & set(group.units) or not units:
            continue
        if not take(graph, group, units, Limits(), rate):
            if rate.value > 0:
                held[name] = _too_coarse(graph, group, rate)
            continue
        # Where each limit alone would let some go, only all of them together hold.
        strict = {key: value for key, value in values.items() if value != getattr(Limits, key)}
        alone = {
            key: value for key, value in strict.items() if not take(graph, group, units, Limits(**{key: value}), rate)
        }
        names = [f"{key}={value}" for key, value in (alone or strict).items()]
        if names:
            held[name] = f"{' and '.join(names)} {'lets' if len(names) == 1 else 'let'} none go"
    return held


def _too_coarse(graph: ChannelGraph, group: PruningGroup, rate: Rate) -> str:
    """Say why a rate removes nothing of a group whose channels may go, but several at a time."""
    if len(group.units) == 1:
        return "its channels go all together or not at all, and a layer keeps some"
    together = max(max(counts.values()) for counts in graph.widths(group))
    return f"its channels go {together} at a time, more than the rate of {rate.value:g} lets go"


def num_kept(count: int, rate: Rate) -> int:
    """Return the number of `count` units that stay at a rate: never 0."""
    exact = count * (1 - rate.value)
    return max(1, math.floor(exact if rate.as_published else round(exact, 9)))  # 20 * (1 - 0.3) is 14, not 13.999...


def candidates(graph: ChannelGraph, group: PruningGroup, removed: set[int]) -> list[int]:
    """Return the removable units of a group, given the units removed from the groups before it."""
    bound = [follower.beside for follower in graph.followers if follower.group == group.name]
    free = group.free
    return (
        [unit for unit in free if all(beside[unit] in removed for beside in bound if unit in beside)] if bound else free
    )


def take(
    graph: ChannelGraph, group: PruningGroup, lowest: Sequence[int], limits: Limits, rate: Rate | None = None
) -> set[int]:
    """Return as many of a group's `lowest` units as the limits, and a rate, allow to remove.

    No layer of the group gets narrower than the rate says, and each that gets narrower keeps a multiple of `round_to`.
    """
    widths = graph.widths(group)
    whole = [sum(counts.values()) for counts in widths]
    least = [_least(counts, limits, rate) for counts in widths]
    each = [set(counts.values()) for counts in widths]
    is_alike = limits.round_to == 1 and all(len(counts) == 1 for counts in each)
    if is_alike and all(counts.keys() >= set(lowest) for counts in widths):  # any of them may go as well as another
        fit = [(full - bound) // sum(own) for full, bound, own in zip(whole, least, each, strict=True)]
        return set(lowest[: max(0, min(fit, default=0))])
    left = list(whole)
    taken: list[int] = []
    fitting = 0  # so many of those taken leave a multiple in every layer
    for unit in lowest:
        after = [rest - counts.get(unit, 0) for rest, counts in zip(left, widths, strict=True)]
        if any(rest < bound for rest, bound in zip(after, least, strict=True)):
            continue
        left = after
        taken.append(unit)
        if all(rest == full or rest % limits.round_to == 0 for rest, full in zip(left, whole, strict=True)):
            fitting = len(taken)
    return set(taken[:fitting])


def _least(counts: Mapping[int, int], limits: Limits, rate: Rate | None) -> int:
    """Return the fewest channels that a layer keeps, given how many of them each unit has."""
    width, units = sum(counts.values()), len(counts)
    at_least = math.ceil(round(units * (1 - limits.max_rate), 9))
    by_rate = max(1, at_least, 0 if rate is None else num_kept(units, rate))
    if rate is not None and units < width:  # where a unit is many channels, rounding down would take many too many
        by_rate = max(by_rate, math.ceil(round(units * (1 - rate.value), 9)))
    return max(min(limits.min_channels, width), by_rate * (width // max(1, units)))


def rates_for_list(
    graph: ChannelGraph,
    layers: Sequence[Sequence[str]],
    rates: Sequence[float],
    *,
    as_published: bool = False,
    unscored: Sequence[str] = (),
) -> dict[str, Rate]:
    """Rates by group, from one for each entry of `layers`; of two entries for one group the later one counts.

    Args:
        graph: of the network.
        layers: the entries, each of layers that have one rate.
        rates: one for each entry.
        as_published: rounded as in the published code.
        unscored: entries that only the rate 0 fits, for the message of the error.

    Raises:
        ArgumentError: the lengths differ, or a rate is no number from 0 up to 1.
    """
    if len(rates) != len(layers):
        names = ", ".join("+".join(entry) or "nothing" for entry in layers)
        what = "no scores: give it" if len(unscored) == 1 else "no scores: give each of them"
        hint = f". {', '.join(unscored)} {'has' if len(unscored) == 1 else 'have'} {what} 0" if unscored else ""
        raise ArgumentError(f"expected {len(layers)} rates, one for each of {names}; got {len(rates)}{hint}")
    chosen: dict[str, Rate] = {}
    for entry, rate in zip(layers, rates, strict=True):
        for name in entry:
            group = graph.group_of(name)
            if group is None:
                raise ArgumentError(f"a rate is given for {name!r}, which is not a layer with prunable channels")
            chosen[group.name] = Rate(check_rate(rate, name), name, as_published)
    return chosen


def rates_for_dict(graph: ChannelGraph, model: nn.Module, rates: Mapping[str, float]) -> dict[str, Rate]:
    """Rates by group, from a dict by layer.

    Raises:
        ArgumentError: a layer is not there, or cannot be pruned, or its rate is no number from 0 up to 1, or two layers
            of one group differ.
    """
    modules = dict(model.named_modules())
    chosen: dict[str, Rate] = {}
    for name, rate in rates.items():
        group = graph.group_of(name)
        if group is None:
            found = f"a {type(modules[name]).__name__}" if name in modules else "nothing"
            if met := graph.groups_met(name):
                found += f", which passes on the channels of {' and '.join(met)}: give rates for these"
            elif graph.is_fixed_by_input(name):
                found += f"; {PASSES_ON}"
            raise ArgumentError(f"a rate is given for {name!r}: expected a layer with prunable channels, found {found}")
        rate = check_rate(rate, name)
        if rate and not group.free:
            raise ArgumentError(f"a rate is given for {name}, which cannot be pruned: {why_locked(group)}")
        known = chosen.get(group.name)
        if known is not None and known.value != rate:
            raise ArgumentError(
                f"{known.layer} and {name} lose the same channels, but have the rates {known.value} and {rate}"
            )
        chosen.setdefault(group.name, Rate(rate, name))
    return chosen


def why_locked(group: PruningGroup) -> str:
    """Return the reasons why units of a group must stay."""
    return "; ".join(dict.fromkeys(group.locked.values()))


def _unit_means(graph: ChannelGraph, layer: str, scores: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Return the units of a layer, sorted, and the mean importance of each over its channels."""
    outer = graph.layer(layer).outer
    if outer is None:
        return np.zeros(0, dtype=np.int64), np.zeros(0)
    # Halved or doubled until the largest is about 1, which changes no ratio: the sum of very large ones would overflow.
    exponent = math.frexp(float(scores.abs().max()) if len(scores) else 0.0)[1]
    values = np.ldexp(scores.numpy(), -exponent)
    scale = float(np.abs(values).mean()) if len(values) else 0.0
    units, places = np.unique(graph.coupling.roots(outer).numpy(), return_inverse=True)
    sums = np.bincount(places, weights=values / scale if scale > 0 else np.zeros(len(values)), minlength=len(units))
    return units, sums / np.bincount(places, minlength=len(units))
