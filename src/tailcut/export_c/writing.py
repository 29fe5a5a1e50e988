"""A program as C text: `model.h` and `model.c`, constants for `runtime/tailcut_run.c`."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from tailcut.export_c.memory import mix_floats, stack_depth
from tailcut.export_c.program import Floats, Leaf, Map, Op, Operation, Program, Stage, StoredNumbers, Value, Weight
from tailcut.export_c.sources import runtime_folder

TYPES = {"float32": ("float", "TAILCUT_FLOAT32"), "float16": ("uint16_t", "TAILCUT_FLOAT16")}
TYPES |= {"int16": ("int16_t", "TAILCUT_INT16"), "int8": ("int8_t", "TAILCUT_INT8")}
PER_LINE = {"float32": 8, "float16": 16, "int16": 16, "int8": 24}
# Bytes of the structures on a processor of 32 bits.
SIZES = {"stage": 92, "segment": 6, "op": 20, "leaf": 40, "weight": 40, "model": 36}


@dataclass
class Text:
    """The two files, and the bytes that the network takes in flash by what they are for."""

    header: str = ""
    source: str = ""
    flash: dict[str, int] = field(default_factory=dict)


def write_program(program: Program, name: str, comment: str) -> Text:
    """Write a program as C text.

    Args:
        program: with its memory planned.
        name: of the constant, a C identifier.
        comment: what the files say of themselves.
    """
    writer = _Writer(program, name)
    body = writer.body()
    head = f"/* {comment} */\n"
    header = head + _header(program, name)
    source = head + f'#include "{name}.h"\n\n' + body
    return Text(header, source, writer.flash())


def _header(program: Program, name: str) -> str:
    guard, upper = f"TAILCUT_{name.upper()}_H", name.upper()
    outputs = [int(np.prod(shape, dtype=np.int64)) for shape in program.output_shapes]
    return (
        f'#ifndef {guard}\n#define {guard}\n\n#include "tailcut_run.h"\n\n'
        f"#define {upper}_ARENA_BYTES {4 * program.arena_floats}u\n"
        f"#define {upper}_INPUT_FLOATS {int(np.prod(program.input_shape, dtype=np.int64))}u"
        f" /* {_shape(program.input_shape)} */\n"
        f"#define {upper}_OUTPUT_FLOATS {sum(outputs)}u /* {', '.join(map(_shape, program.output_shapes))} */\n\n"
        f"extern const tailcut_model {name};\n\n#endif\n"
    )


def _shape(shape: Sequence[int]) -> str:
    return " x ".join(map(str, shape))


class _Writer:
    def __init__(self, program: Program, name: str) -> None:
        self.program, self.name = program, name
        self.arrays: list[str] = []
        self.stages: list[str] = []
        self.segments: list[str] = []
        self.ops: list[str] = []
        self.leaves: list[str] = []
        self.weights: list[str] = []
        self.bytes = {"coefficients": 0, "dense weights": 0, "other parameters": 0}
        self._names: dict[bytes, str] = {}
        self._numbers: dict[int, int] = {}

    def body(self) -> str:
        for stage in self.program.stages:
            self._stage(stage)
        tables = [
            self._table(kind, rows)
            for kind, rows in (
                ("weight", self.weights),
                ("leaf", self.leaves),
                ("op", self.ops),
                ("segment", self.segments),
                ("stage", self.stages),
            )
        ]
        fields = [f".{_plural(kind)} = {_plural(kind)}" for kind in ("stage", "segment", "op", "leaf")]
        fields.append(".weights = weights" if self.weights else ".weights = NULL")
        shape, outputs = self.program.input_shape, self.program.output_shapes
        fields += [
            f".arena_floats = {self.program.arena_floats}",
            f".input_floats = {int(np.prod(shape, dtype=np.int64))}",
            f".output_floats = {sum(int(np.prod(output, dtype=np.int64)) for output in outputs)}",
            f".num_stages = {len(self.stages)}",
        ]
        model = f"const tailcut_model {self.name} = {{\n    " + ",\n    ".join(fields) + ",\n};\n"
        return "\n".join([*self.arrays, *filter(None, tables), model])

    def flash(self) -> dict[str, int]:
        counts = {
            "stage": len(self.stages),
            "segment": len(self.segments),
            "op": len(self.ops),
            "leaf": len(self.leaves),
            "weight": len(self.weights),
            "model": 1,
        }
        return {**self.bytes, "program": sum(SIZES[kind] * count for kind, count in counts.items())}

    def _table(self, kind: str, rows: list[str]) -> str:
        if not rows:
            return ""
        return (
            f"static const tailcut_{kind} {_plural(kind)}[] = {{\n" + "".join(f"    {row},\n" for row in rows) + "};\n"
        )

    def _array(self, stored: StoredNumbers, purpose: str) -> str:
        """Return the name of a constant array, the same for the same content."""
        content = np.ascontiguousarray(stored.content)
        key = content.dtype.str.encode() + content.tobytes()
        if key not in self._names:
            name = f"numbers_{len(self._names)}"
            self._names[key] = name
            self.arrays.append(_array_text(name, content))
            self.bytes[purpose] += content.nbytes
        return self._names[key]

    def _floats(self, numbers: Floats | None) -> str:
        if numbers is None:
            return "NULL"
        return self._array(StoredNumbers(numbers.astype(np.float32)), "other parameters")

    def _weight(self, weight: Weight | None) -> int:
        if weight is None:
            return -1
        if id(weight) not in self._numbers:
            self._numbers[id(weight)] = len(self.weights)
            stored = weight.stored
            name = self._array(stored, "coefficients" if weight.is_truncated else "dense weights")
            kind = TYPES[stored.content.dtype.name][1]
            order = [*weight.order_weights, 1, 1, 1, 1][:4]
            self.weights.append(
                f"{{/* {weight.name} */ {{{name}, {_float(stored.step)}, {len(weight.numbers)}, {kind}}}, "
                f"{_list(weight.sizes)}, {_list(weight.corner)}, {_list(order)}, "
                f"{sum(1 << axis for axis in weight.axes)}, {int(weight.is_truncated)}, {int(weight.is_swapped)}}}"
            )
        return self._numbers[id(weight)]

    def _leaf(self, leaf: Leaf) -> None:
        self._numbers[id(leaf)] = len(self.leaves)
        self.leaves.append(
            f"{{{_map(leaf.map)}, {-1 if leaf.norm is None else leaf.norm.offset}, {self._weight(leaf.up)}, "
            f"{leaf.top}, {leaf.left}, {leaf.num_channels}, {leaf.first}, {leaf.height}, {leaf.width}, "
            f"{int(leaf.is_narrow)}}}"
        )

    def _op(self, op: Op) -> None:
        leaf = 0 if op.leaf is None else self._numbers[id(op.leaf)]
        numbers = f"{self._floats(op.scale)}, {self._floats(op.shift)}, {_float(op.low)}, {_float(op.high)}"
        self.ops.append(f"{{{numbers}, {leaf}, TAILCUT_OP_{op.kind.name}}}")

    def _value(self, value: Value) -> dict[str, Any]:
        fields: dict[str, Any] = {"first_leaf": len(self.leaves), "num_leaves": len(value.leaves())}
        for leaf in value.leaves():
            self._leaf(leaf)
        fields |= {"first_segment": len(self.segments), "num_segments": len(value.segments)}
        for segment in value.segments:
            self.segments.append(f"{{{segment.channels}, {len(self.ops)}, {len(segment.ops)}}}")
            for op in segment.ops:
                self._op(op)
        fields |= {"first_op": len(self.ops), "num_ops": len(value.ops)}
        for op in value.ops:
            self._op(op)
        return fields

    def _stage(self, stage: Stage) -> None:
        value = stage.value
        fields: dict[str, Any] = {"kind": f"TAILCUT_{stage.kind.name}", **self._value(value)}
        out = Map(0, 0, 0, offset=0) if stage.out is None else stage.out
        fields["out"] = _map(out)
        norm = stage.norm
        fields["stats"] = -1 if norm is None else norm.offset
        if norm is not None:
            fields |= {
                "gamma": self._floats(norm.gamma),
                "beta": self._floats(norm.beta),
                "epsilon": _float(norm.epsilon),
            }
        fields |= {
            "scratch": stage.scratch_offset,
            "mix": mix_floats(stage),
            "output_offset": stage.output_offset,
            "weight": self._weight(stage.weight),
            "groups": stage.groups,
            "channels": value.channels,
            "source_height": value.source[0],
            "source_width": value.source[1],
            "height": value.size[0],
            "width": value.size[1],
            "resample": f"TAILCUT_{value.resampling.name}",
            "counts_padding": int(value.flag),
            "depth": stack_depth(value.segments),
            "kernel": _list(stage.window.kernel),
            "stride": _list(stage.window.stride),
            "padding": _list(stage.window.padding),
            "dilation": _list(stage.window.dilation),
            "pool_kernel": _list(value.window.kernel),
            "pool_stride": _list(value.window.stride),
            "pool_padding": _list(value.window.padding),
        }
        text = ", ".join(f".{key} = {item}" for key, item in fields.items())
        self.stages.append(f"{{/* {stage.node} */ {text}}}")


def _plural(kind: str) -> str:
    return "leaves" if kind == "leaf" else f"{kind}s"


def _map(map_: Map) -> str:
    offset = "TAILCUT_INPUT" if map_.is_input else str(map_.owner.offset)
    row = map_.width if map_.channel_stride != map_.width or map_.is_input else map_.row_stride
    return f"{{{offset}, {row}, {map_.channel_stride}, {map_.channels}, {map_.height}, {map_.width}}}"


def _list(values: Iterable[int]) -> str:
    return "{" + ", ".join(map(str, values)) + "}"


def _float(value: float) -> str:
    return f"{float(np.float32(value)).hex()}f"


def _array_text(name: str, content: npt.NDArray[Any]) -> str:
    kind = content.dtype.name
    per_line = PER_LINE[kind]
    if kind == "float32":
        items = [_float(value) for value in content.reshape(-1).tolist()]
    else:
        items = [
            str(value) for value in (content.view(np.uint16) if kind == "float16" else content).reshape(-1).tolist()
        ]
    lines = [", ".join(items[start : start + per_line]) for start in range(0, len(items), per_line)]
    body = ",\n    ".join(lines)
    return f"static const {TYPES[kind][0]} {name}[] = {{\n    {body},\n}};\n"


def features(program: Program) -> str:
    """`tailcut_features.h` for a program: what of the runtime it needs, so that the rest takes no flash."""
    used = _used(program)
    lines = (runtime_folder() / "tailcut_features.h").read_text(encoding="utf-8").splitlines()
    known = [line.split()[1] for line in lines if line.startswith("#define TAILCUT_HAS_")]
    body = "".join(f"#define {name} {int(name.removeprefix('TAILCUT_HAS_') in used)}\n" for name in known)
    comment = (
        "/* What the network needs of the runtime. For several networks in one program take the one of the package. */"
    )
    return f"{comment}\n#ifndef TAILCUT_FEATURES_H\n#define TAILCUT_FEATURES_H\n\n{body}\n#endif\n"


def _used(program: Program) -> set[str]:
    found = set()
    weights: list[Weight | None] = []
    for stage in program.stages:
        found |= {stage.kind.name, stage.value.resampling.name}
        ops = [op for segment in stage.value.segments for op in segment.ops] + [*stage.value.ops]
        found |= {op.kind.name for op in ops if op.kind != Operation.LEAF}
        found |= {"GROUPS"} if stage.groups > 1 else set()
        found |= {"THREE_COLUMNS"} if stage.window.kernel[1] == 3 else set()
        found |= {"STATS"} if stage.norm is not None else set()
        ups = [leaf.up for leaf in stage.value.leaves() if leaf.up is not None]
        found |= {"UP"} if ups else set()
        weights += [stage.weight, *ups]
    for weight in weights:
        if weight is not None:
            found |= {"TRUNCATED" if weight.is_truncated else "DENSE", weight.stored.content.dtype.name.upper()}
    return found
