"""A program as the rows of the C structures of `runtime/tailcut_run.h`, before they become text or bytes."""

import enum
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tailcut.export_c.program.memory import mix_floats, stack_depth
from tailcut.export_c.program.program import Kind, Leaf, Map, Op, Program, Recurrence, Stage, Value
from tailcut.export_c.program.weights import Floats, StoredNumbers, Weight

INPUT_OFFSET = -1  # TAILCUT_INPUT
NONE = -1  # TAILCUT_NONE
# Bytes of the structures on a processor of 32 bits.
SIZES = {"stage": 96, "segment": 6, "op": 20, "leaf": 40, "weight": 40, "model": 36}


class NumberType(enum.IntEnum):
    """Types of stored numbers, as `tailcut.h` numbers them."""

    FLOAT32 = 0
    FLOAT16 = 1
    INT16 = 6
    INT8 = 7
    CODED = 12


def number_type(stored: StoredNumbers) -> NumberType:
    """Return the type of stored numbers."""
    name = stored.content.dtype.name.upper()
    return NumberType.CODED if name == "UINT8" else NumberType[name]


@dataclass(frozen=True)
class Pointer:
    """A pointer to an array of `Tables.arrays`, by its number; to nothing where that is None."""

    array: int | None


@dataclass(frozen=True)
class Row:
    """One structure: its fields in the order of the header, and what it stands for.

    A value is an int (also an enumeration of `program`), a float, a `Pointer`, or a tuple of such values for an inner
    structure or array.
    """

    fields: dict[str, Any]
    comment: str = ""


@dataclass(eq=False)
class Arrays:
    """Constant arrays, the same content once.

    Attributes:
        contents: what they hold.
        bytes_for: of them, by what they are for.
    """

    contents: list[np.ndarray[Any, Any]] = field(default_factory=list)
    bytes_for: dict[str, int] = field(
        default_factory=lambda: {"coefficients": 0, "dense weights": 0, "other parameters": 0}
    )
    _numbers: dict[bytes, int] = field(default_factory=dict)

    def pointer(self, stored: StoredNumbers, purpose: str) -> Pointer:
        """Return a pointer to these numbers, which are taken in if they are new."""
        content = np.ascontiguousarray(stored.content)
        key = content.dtype.str.encode() + content.tobytes()
        if key not in self._numbers:
            self._numbers[key] = len(self.contents)
            self.contents.append(content)
            self.bytes_for[purpose] = self.bytes_for.get(purpose, 0) + content.nbytes
        return Pointer(self._numbers[key])


class Tables:
    """Rows of one program.

    Args:
        program: with its memory planned.
        arrays: where its numbers go; those of several programs may share them.

    Attributes:
        rows: of each kind of structure, in an order in which a C compiler knows each before it is used.
        arrays: the constant arrays.
    """

    def __init__(self, program: Program, arrays: Arrays | None = None) -> None:
        self.arrays = arrays or Arrays()
        self.rows: dict[str, list[Row]] = {kind: [] for kind in ("weight", "leaf", "op", "segment", "stage")}
        self._numbers: dict[int, int] = {}
        for stage in program.stages:
            self._stage(stage)

    def flash_bytes(self) -> dict[str, int]:
        """Count the bytes of constants, by what they are for; "program" on a processor of 32 bits."""
        return bytes_of(self.rows, self.arrays, SIZES)

    def _floats(self, numbers: Floats | None) -> Pointer:
        if numbers is None:
            return Pointer(None)
        return self.arrays.pointer(StoredNumbers(numbers.astype(np.float32)), "other parameters")

    def _weight(self, weight: Weight | None) -> int:
        if weight is None:
            return NONE
        if id(weight) not in self._numbers:
            self._numbers[id(weight)] = len(self.rows["weight"])
            stored = weight.stored
            content = self.arrays.pointer(stored, "coefficients" if weight.is_truncated else "dense weights")
            array = (content, float(stored.step), len(weight.numbers), number_type(stored))
            self.rows["weight"].append(Row(weight_fields(weight, array), weight.name))
        return self._numbers[id(weight)]

    def _recurrence(self, recurrence: Recurrence) -> int:
        """Return the number of the input's weight, behind which is the state's."""
        if id(recurrence.of_input) not in self._numbers:
            self._weight(recurrence.of_input)
            self._weight(recurrence.of_state)
        return self._numbers[id(recurrence.of_input)]

    def _detail(self, stage: Stage) -> int:
        if stage.recurrence is not None:
            return self._recurrence(stage.recurrence)
        if stage.attention is not None:
            return stage.attention.keys
        if stage.table is not None:
            return stage.table.first
        return stage.strides[2] if stage.kind == Kind.PERMUTE else stage.output_offset

    def _leaf(self, leaf: Leaf) -> None:
        fields = {
            "map": map_fields(leaf.map),
            "stats": NONE if leaf.norm is None else leaf.norm.offset,
            "up": self._weight(leaf.up),
            **part_fields(leaf),
        }
        self._numbers[id(leaf)] = len(self.rows["leaf"])
        self.rows["leaf"].append(Row(fields))

    def _op(self, op: Op) -> None:
        fields = {
            "scale": self._floats(op.scale),
            "shift": self._floats(op.shift),
            "low": float(op.low),
            "high": float(op.high),
            "leaf": 0 if op.leaf is None else self._numbers[id(op.leaf)],
            "kind": op.kind,
        }
        self.rows["op"].append(Row(fields))

    def _stage(self, stage: Stage) -> None:
        value, norm, recurrence, attention = stage.value, stage.norm, stage.recurrence, stage.attention
        gamma, beta = (None, None) if norm is None else (norm.gamma, norm.beta)
        if recurrence is not None:
            gamma, beta = recurrence.bias, recurrence.state_bias
        at = add_value(value, self.rows, self._leaf, self._op)
        fields: dict[str, Any] = {
            "out": out_fields(stage),
            "stats": NONE if norm is None else norm.offset,
            "gamma": self._floats(gamma),
            "beta": self._floats(beta),
            "epsilon": float(stage.epsilon if norm is None else norm.epsilon),
            "scratch": stage.scratch_offset,
            "mix": mix_floats(stage),
            "detail": self._detail(stage),
            "weight": self._weight(stage.weight if stage.table is None else stage.table.weight),
            "groups": stage.groups if attention is None else attention.num_heads,
            **size_fields(value),
            **{name: at[name] for name in ("first_segment", "num_segments", "first_op", "num_ops")},
            "first_leaf": at["first_leaf"],
            "part": stage.part or (0 if stage.out is None or stage.weight is None else stage.out.channels),
            "num_leaves": at["num_leaves"],
            "kind": stage.kind,
            "resample": value.resampling,
            "counts_padding": int(value.flag),
            "depth": stack_depth(value.segments),
            **window_fields(stage),
            "is_reversed": int(recurrence.is_reversed if recurrence else attention is not None and attention.is_causal),
            "out_pool": stage.pool if stage.is_pooled else (0, 0),
        }
        self.rows["stage"].append(Row(fields, stage.node))


