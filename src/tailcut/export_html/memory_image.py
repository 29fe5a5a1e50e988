"""Programs as bytes in the memory of the WebAssembly runner: the structures of `tailcut_run.h` on 32 bits."""

import enum
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tailcut.errors import StructureError
from tailcut.export_c.program.program import Program
from tailcut.export_c.writing.tables import Arrays, Pointer, Row, Tables

# Where the image begins: behind the runner's own stack and constants, which a test measures.
BASE = 1 << 16
# As the compiler lays the structures out; x is padding.
FORMATS = {
    "weight": "<IfIB3x4H4H4BBBBx",
    "leaf": "<iIIHHH2xihhhHHHHBx",
    "op": "<IIffHBx",
    "segment": "<HHH",
    "stage": "<iIIHHH2xiIIfIIIhHHHHHHHHHHHHBBBBB2B2B2B2B2B2B2BB2B",
    "model": "<IIIIIIIIH2x",
}
POINTERS = ("stage", "segment", "op", "leaf", "weight")
ALIGNMENT = 4
# Of all that a call needs. WebAssembly has addresses for twice as much, and phones less.
MAX_MEMORY_BYTES = 1 << 31


@dataclass(frozen=True)
class MemoryImage:
    """Bytes to be copied to `BASE`.

    Attributes:
        content: the bytes.
        models: address of the `tailcut_model` of each program.
    """

    content: bytes
    models: tuple[int, ...]


def memory_image(programs: Sequence[Program]) -> MemoryImage:
    """Write programs, with their memory planned, one behind the other; equal constants are there once.

    Raises:
        StructureError: a network is too large for the structures, or for the memory of a browser.
    """
    arrays = Arrays()
    tables = [Tables(program, arrays) for program in programs]
    content = bytearray()

    def place(part: bytes) -> int:
        content.extend(bytes(-len(content) % ALIGNMENT))
        content.extend(part)
        return BASE + len(content) - len(part)

    numbers = [place(array.astype(array.dtype.newbyteorder("<")).tobytes()) for array in arrays.contents]
    models = []
    for program, table in zip(programs, tables, strict=True):
        rows = {kind: place(_packed(kind, rows, numbers)) for kind, rows in table.rows.items()}
        sizes = [np.prod(shape, dtype=np.int64) for shape in (program.input_shape, *program.output_shapes)]
        fields = [program.arena_floats, int(sizes[0]), int(sum(sizes[1:])), len(table.rows["stage"])]
        _check_memory(BASE + len(content) + 4 * (program.prepared_floats + sum(fields[:3])))
        models.append(place(struct.pack(FORMATS["model"], *(rows[kind] for kind in POINTERS), *fields)))
    return MemoryImage(bytes(content), tuple(models))


def _packed(kind: str, rows: Sequence[Row], numbers: Sequence[int]) -> bytes:
    try:
        return b"".join(struct.pack(FORMATS[kind], *_flat(tuple(row.fields.values()), numbers)) for row in rows)
    except struct.error as error:
        raise StructureError(
            f"the network is too large for a page, {len(rows):,} structures {kind}: {error}"
        ) from error


def _check_memory(num_bytes: int) -> None:
    if num_bytes > MAX_MEMORY_BYTES:
        raise StructureError(
            f"the network needs {num_bytes:,} bytes for one input, a page has at most {MAX_MEMORY_BYTES:,}; give a "
            "smaller size"
        )


def _flat(value: Any, numbers: Sequence[int]) -> Iterator[int | float]:
    if isinstance(value, tuple):
        for part in value:
            yield from _flat(part, numbers)
    elif isinstance(value, Pointer):
        yield 0 if value.array is None else numbers[value.array]
    else:
        yield int(value) if isinstance(value, enum.IntEnum) else value
