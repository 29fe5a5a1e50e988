"""State of one forward of a fused network: settings, values that are computed once, and the record for the report."""

import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from tailcut.execution.ir.cost import Costs, Work

# Passes over a map that is written: it is made, transposed for its reader, and read.
WRITING_PASSES = 3
WRITTEN_WITH_VIEW = "a map is written in place, or in part, while a view of it is in use"


class UnsupportedError(Exception):
    """The fused program cannot do what the network does; the message says what. `FusedNetwork` runs it densely."""


class OutsideError(UnsupportedError, RuntimeError):
    """A part of a fused network was called where no forward of it runs; within one, by a thread of its own."""


def saving_hooks() -> Any:
    """Return the hooks that torch calls with tensors saved for the backward pass (checkpoints set some), or None."""
    return torch._C._autograd._top_saved_tensors_default_hooks(False)


@dataclass
class LayerRecord:
    """Record of one regularised layer in one forward.

    Attributes:
        name: the layer's name.
        strategy: "dense", "factored" or "fused".
        reasons: why, in words.
        macs: multiplications done for it.
        dense_macs: multiplications of the dense layer.
        moved_bytes: bytes of maps and weights read or written for it, roughly.
        dense_bytes: the same for the dense layer.
        seconds: what the cost model says.
        dense_seconds: the same for the dense layer.
    """

    name: str
    strategy: str
    reasons: list[str]
    macs: float = 0
    dense_macs: float = 0
    moved_bytes: float = 0
    dense_bytes: float = 0
    seconds: float = 0
    dense_seconds: float = 0

    def count(self, done: Work, dense: Work) -> None:
        """Add one call: what was done, and what the dense layer would have done."""
        self.macs += done.macs
        self.moved_bytes += done.moved_bytes
        self.seconds += done.seconds
        self.dense_macs += dense.macs
        self.dense_bytes += dense.moved_bytes
        self.dense_seconds += dense.seconds

    def turn_dense(self, reason: str) -> None:
        """Record that the layer runs densely after all."""
        self.strategy, self.reasons = "dense", [reason]
        self.macs, self.moved_bytes, self.seconds = self.dense_macs, self.dense_bytes, self.dense_seconds


@dataclass
class SharedMap:
    """A written map that the network has as an ordinary tensor, while lazy maps are views of the same map.

    Attributes:
        full: the written map.
        version: torch's count of the writes to it, when the network got it.
        views: references to the lazy maps.
    """

    full: Tensor
    version: int
    views: "list[weakref.ref[Any]]"

    def check(self) -> None:
        """Raise `UnsupportedError` if the map was written to since, which its lazy views do not show."""
        if self.full._version != self.version:
            raise UnsupportedError(WRITTEN_WITH_VIEW)

    def has_views(self) -> bool:
        """Return whether one of the lazy maps is still in use."""
        return any(view() is not None for view in self.views)


@dataclass
class Context:
    """The state of one forward.

    Attributes:
        engine: "torch" or "compiled", as in `cpu.tiles.project`.
        strategy: "auto": the cost model chooses; "low_rank", where a layer can, for all layers alike.
        differentiates: gradients are wanted.
        costs: the cost model's view of the device and of gradients.
        records: by layer, in order of execution.
        memo: values computed once per forward (dense weights that need a gradient).
        spoiled: why the result cannot be used, where that came up at a place that cannot raise; else empty.
        shared: maps whose views must not be written to.
        hooks: those of `saving_hooks` around the network.
        is_grad_enabled: around the network.
    """

    engine: str
    strategy: str
    costs: Costs
    differentiates: bool = False
    records: dict[str, LayerRecord] = field(default_factory=dict)
    memo: dict[Any, Any] = field(default_factory=dict)
    spoiled: str = ""
    shared: list[SharedMap] = field(default_factory=list)
    hooks: Any = field(default_factory=saving_hooks)
    is_grad_enabled: bool = field(default_factory=torch.is_grad_enabled)

    def record(self, name: str, strategy: str, reason: str) -> LayerRecord:
        """Return the record of a layer, made or continued (a layer may run several times)."""
        found = self.records.get(name)
        if found is None:
            found = self.records[name] = LayerRecord(name, strategy, [reason])
        elif reason not in found.reasons:
            found.strategy = strategy
            found.reasons.append(reason)
        return found

    def note(self, names: tuple[str, ...], reason: str, num_bytes: int = 0) -> None:
        """Record, for the layers that made a map, why it was written to memory: they do not count as fused."""
        for name in names:
            found = self.records.get(name)
            if found is not None:
                found.moved_bytes += num_bytes
                found.seconds += self.costs.move(WRITING_PASSES * num_bytes) / len(names)
                if reason not in found.reasons:
                    found.reasons.append(reason)
                if found.strategy == "fused":
                    found.strategy = "factored"

    def check(self) -> None:
        """Raise `UnsupportedError` if the result cannot be trusted."""
        if self.spoiled:
            raise UnsupportedError(self.spoiled)
        for item in self.shared:
            item.check()

    def share(self, item: SharedMap) -> None:
        """Keep a shared map under watch until its views are gone.

        Raises:
            UnsupportedError: one that was shared before was written to.
        """
        for known in self.shared:
            known.check()
        self.shared = [known for known in self.shared if known.has_views()] + [item]

    def pays(self) -> bool:
        """Return whether the whole forward is clearly cheaper than with dense weights, written maps included."""
        seconds = sum(record.seconds for record in self.records.values())
        return self.costs.network_pays(seconds, sum(record.dense_seconds for record in self.records.values()))


_current: ContextVar[Context | None] = ContextVar("tailcut_run", default=None)


def current_context() -> Context:
    """Return the context of the present forward.

    Raises:
        OutsideError: there is none: a part of a fused network was called on its own, or in another thread.
    """
    context = active_context()
    if context is None:
        raise OutsideError("a part of a fused network was called outside its forward; call the fused network")
    return context


def active_context() -> Context | None:
    """Return the context of the present forward, None between forwards."""
    return _current.get()


@contextmanager
def running(context: Context) -> Iterator[Context]:
    """Make `context` the current one."""
    token = _current.set(context)
    try:
        yield context
    finally:
        _current.reset(token)
