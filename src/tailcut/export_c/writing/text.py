"""A program as C text: `model.h` and `model.c`, constants for `runtime/tailcut_run.c`."""

import enum
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from tailcut.export_c.program.program import ADAPTIVE, Operation, Program
from tailcut.export_c.sources import runtime_folder
from tailcut.export_c.writing.tables import Pointer, Row, Tables, number_type

TYPES = {
    "float32": "float",
    "float16": "uint16_t",
    "int32": "int32_t",
    "int16": "int16_t",
    "int8": "int8_t",
    "uint8": "uint8_t",
}
PER_LINE = {"float32": 8, "float16": 16, "int32": 8, "int16": 16, "int8": 24, "uint8": 24}


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
    tables = Tables(program)
    head = f"/* {commented(comment)} */\n"
    header = head + _header(program, name)
    source = head + f'#include "{name}.h"\n\n' + _body(program, tables, name)
    return Text(header, source, tables.flash_bytes())


def _header(program: Program, name: str) -> str:
    guard, upper = f"TAILCUT_{name.upper()}_H", name.upper()
    floats = max(program.input_floats, program.output_floats)
    in_place = f"#define {upper}_IN_PLACE_FLOATS {floats}u /* one buffer may be input and output */\n"
    return (
        f'#ifndef {guard}\n#define {guard}\n\n#include "tailcut_run.h"\n\n'
        f"#define {upper}_ARENA_BYTES {4 * program.arena_floats}u\n"
        f"#define {upper}_PREPARED_BYTES {4 * program.prepared_floats}u /* for tailcut_prepare, if wanted */\n"
        f"#define {upper}_INPUT_FLOATS {program.input_floats}u /* {shape_text(program.input_shape)} */\n"
        f"#define {upper}_OUTPUT_FLOATS {program.output_floats}u"
        f" /* {', '.join(map(shape_text, program.output_shapes))} */\n"
        f"{in_place if program.can_run_in_place else ''}\n"
        f"extern const tailcut_model {name};\n\n#endif\n"
    )


def shape_text(shape: Sequence[int]) -> str:
    """Return a shape as a comment in C says it."""
    return " x ".join(map(str, shape))


def _body(program: Program, tables: Tables, name: str) -> str:
    found = {kind: rows for kind, rows in tables.rows.items() if rows}
    fields = [f".{plural(kind)} = {plural(kind)}" for kind in ("stage", "segment", "op", "leaf")]
    fields.append(".weights = weights" if "weight" in found else ".weights = NULL")
    fields += [
        f".arena_floats = {program.arena_floats}",
        f".input_floats = {program.input_floats}",
        f".output_floats = {program.output_floats}",
        f".num_stages = {len(tables.rows['stage'])}",
    ]
    model = f"const tailcut_model {name} = {{\n    " + ",\n    ".join(fields) + ",\n};\n"
    tables_text = [table_text(f"tailcut_{kind}", kind, rows) for kind, rows in found.items()]
    return "\n".join([*array_texts(tables.arrays.contents), *tables_text, model])


def array_texts(contents: Sequence[npt.NDArray[Any]]) -> list[str]:
    """Return the constant arrays that pointers of rows name."""
    return [_array_text(f"numbers_{number}", content) for number, content in enumerate(contents)]


def table_text(type_name: str, kind: str, rows: list[Row]) -> str:
    """Return the constant array of the rows of one kind."""
    lines = "".join(f"    {_row(kind, row)},\n" for row in rows)
    return f"static const {type_name} {plural(kind)}[] = {{\n{lines}}};\n"


def commented(text: str) -> str:
    """Return a text that may stand in a comment: names of modules may hold what ends one, or is a trigraph."""
    return text.replace("*/", "* /").replace("/*", "/ *").replace("??", "? ?")


def _row(kind: str, row: Row) -> str:
    comment = f"/* {commented(row.comment)} */ " if row.comment else ""
    named = kind == "stage"  # has so many fields that a reader would not know them by their places
    items = [f"{f'.{name} = ' if named else ''}{_item(value)}" for name, value in row.fields.items()]
    return f"{{{comment}{', '.join(items)}}}"


def _item(value: Any) -> str:
    if isinstance(value, tuple):
        return "{" + ", ".join(map(_item, value)) + "}"
    if isinstance(value, Pointer):
        return "NULL" if value.array is None else f"numbers_{value.array}"
    if isinstance(value, enum.IntEnum):
        return f"TAILCUT_{'OP_' if isinstance(value, Operation) else ''}{value.name}"
    return _float(value) if isinstance(value, float) else str(value)


def plural(kind: str) -> str:
    """Return the name of the constant array of a kind of rows."""
    return "leaves" if kind == "leaf" else f"{kind}s"


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
    return f"static const {TYPES[kind]} {name}[] = {{\n    {body},\n}};\n"


def features(program: Program) -> str:
    """`tailcut_features.h` for a program: what of the runtime it needs, so that the rest takes no flash."""
    return features_text(_used(program))


def features_text(used: set[str]) -> str:
    """`tailcut_features.h` for some of its names."""
    lines = (runtime_folder() / "tailcut_features.h").read_text(encoding="utf-8").splitlines()
    known = [line.split()[1] for line in lines if line.startswith("#define TAILCUT_HAS_")]
    body = "".join(f"#define {name} {int(name.removeprefix('TAILCUT_HAS_') in used)}\n" for name in known)
    comment = (
        "/* What the network needs of the runtime. For several networks in one program take the one of the package. */"
    )
    return f"{comment}\n#ifndef TAILCUT_FEATURES_H\n#define TAILCUT_FEATURES_H\n\n{body}\n#endif\n"


def _used(program: Program) -> set[str]:
    found = set()
    for stage in program.stages:
        pool = stage.value.window
        found |= {stage.kind.name, stage.value.resampling.name}
        ops = [op for segment in stage.value.segments for op in segment.ops] + [*stage.value.ops]
        found |= {op.kind.name for op in ops if op.kind != Operation.LEAF}
        found |= {"GROUPS"} if stage.groups > 1 and stage.weight is not None else set()
        found |= {"THREE_COLUMNS"} if stage.window.kernel[1] == 3 else set()
        found |= {"POOLED"} if stage.is_pooled else set()
        found |= {"PARTS"} if stage.part else set()
        found |= {"TABLE"} if stage.table is not None else set()
        found |= {"STATS"} if stage.norm is not None else set()
        found |= {"UP"} if any(leaf.up is not None for leaf in stage.value.leaves()) else set()
        found |= {"ADAPTIVE"} if pool.stride == ADAPTIVE else set()
        found |= {"REFLECT"} if stage.value.is_reflected else set()
        for weight in stage.weights:
            found |= {"TRUNCATED" if weight.is_truncated else "DENSE", number_type(weight.stored).name}
    return found