def bytes_of(rows: Mapping[str, Sequence[Row]], arrays: Arrays, sizes: Mapping[str, int]) -> dict[str, int]:
    """Count the bytes of a program's constants, by what they are for; `sizes` are those of its structures."""
    counts = {kind: len(found) for kind, found in rows.items()} | {"model": 1}
    return {**arrays.bytes_for, "program": sum(sizes[kind] * count for kind, count in counts.items())}


def add_value(
    value: Value,
    rows: Mapping[str, list[Row]],
    add_leaf: Callable[[Leaf], None],
    add_op: Callable[[Op], None],
    *,
    is_read_as_it_is: bool = False,
) -> dict[str, int]:
    """Add the rows of what makes a stage's input; return the stage's fields that say where they are.

    Args:
        value: the input.
        rows: of the program, which get the segments; `add_leaf` and `add_op` add the others.
        add_leaf: adds one leaf.
        add_op: adds one operation.
        is_read_as_it_is: whether the stage reads its map as it is, without segments and operations.
    """
    segments, ops = rows["segment"], rows["op"]
    fields = {"first_leaf": len(rows["leaf"]), "num_leaves": len(value.leaves())}
    for leaf in value.leaves():
        add_leaf(leaf)
    of_input = [] if is_read_as_it_is else value.segments
    fields |= {"first_segment": len(segments), "num_segments": len(of_input)}
    for segment in of_input:
        segments.append(Row({"channels": segment.channels, "first_op": len(ops), "num_ops": len(segment.ops)}))
        for op in segment.ops:
            add_op(op)
    fields |= {"first_op": len(ops), "num_ops": len(value.ops)}
    for op in [] if is_read_as_it_is else value.ops:
        add_op(op)
    return fields


def weight_fields(weight: Weight, array: tuple[Any, ...]) -> dict[str, Any]:
    """Return the fields of `tailcut_weight`; `array` are those of its numbers."""
    return {
        "array": array,
        "sizes": weight.sizes,
        "corner": weight.corner,
        "order_weights": (*weight.order_weights, 1, 1, 1, 1)[:4],
        "axes": sum(1 << axis for axis in weight.axes),
        "is_truncated": int(weight.is_truncated),
        "is_swapped": int(weight.is_swapped),
    }


def part_fields(leaf: Leaf) -> dict[str, int]:
    """Return the fields of a leaf that say which part of its map it is, the same in both runners."""
    return {
        "top": leaf.top,
        "left": leaf.left,
        "num_channels": leaf.num_channels,
        "first": leaf.first,
        "height": leaf.height,
        "width": leaf.width,
        "is_narrow": int(leaf.is_narrow),
    }


def size_fields(value: Value) -> dict[str, int]:
    """Return the fields of a stage's sizes, the same in both runners."""
    return {
        "channels": value.channels,
        "source_height": value.source[0],
        "source_width": value.source[1],
        "height": value.size[0],
        "width": value.size[1],
    }


def window_fields(stage: Stage) -> dict[str, tuple[int, int]]:
    """Return the fields of a stage's windows, the same in both runners."""
    window, pool = stage.window, stage.value.window
    return {
        "kernel": window.kernel,
        "stride": window.stride,
        "padding": window.padding,
        "dilation": window.dilation,
        "pool_kernel": pool.kernel,
        "pool_stride": pool.stride,
        "pool_padding": pool.padding,
    }


def out_fields(stage: Stage) -> tuple[int, ...]:
    """Return the fields of the map that a stage writes, as it writes it."""
    fields = map_fields(Map(0, 0, 0, offset=0) if stage.out is None else stage.out)
    return (fields[0], stage.strides[1], stage.strides[0], *fields[3:]) if stage.kind == Kind.PERMUTE else fields


def map_fields(map_: Map) -> tuple[int, ...]:
    """Return the fields of `tailcut_map`."""
    offset = INPUT_OFFSET if map_.is_input else map_.owner.offset + map_.first
    row = map_.width if map_.is_in_planes else map_.row_stride
    return offset, row, map_.channel_stride, map_.channels, map_.height, map_.width
