"""Report of `prune`: removed channels, and those that could not be removed, with the reason."""

from collections.abc import Iterable
from dataclasses import dataclass

from tailcut.printing import Report, named, table

MAX_NAMED = 3


def by_reason(reasons: Iterable[tuple[str, str]]) -> str:
    """Return layers and their reasons on one line, layers of one reason together.

    >>> by_reason([("conv1", "ignored"), ("conv2", "ignored"), ("fc", "the network's output")])
    "conv1, conv2: ignored; fc: the network's output"
    """
    names: dict[str, list[str]] = {}
    for name, reason in reasons:
        names.setdefault(reason, []).append(name)
    return "; ".join(f"{named(own, MAX_NAMED)}: {reason}" for reason, own in names.items())


@dataclass(frozen=True)
class PrunedLayer(Report):
    """A layer and its output channels.

    Attributes:
        name: of the layer.
        group: the first layer of its pruning group; layers of one group lose the same channels. Of a depthwise
            convolution behind several groups, the first layers of these, joined by ", ".
        before: how many it had.
        after: how many it has.
        removed: those that went, by their old numbers.
    """

    name: str
    group: str
    before: int
    after: int
    removed: tuple[int, ...]


@dataclass(frozen=True)
class SkippedChannels(Report):
    """Channels that could not be pruned.

    Attributes:
        name: of the layer.
        channels: how many of its channels.
        reason: why.
    """

    name: str
    channels: int
    reason: str


@dataclass(frozen=True)
class PruneNote(Report):
    """What a cut changes beyond the channels that went.

    Attributes:
        name: the first layer of the group that was cut.
        note: what changes: a mean over its channels is one over those that are left, and a number that the code makes
            of their count is that of those left.
    """

    name: str
    note: str


@dataclass(frozen=True)
class PruneReport(Report):
    """A pruning, layer by layer.

    Attributes:
        macs_before: multiply-accumulate operations of one run on the example input.
        macs_after: the same of the pruned network.
        num_parameters_before: numbers in the parameters.
        num_parameters_after: the same of the pruned network.
        layers: the layers with prunable output channels, in the order in which they run.
        skipped: what could not be pruned.
        notes: on the layers that were pruned.
    """

    macs_before: int
    macs_after: int
    num_parameters_before: int
    num_parameters_after: int
    layers: tuple[PrunedLayer, ...]
    skipped: tuple[SkippedChannels, ...]
    notes: tuple[PruneNote, ...] = ()

    @property
    def macs_ratio(self) -> float:
        """The part of the MACs that is left."""
        return self.macs_after / max(1, self.macs_before)

    @property
    def params_ratio(self) -> float:
        """The part of the parameters that is left."""
        return self.num_parameters_after / max(1, self.num_parameters_before)

    def __str__(self) -> str:
        rows = [
            (layer.name, "" if layer.group == layer.name else layer.group, layer.before, layer.after)
            for layer in self.layers
        ]
        text = table(("layer", "goes with", "channels", "kept"), rows, align="<<>>")
        totals = [
            ("MACs", f"{self.macs_before:,}", f"{self.macs_after:,}", f"{100 * (self.macs_ratio - 1):+.1f} %"),
            (
                "parameters",
                f"{self.num_parameters_before:,}",
                f"{self.num_parameters_after:,}",
                f"{100 * (self.params_ratio - 1):+.1f} %",
            ),
        ]
        text += "\n\n" + table(("", "before", "after", ""), totals, align="<>>>")
        if self.skipped:
            skipped = [(part.name, part.channels, part.reason) for part in self.skipped]
            text += "\n\n" + table(("not pruned", "channels", "why"), skipped, align="<><")
        if self.notes:
            text += "\n\n" + table(("pruned", "note"), [(note.name, note.note) for note in self.notes])
        return text
