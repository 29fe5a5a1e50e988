"""Pruning groups: the channels that can only be removed together, and the reasons why others must stay.

A *unit* is a set of channels that are coupled: they are added, gated, or tied, so that they go together or not at all.
A *group* is the units of the layers that share some of them: all channels that a convolution makes, or those of all
layers whose outputs are added. Rates count units of a group.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase

import numpy as np
import torch
from torch import Tensor, nn

from tailcut.channels.graph.coupling import FIXED, Coupling
from tailcut.channels.graph.layer_rules import Alignment, TracedLayer
from tailcut.channels.graph.tracing import Trace, trace
from tailcut.errors import ArgumentError
from tailcut.model_inputs import InputTensors

IGNORED = "ignored"


@dataclass(frozen=True)
class PruningGroup:
    """Channels that are chosen from together.

    Attributes:
        name: the first layer of the group.
        layers: the layers whose output channels these are: those that make them, in the order in which they run,
            then those that take them one by one (depthwise convolutions).
        units: the coupled channels, by the number that stands for them, in the order of the first layer.
        locked: unit -> why it must stay.
    """

    name: str
    layers: tuple[str, ...]
    units: tuple[int, ...]
    locked: dict[int, str] = field(default_factory=dict)

    @property
    def free(self) -> list[int]:
        """The units that may go."""
        return [unit for unit in self.units if unit not in self.locked]


@dataclass(frozen=True)
class DependentGroup:
    """A group whose middle channels lie beside those of another one, in the same order, in a padded shortcut.

    A channel of the follower may go only with the channel beside it; a channel beside it may go alone, since the
    shortcut can pad another zero in its place, when the follower's channels are put into another order.
    """

    alignment: Alignment
    leader: str
    group: str
    beside: dict[int, int]  # unit of the follower -> unit of the leader


PASSES_ON = "it passes on channels one by one, and these must stay"


@dataclass
class ChannelGraph:
    """All that is known of a network's channels.

    Attributes:
        trace: the trace of the forward.
        groups: by name, in the order in which their first layers run.
        followers: groups that depend on another one through a padded shortcut.
        axes: of the tensors that channels lie along: name, axis and the unit at each place.
        ends: the units of each layer's input and of its output channels, none where it has none of its own.
    """

    trace: Trace
    groups: dict[str, PruningGroup] = field(init=False)
    followers: list[DependentGroup] = field(init=False)
    axes: list[tuple[str, int, np.ndarray]] = field(init=False)
    ends: dict[str, tuple[np.ndarray, np.ndarray]] = field(init=False)

    def __post_init__(self) -> None:
        self.build()

    @property
    def coupling(self) -> Coupling:
        """Of the trace."""
        return self.trace.coupling

    def group_of(self, layer: str) -> PruningGroup | None:
        """Return the group of a layer's output channels, or None if it is not a prunable layer."""
        return next((group for group in self.groups.values() if layer in group.layers), None)

    def groups_met(self, name: str) -> list[str]:
        """Return the names of the groups whose channels a depthwise convolution passes on: several, behind `cat`."""
        layer = self.trace.layers.get(name)
        if layer is None or layer.outer is None or layer.originates or not layer.positions:
            return []
        units = set(units_of(self.coupling, layer.outer))
        return [group.name for group in self.groups.values() if not units.isdisjoint(group.units)]

    def is_fixed_by_input(self, name: str) -> bool:
        """Return whether a layer passes on channels one by one, as a depthwise convolution, of which none can go."""
        layer = self.trace.layers.get(name)
        passes_on = layer is not None and layer.outer is not None and bool(layer.positions) and not layer.originates
        return passes_on and self.group_of(name) is None and not self.groups_met(name)

    def layer(self, name: str) -> TracedLayer:
        """Return what the trace holds of the layer with this name."""
        return self.trace.layers[name]

    def kept(self, name: str) -> dict[str, int]:
        """Return why channels of a layer must stay, and how many of them: 0 where they are not known."""
        layer, group = self.layer(name), self.group_of(name)
        if group is None or layer.outer is None:
            why = PASSES_ON if layer.why is None and self.is_fixed_by_input(name) else layer.why
            return {} if why is None else {why: 0 if layer.outer is None else len(layer.outer)}
        return dict(
            Counter(group.locked[unit] for unit in units_of(self.coupling, layer.outer) if unit in group.locked)
        )

    def widths(self, group: PruningGroup) -> list[dict[int, int]]:
        """For each layer of a group how many channels each unit has in it; layers that are alike once."""
        counts: list[dict[int, int]] = []
        for name in group.layers:
            own = dict(Counter(self.ends[name][1].tolist()))
            if own not in counts:
                counts.append(own)
        return counts

    def axes_of(self, labels: Tensor) -> dict[int, Tensor]:
        """Of a tensor outside of layers, the channel at each place along each axis that channels lie along."""
        axes = {}
        for axis in self.coupling.varied(labels):
            line = self.coupling.tidy(labels)
            for other in reversed(range(labels.ndim)):
                if other != axis:
                    line = line.select(other, 0)
            axes[axis] = line.contiguous()
        return axes

    def lock(self, units: Iterable[int], reason: str) -> None:
        """Keep more units (changes the graph)."""
        self.coupling.lock(units, reason)
        self.build()

    def build(self) -> None:
        """Find the groups again, after channels were locked (changes the graph)."""
        self.groups, self.followers = _build(self.trace)
        tensors = {
            layer.path(attribute): axes
            for layer in self.trace.layers.values()
            for attribute, axes in layer.axes.items()
        } | {name: self.axes_of(labels) for name, labels in self.trace.free.items()}
        roots = self.coupling.roots
        self.axes = [(name, axis, roots(x).numpy()) for name, axes in tensors.items() for axis, x in axes.items()]
        none = torch.empty(0, dtype=torch.int64, device="cpu")
        self.ends = {
            name: (
                roots(none if layer.inner is None else layer.inner).numpy(),
                roots(none if layer.outer is None else layer.outer).numpy(),
            )
            for name, layer in self.trace.layers.items()
        }


