"""A program in integers as C text: `model.h` and `model.c`, constants for `runtime/tailcut_run_integer.c`."""

import math

from tailcut.export_c.integer.program import IntegerProgram
from tailcut.export_c.integer.tables import IntegerTables
from tailcut.export_c.writing.text import Text, array_texts, commented, plural, shape_text, table_text


def write_program(program: IntegerProgram, name: str, comment: str) -> Text:
    """Write a program as C text; arguments as those of `export_c.writing.write_program`."""
    tables = IntegerTables(program)
    head = f"/* {commented(comment)} */\n"
    source = head + f'#include "{name}.h"\n\n' + _body(tables, name)
    return Text(head + _header(program, name), source, tables.flash_bytes())


def _header(program: IntegerProgram, name: str) -> str:
    guard, upper = f"TAILCUT_{name.upper()}_H", name.upper()
    inputs, outputs = math.prod(program.input_shape), sum(map(math.prod, program.output_shapes))
    return (
        f'#ifndef {guard}\n#define {guard}\n\n#include "tailcut_run_integer.h"\n\n'
        f"#define {upper}_ARENA_NUMBERS {program.arena_numbers}u /* of int16_t */\n"
        f"#define {upper}_ROWS_NUMBERS {program.rows_numbers}u /* of int32_t */\n"
        f"#define {upper}_INPUT_NUMBERS {inputs}u /* {shape_text(program.input_shape)} */\n"
        f"#define {upper}_OUTPUT_NUMBERS {outputs}u /* {', '.join(map(shape_text, program.output_shapes))} */\n"
        f"#define {upper}_OUTPUTS {len(program.output_shapes)}u\n\n"
        f"extern const tailcut_integer_model {name};\n\n#endif\n"
    )


def _body(tables: IntegerTables, name: str) -> str:
    found = {kind: rows for kind, rows in tables.rows.items() if rows}
    types = {kind: f"tailcut_{'' if kind == 'segment' else 'integer_'}{kind}" for kind in found}
    fields = [f".{plural(kind)} = {plural(kind) if kind in found else 'NULL'}" for kind in tables.rows]
    fields.append(f".num_stages = {len(tables.rows['stage'])}")
    model = f"const tailcut_integer_model {name} = {{\n    " + ",\n    ".join(fields) + ",\n};\n"
    tables_text = [table_text(types[kind], kind, rows) for kind, rows in found.items()]
    return "\n".join([*array_texts(tables.arrays.contents), *tables_text, model])
