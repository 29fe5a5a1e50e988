"""The plan of a pruning: the channels to remove, those to keep, and why."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from torch import Tensor, nn

from tailcut.channels.graph.groups import ChannelGraph, units_of
from tailcut.channels.pruning.global_ranking import CostModel, select_by_budget
from tailcut.channels.pruning.rates import PAPER_RATES, named_rates
from tailcut.channels.pruning.report import PrunedLayer, PruneNote, SkippedChannels, by_reason
from tailcut.channels.pruning.selection import (
    Limits,
    Rate,
    check_rate,
    held_by_limits,
    is_scored,
    number_of,
    rates_for_dict,
    rates_for_list,
    select_by_rates,
)
from tailcut.channels.pruning.surgery import Cut, plan_cut
from tailcut.errors import ArgumentError
from tailcut.structure import base_of

Rates = float | str | Sequence[float] | Mapping[str, float]


@dataclass(frozen=True)
class Amount:
    """The amount to prune, as the user asks for it; see `prune`."""

    rates: Rates | None
    macs_ratio: float | None
    params_ratio: float | None
    limits: Limits

    @property
    def is_by_layer(self) -> bool:
        """True for a dict or a list, which name layers or groups."""
        return self.rates is not None and number_of(self.rates) is None


@dataclass(frozen=True)
class PruningPlan:
    """The channels to remove from a network, those to keep, and why.

    Attributes:
        graph: the groups that it is made of.
        removed: the units to remove.
        cut: what is kept of each tensor then.
        layers: rows of the report, one for each layer.
        skipped: rows of the report: what could not be removed, and why.
        held: the groups that shall lose channels but lose none, and why.
    """

    graph: ChannelGraph
    removed: set[int]
    cut: Cut
    layers: tuple[PrunedLayer, ...]
    skipped: tuple[SkippedChannels, ...]
    held: Mapping[str, str]

    @property
    def notes(self) -> tuple[PruneNote, ...]:
        """Rows of the report: what changes beyond the channels that go. A cut may find more of them."""
        noted = self.graph.coupling.noted_units()
        found = {
            (name, noted[unit]): None
            for name, group in self.graph.groups.items()
            for unit in group.units
            if unit in self.removed and unit in noted
        }
        return tuple(PruneNote(name, what) for name, what in found)


@dataclass(frozen=True)
class Planner:
    """Makes plans for a network. The groups may be locked between two plans.

    Attributes:
        model: the network, not cut.
        graph: of it.
        scores: as `check_scores` gives them.
        amount: to prune.
        macs: of the network.
        parameters: of the network.
        listed: the groups that a list has rates for, even where some of them are locked later.
    """

    model: nn.Module
    graph: ChannelGraph
    scores: Mapping[str, Tensor]
    amount: Amount
    macs: int
    parameters: int
    listed: tuple[str, ...]

    def plan(self) -> PruningPlan:
        """Plan the removal with the groups as they are locked now.

        Raises:
            ArgumentError: nothing can be pruned, or the amount does not fit the groups.
        """
        graph, scores, amount = self.graph, self.scores, self.amount
        _check_something_free(graph, scores)
        if amount.rates is not None:
            rates = _rates_by_group(self.model, graph, amount.rates, scores, self.listed)
            removed = select_by_rates(graph, rates, scores, amount.limits)
            held = held_by_limits(graph, rates, removed, amount.limits)
        else:
            costs = CostModel(self.model, graph, macs=self.macs, parameters=self.parameters)
            removed, held = _select_by_ratio(graph, scores, amount, costs), {}
        layers, skipped = _rows(graph, removed, scores, held)
        return PruningPlan(graph, removed, plan_cut(graph, removed), layers, skipped, held)


def _check_something_free(graph: ChannelGraph, scores: Mapping[str, Tensor]) -> None:
    if any(group.free and is_scored(group, scores) for group in graph.groups.values()):
        return
    reasons = [by_reason((name, reason) for name in graph.trace.layers for reason in graph.kept(name))]
    unscored = [name for name, group in graph.groups.items() if group.free]
    if unscored:
        reasons.append(f"the scores name none of the layers that can be pruned, {', '.join(unscored[:3])}, ...")
    why = "; ".join(filter(None, reasons)) or "no layer has prunable channels"
    raise ArgumentError(f"nothing can be pruned: {why}")


def _rates_by_group(
    model: nn.Module, graph: ChannelGraph, rates: Rates, scores: Mapping[str, Tensor], listed: Sequence[str]
) -> dict[str, Rate]:
    """Return rates by group; a list has one for each of the groups `listed`, even where some were locked since."""
    if isinstance(rates, Mapping):
        return rates_for_dict(graph, model, rates)
    base = base_of(model)
    name = None if base is None else base.name
    given = named_rates(rates, name) if isinstance(rates, str) else rates
    if isinstance(given, Sequence):
        known = None if name is None else PAPER_RATES.get(name)
        if known is not None:
            return rates_for_list(graph, known.layers, given, as_published=True)
        unscored = [group for group in listed if group in graph.groups and not is_scored(graph.groups[group], scores)]
        return rates_for_list(graph, [(group,) for group in listed], given, unscored=unscored)
    if number_of(given) is None:
        raise ArgumentError(
            f"rates must be one number, a list of numbers, a dict by layer or the name of a list; got {given!r}"
        )
    names = [group.name for group in graph.groups.values() if group.free and is_scored(group, scores)]
    return {name: Rate(check_rate(given, name)) for name in names}


def _select_by_ratio(graph: ChannelGraph, scores: Mapping[str, Tensor], amount: Amount, costs: CostModel) -> set[int]:
    name, of, target = (
        ("macs_ratio", "macs", amount.macs_ratio)
        if amount.macs_ratio is not None
        else ("params_ratio", "parameters", amount.params_ratio)
    )
    ratio = number_of(target)
    if ratio is None or not 0 < ratio <= 1:
        raise ArgumentError(f"{name} must be above 0 and at most 1, got {target!r}")
    left = partial(costs.ratio, of)
    return select_by_budget(graph, scores, amount.limits, left, float(ratio), of=of)


def _rows(
    graph: ChannelGraph, removed: set[int], scores: Mapping[str, Tensor], held: Mapping[str, str]
) -> tuple[tuple[PrunedLayer, ...], tuple[SkippedChannels, ...]]:
    layers, skipped = [], []
    for name, layer in graph.trace.layers.items():
        skipped += [SkippedChannels(name, count, reason) for reason, count in graph.kept(name).items()]
        group, met = graph.group_of(name), graph.groups_met(name)
        if layer.outer is None or (group is None and not met):
            continue
        units = units_of(graph.coupling, layer.outer)
        gone = tuple(place for place, unit in enumerate(units) if unit in removed)
        leader = ", ".join(met) if group is None else group.name
        layers.append(PrunedLayer(name, leader, len(units), len(units) - len(gone), gone))
        if group is None:
            continue
        if group.free and not is_scored(group, scores):
            why = f"no scores were given for it; in Python channels.score(layers=[{name!r}, ...]) makes some"
            skipped.append(SkippedChannels(name, len(units), why))
        if group.name in held:
            skipped.append(SkippedChannels(name, sum(unit not in group.locked for unit in units), held[group.name]))
    idle = "it did not run, so nothing is known of its channels"
    skipped += [SkippedChannels(name, 0, idle) for name in graph.trace.idle]
    read = "it was not called, and the network's code uses its weight, so nothing is known of its channels"
    skipped += [SkippedChannels(name, 0, read) for name in graph.trace.read_by_code]
    return tuple(layers), tuple(skipped)