def find_groups(model: nn.Module, inputs: InputTensors, ignore: Sequence[str] = ()) -> ChannelGraph:
    """Return the pruning groups of a network. The model is not changed.

    Args:
        model: any network.
        inputs: what its forward takes.
        ignore: shell-style patterns on names of layers (and of modules that hold them) whose output channels stay.

    Raises:
        ArgumentError: the network does not run on the inputs, or a pattern matches nothing.
    """
    traced = trace(model, inputs)
    for layer in traced.layers.values():
        if layer.why is not None and layer.outer is not None:
            traced.coupling.lock(layer.outer, layer.why)
    for pattern in ignore:
        matching = [layer for name, layer in traced.layers.items() if _matches(name, pattern)]
        if not any(_matches(name, pattern) for name, _ in model.named_modules()):
            raise ArgumentError(f"ignore: no module is named {pattern!r}; names are those of model.named_modules()")
        for layer in matching:
            if layer.outer is not None:
                traced.coupling.lock(layer.outer, IGNORED)
    _lock_uncuttable(model, traced)
    return ChannelGraph(traced)


def units_of(coupling: Coupling, labels: Tensor) -> list[int]:
    """Return the unit of each entry of a vector of labels."""
    units: list[int] = coupling.roots(labels).tolist()
    return units


def _matches(name: str, pattern: str) -> bool:
    parts = name.split(".")
    return any(fnmatchcase(".".join(parts[: end + 1]), pattern) for end in range(len(parts)))


def _lock_uncuttable(model: nn.Module, traced: Trace) -> None:
    """Numbers outside of layers can be cut in whole slices only, and only where files hold them."""
    coupling = traced.coupling
    kept = set(model.state_dict(keep_vars=True))
    for name, labels in traced.free.items():
        if name not in kept:
            coupling.lock(labels, f"meets the buffer {name}, which is not in the state_dict")
        roots = coupling.roots(labels).numpy()
        whole = np.zeros(0, dtype=np.int64)
        for axis in range(roots.ndim):
            lines = np.moveaxis(roots, axis, 0).reshape(roots.shape[axis], -1)
            first = lines[:, 0]
            own = first[(lines == first[:, None]).all(axis=1)]
            others = lines[~np.isin(first, own)]
            whole = np.union1d(whole, np.setdiff1d(own, others))
        rest = torch.from_numpy(np.setdiff1d(roots, whole))
        coupling.lock(rest, f"meets single numbers of {name}, which can be cut in whole slices only")


