"""Exponents of their own for what functions and products read, so that no number loses bits to a larger one."""

from dataclasses import dataclass, field, replace

from tailcut.errors import StructureError
from tailcut.export_c.integer.functions import FUNCTIONS
from tailcut.export_c.program.program import Op, Operation, Segment, Stage, Value

MAX_UNITS = 16
"""Exponents of one stage, as `TAILCUT_MAX_UNITS` of the C code."""


@dataclass
class Units:
    """Exponents of a stage's rows, by number; that of the result is 0.

    Attributes:
        count: how many there are.
        sources: of the rows that a function or a product reads, by the identity of the operation.
    """

    count: int = 1
    sources: dict[int, tuple[int, ...]] = field(default_factory=dict)

    def new(self) -> int:
        """Return the number of one more."""
        self.count += 1
        return self.count - 1


def with_units(stage: Stage) -> tuple[Stage, Units]:
    """Return a stage whose expressions say where the exponent changes, every operation an object of its own.

    Raises:
        StructureError: it has more functions and products than there can be exponents.
    """
    units, value = Units(), stage.value
    behind, unit = _behind(value, units)
    segments, first, most = [], units.count, units.count
    for segment in value.segments:
        units.count = first  # segments share their exponents
        steps, place = _steps(segment.ops, len(segment.ops) - 1, unit, units)
        if place != -1:
            raise TypeError("an expression gives one row")
        segments.append(steps)
        most = max(most, units.count)
    units.count = most
    if most > MAX_UNITS:
        raise StructureError(
            f"{stage.node}: {most - 1} numbers that functions and products read at once, at most {MAX_UNITS - 1} can "
            "be; export with the arithmetic float32"
        )
    made = [
        Segment(segment.channels, _switched(steps, None if most > 1 else 0))
        for segment, steps in zip(value.segments, segments, strict=True)
    ]
    return replace(stage, value=replace(value, segments=tuple(made), ops=_switched(behind, unit))), units


def _behind(value: Value, units: Units) -> tuple[list[tuple[Op, int]], int]:
    """Return the operations behind a change of size, each with the unit of its result, and the unit of their input."""
    found: list[tuple[Op, int]] = []
    unit = 0
    for op in reversed(value.ops):
        own, source = _with_sources(op, units)
        found.append((own, unit))
        unit = source[0] if source else unit
    return found[::-1], unit


def _with_sources(op: Op, units: Units) -> tuple[Op, tuple[int, ...]]:
    """Return a copy of an operation, and new units of what it reads if these are others than that of its result."""
    own = replace(op)
    count = 2 if op.kind == Operation.MULTIPLY else int(op.kind in FUNCTIONS)
    source = tuple(units.new() for _ in range(count))
    if source:
        units.sources[id(own)] = source
    return own, source


def _steps(ops: tuple[Op, ...], place: int, unit: int, units: Units) -> tuple[list[tuple[Op, int]], int]:
    """Return what makes the row that ends at a place, each with the unit of its result, and the place before all."""
    own, source = _with_sources(ops[place], units)
    place -= 1
    if own.kind in (Operation.LEAF, Operation.ZERO):
        return [(own, unit)], place
    steps: list[tuple[Op, int]] = []
    for part in reversed(source or (unit,) * (2 if own.kind == Operation.ADD else 1)):
        before, place = _steps(ops, place, part, units)
        steps = before + steps
    return [*steps, (own, unit)], place


def _switched(steps: list[tuple[Op, int]], unit: int | None) -> tuple[Op, ...]:
    """Return operations with those between them that change the unit, `unit` at the start."""
    found = []
    for op, own in steps:
        if own != unit:
            found.append(Op(Operation.UNIT, low=float(own)))
            unit = own
        found.append(op)
    return tuple(found)
