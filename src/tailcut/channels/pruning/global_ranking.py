"""Global ranking: all channels of a network, removed from the lowest until MACs or parameters fit a budget."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields

import numpy as np
from torch import Tensor, nn

from tailcut.channels.graph.groups import ChannelGraph, units_of
from tailcut.channels.pruning.report import MAX_NAMED, by_reason
from tailcut.channels.pruning.selection import Limits, candidates, importance_of, is_scored, take
from tailcut.channels.pruning.surgery import holders
from tailcut.errors import ArgumentError

_OF = {"macs": "MACs", "parameters": "parameters"}
_LEAST_SHARE = 0.01  # of all; layers that cost less are not to blame for what is left


@dataclass(frozen=True)
class _Tensor:
    """A parameter whose size depends on which channels go."""

    positions: int  # how often each number is used in one forward; 0 where it is not multiplied with maps
    constant: int  # product of the sizes of the axes that stay
    axes: tuple[np.ndarray, ...]  # unit of each place along the others

    def size(self, gone: np.ndarray) -> int:
        """Return its number of entries without the units marked in `gone`."""
        size = self.constant
        for units in self.axes:
            size *= int(np.count_nonzero(~gone[units]))
        return size


class CostModel:
    """Parameters and MACs of a network as a function of the units that go.

    Args:
        model: the network, not yet cut; it is not changed.
        graph: of the network.
        macs: of the whole network; products outside layers (within attention) count as constant.
        parameters: of the whole network, likewise.
    """

    def __init__(self, model: nn.Module, graph: ChannelGraph, *, macs: int, parameters: int) -> None:
        self._tensors = _tensors(model, graph)
        self._num_units = len(graph.coupling)
        self._whole = {"macs": macs, "parameters": parameters}
        nothing = np.zeros(self._num_units, dtype=bool)
        self._rest = {of: whole - self._sum(of, nothing) for of, whole in self._whole.items()}

    def ratio(self, of: str, removed: set[int]) -> float:
        """Return the ratio of "macs" or "parameters" that is left when these units are removed."""
        gone = np.zeros(self._num_units, dtype=bool)
        gone[list(removed)] = True
        return (self._rest[of] + self._sum(of, gone)) / max(1, self._whole[of])

    def _sum(self, of: str, gone: np.ndarray) -> int:
        factors = ((tensor.positions if of == "macs" else 1, tensor) for tensor in self._tensors)
        return sum(factor * tensor.size(gone) for factor, tensor in factors if factor)


def select_by_budget(
    graph: ChannelGraph,
    scores: Mapping[str, Tensor],
    limits: Limits,
    ratio: Callable[[set[int]], float],
    target: float,
    *,
    of: str = "macs",
) -> set[int]:
    """Return the fewest units, lowest first, whose removal brings `ratio` down to `target`.

    The importance of a unit is relative to the mean of its layers (`importance_of`), so that units of all groups
    stand in one ranking.

    Args:
        graph: of the network.
        scores: as `check_scores` gives them.
        limits: of every layer.
        ratio: what is left when units are removed.
        target: what may be left.
        of: what `ratio` counts, "macs" or "parameters".

    Raises:
        ArgumentError: the target cannot be reached within the limits; the message says what holds most of the rest.
    """
    ranking = _ranking(graph, scores)

    def select(count: int) -> set[int]:
        return _within_limits(graph, ranking[:count], limits)

    low, high = 0, len(ranking)
    reached = ratio(select(high))
    if reached > target:
        hints = [f"a ratio of {target} cannot be reached: with all that may go removed, {reached:.4f} is left"]
        if ratio(_within_limits(graph, ranking, Limits())) < reached:
            hints.append(f"allow narrower layers (now {_described(limits)})")
        unscored = [name for name, group in graph.groups.items() if group.free and not is_scored(group, scores)]
        if unscored:
            hints.append(f"score more layers ({by_reason((name, 'no scores') for name in unscored)})")
        raise ArgumentError("; ".join([*hints, *_must_stay(graph, of)]))
    while low < high:
        middle = (low + high) // 2
        if ratio(select(middle)) <= target:
            high = middle
        else:
            low = middle + 1
    return select(high)


def _described(limits: Limits) -> str:
    """Return the limits that were set."""
    values = {field.name: getattr(limits, field.name) for field in fields(limits)}
    return ", ".join(f"{key}={value}" for key, value in values.items() if value != getattr(Limits, key))


def _must_stay(graph: ChannelGraph, of: str) -> list[str]:
    """Say which layers that keep all their channels cost most, and why they keep them; nothing if they cost little."""
    costs = {}
    for name, layer in graph.trace.layers.items():
        weight = getattr(layer.module, "weight", None)
        if isinstance(weight, Tensor):
            costs[name] = weight.numel() * (layer.positions if of == "macs" else 1)
    least = _LEAST_SHARE * sum(costs.values())
    locked = [name for name, cost in costs.items() if cost >= least and _is_whole(graph, name)]
    dearest = sorted(locked, key=costs.__getitem__, reverse=True)[:MAX_NAMED]
    kept = by_reason((name, next(iter(graph.kept(name)))) for name in dearest)
    return [f"of the layers that must keep their channels these have the most {_OF[of]}: {kept}"] if kept else []


def _is_whole(graph: ChannelGraph, name: str) -> bool:
    group = graph.group_of(name)
    return bool(graph.kept(name)) and (group is None or not group.free)


def _ranking(graph: ChannelGraph, scores: Mapping[str, Tensor]) -> list[int]:
    ranked = []
    for group in graph.groups.values():
        importance = importance_of(graph, group, scores)
        if importance is not None:
            ranked += [(importance[unit], unit) for unit in group.free]
    return [unit for _, unit in sorted(ranked)]


def _within_limits(graph: ChannelGraph, lowest: list[int], limits: Limits) -> set[int]:
    removed: set[int] = set()
    place = {unit: number for number, unit in enumerate(lowest)}
    for group in graph.groups.values():
        wanted = sorted((unit for unit in candidates(graph, group, removed) if unit in place), key=place.__getitem__)
        removed |= take(graph, group, wanted, limits)
    return removed


def _tensors(model: nn.Module, graph: ChannelGraph) -> list[_Tensor]:
    """Return the parameters whose size depends on channels; tied ones once, with all their uses."""
    found: dict[int, _Tensor] = {}
    for name, _, attribute, x in holders(model):
        if not isinstance(x, nn.Parameter):
            continue
        layer = graph.trace.layers.get(name.rpartition(".")[0])
        positions = layer.positions if layer is not None and attribute == "weight" else 0
        if id(x) in found:
            positions += found[id(x)].positions
        axes = {} if layer is None else layer.axes.get(attribute, {})
        if name in graph.trace.free:
            axes = graph.axes_of(graph.trace.free[name])
        constant = math.prod(size for axis, size in enumerate(x.shape) if axis not in axes)
        units = tuple(np.array(units_of(graph.coupling, labels)) for labels in axes.values())
        found[id(x)] = _Tensor(positions, constant, units)
    return list(found.values())
