"""Report of a fused network: how each regularised layer runs, and why."""

from collections.abc import Iterable
from dataclasses import dataclass

from tailcut.execution.lazy.context import LayerRecord
from tailcut.printing import Report, table


@dataclass(frozen=True)
class LayerReport(Report):
    """One regularised layer.

    Attributes:
        name: its name.
        strategy: "dense" (a dense weight is used), "factored" (no dense weight, but a full map is written or read), or
            "fused" (neither).
        reason: why.
        macs: multiplications per forward of the example.
        dense_macs: of the dense layer.
        moved_bytes: bytes of maps and weights read or written per forward, by the cost model.
        dense_bytes: of the dense layer.
    """

    name: str
    strategy: str
    reason: str
    macs: int
    dense_macs: int
    moved_bytes: int
    dense_bytes: int


@dataclass(frozen=True)
class FuseReport(Report):
    """All regularised layers, in the order they run. `str` gives a table.

    Attributes:
        input_shapes: of the call's tensors.
        layers: those that ran.
        not_run: names of the others.
        engine: what fused layers run on: "torch", or "compiled", where sizes pay for that.
    """

    input_shapes: tuple[tuple[int, ...], ...]
    layers: tuple[LayerReport, ...]
    not_run: tuple[str, ...]
    engine: str

    def __str__(self) -> str:
        rows = [
            (
                layer.name,
                layer.strategy,
                f"{layer.macs / 1e6:,.2f}",
                f"{layer.dense_macs / 1e6:,.2f}",
                f"{layer.moved_bytes / 1e6:,.2f}",
                f"{layer.dense_bytes / 1e6:,.2f}",
                layer.reason,
            )
            for layer in self.layers
        ]
        header = ("layer", "strategy", "M MACs", "dense", "MB moved", "dense", "why")
        text = table(header, rows, align="<<>>>><")
        if any(layer.strategy != "dense" for layer in self.layers):
            text += f"\n\nengine: {self.engine}"
        if self.not_run:
            text += "\n\nnot run by the example: " + ", ".join(self.not_run)
        return text


def report_of(
    records: Iterable[LayerRecord], shapes: tuple[tuple[int, ...], ...], names: Iterable[str], engine: str
) -> FuseReport:
    """Return the report of one forward. Of all regularised layers (`names`) those without a record did not run."""
    layers = tuple(
        LayerReport(
            record.name,
            record.strategy,
            "; ".join(record.reasons),
            *map(round, (record.macs, record.dense_macs, record.moved_bytes, record.dense_bytes)),
        )
        for record in records
    )
    ran = {layer.name for layer in layers}
    return FuseReport(shapes, layers, tuple(name for name in names if name not in ran), engine)