def _build(traced: Trace) -> tuple[dict[str, PruningGroup], list[DependentGroup]]:
    """Return the groups and the dependent groups; a padded shortcut of unknown form couples channel by channel."""
    hard: set[str] = set()
    while True:
        groups = _groups(traced)
        followers: list[DependentGroup] = []
        refused: list[Alignment] = []
        for alignment in traced.alignments.values():
            if alignment.name in hard:
                continue
            follower = _follower(traced, groups, alignment)
            if follower is None or any(other.group == follower.group for other in followers):
                refused.append(alignment)
            else:
                followers.append(follower)
        if not refused:
            return groups, followers
        for alignment in refused:
            hard.add(alignment.name)
            middle = alignment.outer[alignment.before : alignment.before + len(alignment.inner)]
            traced.coupling.couple(alignment.inner, middle, f"goes into {alignment.name} with fixed entries")


def _groups(traced: Trace) -> dict[str, PruningGroup]:
    coupling = traced.coupling
    locked = coupling.locked_units()
    outer = {layer.name: units_of(coupling, layer.outer) for layer in traced.layers.values() if layer.outer is not None}
    makers = [layer for layer in traced.layers.values() if layer.originates and layer.name in outer]
    takers = {  # depthwise convolutions
        layer.name: set(outer.get(layer.name, ()))
        for layer in traced.layers.values()
        if not layer.originates and layer.positions
    }
    home: dict[int, int] = {}  # unit -> number of its group
    members: list[list[TracedLayer]] = []
    units: list[list[int]] = []
    for layer in makers:
        own = list(dict.fromkeys(outer[layer.name]))
        met = sorted({home[unit] for unit in own if unit in home})
        place = met[0] if met else len(members)
        if not met:
            members.append([])
            units.append([])
        for other in met[1:]:
            members[place] += members[other]
            units[place] += units[other]
            members[other], units[other] = [], []
        members[place].append(layer)
        units[place] += [unit for unit in own if home.get(unit) not in met]
        home |= dict.fromkeys(units[place], place)
    order = {name: number for number, name in enumerate(traced.layers)}
    groups = {}
    for place, layers in enumerate(members):
        if not layers:
            continue
        names = sorted((layer.name for layer in layers), key=order.__getitem__)
        there = set(units[place])
        names += [name for name, own_units in takers.items() if own_units <= there and name not in names]
        own = [unit for unit in units[place] if unit != FIXED]
        why = {unit: locked[unit] for unit in own if unit in locked}
        groups[names[0]] = PruningGroup(names[0], tuple(names), tuple(own), why)
    return groups


def _follower(traced: Trace, groups: dict[str, PruningGroup], alignment: Alignment) -> DependentGroup | None:
    """Return the dependence of a padded shortcut's output on its input, or None if the output cannot be reordered."""
    coupling = traced.coupling
    inner, outer = units_of(coupling, alignment.inner), units_of(coupling, alignment.outer)
    leader = next((group for group in groups.values() if set(inner) <= set(group.units)), None)
    group = next((group for group in groups.values() if set(outer) == set(group.units)), None)
    if leader is None or group is None or leader is group:
        return None
    if any(why != IGNORED for why in group.locked.values()):
        return None  # the order of an output counts, that of a layer that keeps its width does not
    if len(set(inner)) < len(inner) or len(set(outer)) < len(outer):
        return None
    for layer in traced.layers.values():
        if any(not _holds_all(units_of(coupling, labels), group.units) for labels in layer.labels()):
            return None
    if any(set(units_of(coupling, labels.flatten())) & set(group.units) for labels in traced.free.values()):
        return None
    beside = dict(zip(outer[alignment.before :], inner, strict=False))
    return DependentGroup(alignment, leader.name, group.name, beside)


def _holds_all(there: Sequence[int], units: Sequence[int]) -> bool:
    """Return whether a row of units holds none of a group's units, or each of them equally often."""
    wanted = set(units)
    counts = dict.fromkeys(units, 0)
    for unit in there:
        if unit in wanted:
            counts[unit] += 1
    return len(set(counts.values())) <= 1
