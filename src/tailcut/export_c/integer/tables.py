"""A program in integers as the rows of the C structures of `runtime/tailcut_run_integer.h`."""

from functools import partial
from typing import Any

import numpy as np

from tailcut.export_c.integer.arithmetic import packed, scaled
from tailcut.export_c.integer.bounds import changes_bound
from tailcut.export_c.integer.functions import FUNCTIONS, function_of
from tailcut.export_c.integer.memory import mix_numbers
from tailcut.export_c.integer.program import IntegerProgram, IntegerStage
from tailcut.export_c.integer.weights import IntegerWeight
from tailcut.export_c.program.memory import stack_depth
from tailcut.export_c.program.program import Kind, Leaf, Norm, Op, Operation
from tailcut.export_c.program.weights import Floats, StoredNumbers
from tailcut.export_c.writing.tables import (
    NONE,
    Arrays,
    Pointer,
    Row,
    add_value,
    bytes_of,
    map_fields,
    number_type,
    out_fields,
    part_fields,
    size_fields,
    weight_fields,
    window_fields,
)

# Bytes of the structures on a processor of 32 bits.
SIZES = {"weight": 56, "norm": 20, "function": 16, "leaf": 40, "op": 20, "segment": 6, "stage": 80, "model": 32}


class IntegerTables:
    """Rows of one program; see `tables.Tables`."""

    def __init__(self, program: IntegerProgram) -> None:
        self.arrays = Arrays()
        self.rows: dict[str, list[Row]] = {
            kind: [] for kind in ("weight", "norm", "function", "leaf", "op", "segment", "stage")
        }
        self._slots = {id(item.stage.out): 1 + place for place, item in enumerate(program.stages)}
        self._leaves: dict[int, int] = {}
        self._norms: dict[int, int] = {}
        self._functions: dict[int, int] = {}
        self._program = program
        self._num_outputs = 0
        for item in program.stages:
            self._stage(item)

    def flash_bytes(self) -> dict[str, int]:
        """Count the bytes of constants, by what they are for; "program" on a processor of 32 bits."""
        return bytes_of(self.rows, self.arrays, SIZES)

    def _numbers(self, numbers: Floats | None) -> Pointer:
        if numbers is None:
            return Pointer(None)
        return self.arrays.pointer(StoredNumbers(packed(*scaled(numbers))), "other parameters")

    def _weight(self, weight: IntegerWeight | None) -> int:
        if weight is None:
            return NONE
        own, stored = weight.weight, weight.stored
        content = self.arrays.pointer(stored, "coefficients" if own.is_truncated else "dense weights")
        array = (content, 1.0, len(own.numbers), number_type(stored))
        fields = {
            "weight": tuple(weight_fields(own, array).values()),
            "exponent": weight.exponent,
            "factors": weight.factors,
            "shift": weight.shift,
            "core_shift": weight.core_shift,
            "kernel_shift": weight.kernel_shift,
        }
        self.rows["weight"].append(Row(fields, own.name))
        return len(self.rows["weight"]) - 1

    def _norm(self, norm: Norm | None) -> int:
        if norm is None:
            return NONE
        if id(norm) not in self._norms:
            self._norms[id(norm)] = len(self.rows["norm"])
            fields = {
                "gamma": self._numbers(norm.gamma),
                "beta": self._numbers(norm.beta),
                "epsilon": int(packed(*scaled(norm.epsilon))),
                "offset": norm.offset,
                "channels": norm.channels,
                "is_narrow": int(self._program.is_narrow_norm(norm)),
            }
            self.rows["norm"].append(Row(fields))
        return self._norms[id(norm)]

    def _function(self, op: Op) -> int:
        function = function_of(op)
        if id(function) not in self._functions:
            self._functions[id(function)] = len(self.rows["function"])
            fields = {
                "values": self.arrays.pointer(StoredNumbers(function.values.astype(np.int16)), "tables of functions"),
                "count": len(function.values),
                "most": function.most,
                "first": function.first,
                "exponent": function.exponent,
                "spacing": function.spacing,
                "is_rectified": int(function.is_rectified),
            }
            self.rows["function"].append(Row(fields, op.kind.name.lower()))
        return self._functions[id(function)]

    def _leaf(self, leaf: Leaf) -> None:
        owner = leaf.map.owner
        fields = {
            "map": map_fields(leaf.map),
            "norm": self._norm(leaf.norm),
            "slot": 0 if owner.is_input else self._slots[id(owner)],
            **part_fields(leaf),
        }
        self._leaves[id(leaf)] = len(self.rows["leaf"])
        self.rows["leaf"].append(Row(fields))

    def _op(self, item: IntegerStage, op: Op) -> None:
        low, high = (int(packed(*scaled(value))) for value in (op.low, op.high))
        first, second = (*item.units.sources.get(id(op), ()), 0, 0)[:2]
        kind, number = op.kind, first
        if op.leaf is not None:
            number, second = self._leaves[id(op.leaf)], item.mix_shifts.get(id(op), 0)
        elif op.kind == Operation.UNIT:
            number = int(op.low)
        elif op.kind in FUNCTIONS:
            kind, number, second = Operation.FUNCTION, self._function(op), first
        elif op.kind == Operation.CLAMP:
            second = int(changes_bound(op))
        fields = {
            "scale": self._numbers(op.scale),
            "shift": self._numbers(op.shift),
            "low": low,
            "high": high,
            "number": number,
            "kind": kind,
            "second": second,
        }
        self.rows["op"].append(Row(fields))

    def _stage(self, item: IntegerStage) -> None:
        stage, value = item.stage, item.stage.value
        has_weight = item.weight is not None
        at = add_value(value, self.rows, self._leaf, partial(self._op, item), is_read_as_it_is=has_weight)
        fields: dict[str, Any] = {
            "out": out_fields(stage),
            "scratch": stage.scratch_offset,
            "detail": stage.strides[2] if stage.kind == Kind.PERMUTE else stage.output_offset,
            "weight": self._weight(item.weight),
            "mix": mix_numbers(item),
            "groups": stage.groups,
            **size_fields(value),
            **{name: at[name] for name in ("first_segment", "num_segments", "first_op", "num_ops", "first_leaf")},
            "output": self._num_outputs if stage.kind == Kind.OUTPUT else 0,
            "norm": self._norm(stage.norm),
            "num_leaves": at["num_leaves"],
            "kind": stage.kind,
            "resample": value.resampling,
            "counts_padding": int(value.flag),
            "depth": stack_depth(value.segments),
            "row_bits": item.row_bits,
            "out_bits": item.out_bits,
            "in_shift": item.in_shift,
            **window_fields(stage),
        }
        self._num_outputs += stage.kind == Kind.OUTPUT
        self.rows["stage"].append(Row(fields, stage.node))


def used_features(program: IntegerProgram) -> set[str]:
    """Return which parts of the runtime a program needs, by their names in `tailcut_features.h`."""
    found = set()
    for item in program.stages:
        stage, value = item.stage, item.stage.value
        found |= {stage.kind.name, value.resampling.name}
        found |= {"STATS"} if stage.norm is not None else set()
        found |= {"REFLECT"} if value.is_reflected else set()
        ops = [op for segment in value.segments for op in segment.ops] + [*value.ops]
        names = {"FUNCTION" if op.kind in FUNCTIONS else op.kind.name for op in ops if op.leaf is None}
        names |= {"CLAMP_BOUND"} if any(map(changes_bound, ops)) else set()
        found |= names if item.weight is None else set()
        if item.weight is not None:
            kind = "TRUNCATED" if item.weight.weight.is_truncated else "DENSE"
            found |= {kind, number_type(item.weight.stored).name}
    return found
