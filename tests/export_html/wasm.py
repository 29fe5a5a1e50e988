"""Programs in WebAssembly, run by wasmtime in place of a browser."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import wasmtime

import tailcut.export_html
from tailcut.export_c.program.program import Program
from tailcut.export_html.memory_image import BASE, memory_image

FOLDER = Path(tailcut.export_html.__file__).parent / "wasm"
BUILDS = ("tailcut-simd.wasm", "tailcut.wasm")
PAGE_BYTES = 65_536
GUARD = b"\xa5" * 64


class Runner:
    """One build of the runner with programs in its memory."""

    def __init__(self, build: str, programs: Sequence[Program]) -> None:
        engine = wasmtime.Engine()
        self.store = wasmtime.Store(engine)
        module = wasmtime.Module(engine, (FOLDER / build).read_bytes())
        assert list(module.imports) == []
        exports = wasmtime.Instance(self.store, module, []).exports(self.store)
        memory, end = exports["memory"], exports["__heap_base"]
        prepare, run = exports["tailcut_prepare"], exports["tailcut_run_prepared"]
        assert isinstance(memory, wasmtime.Memory)
        assert isinstance(prepare, wasmtime.Func)
        assert isinstance(run, wasmtime.Func)
        assert isinstance(end, wasmtime.Global)
        self.memory, self._prepare, self._run, self.own_bytes = memory, prepare, run, int(end.value(self.store))
        self.programs, self.image = tuple(programs), memory_image(programs)

    def run(self, number: int, numbers: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """The output of a program; fails if anything but output and arena was written."""
        program, image = self.programs[number], self.image
        outputs = sum(int(np.prod(shape)) for shape in program.output_shapes)
        inputs = GUARD + numbers.astype("<f4").tobytes() + GUARD
        at = _aligned(BASE + len(image.content))
        out = _aligned(at + len(inputs))
        arena = _aligned(out + 4 * outputs + len(GUARD))
        end = arena + 4 * program.arena_floats
        prepared = _aligned(end + len(GUARD))
        stop = prepared + 4 * program.prepared_floats
        missing = -(-(stop + len(GUARD)) // PAGE_BYTES) - self.memory.size(self.store)
        self.memory.grow(self.store, max(missing, 0))
        guards = (out + 4 * outputs, end, stop)
        for place, content in ((BASE, image.content), (at, inputs), *((guard, GUARD) for guard in guards)):
            self.memory.write(self.store, content, place)
        assert self._prepare(self.store, image.models[number], prepared, stop - prepared, arena) == 0
        made = self._read(prepared, stop - prepared)
        assert self._run(self.store, image.models[number], prepared, at + len(GUARD), out, arena) == 0
        assert self._read(prepared, stop - prepared) == made
        assert self._read(BASE, len(image.content)) == image.content
        assert self._read(at, len(inputs)) == inputs
        assert all(self._read(guard, len(GUARD)) == GUARD for guard in guards)
        return np.frombuffer(self._read(out, 4 * outputs), "<f4")

    def _read(self, begin: int, count: int) -> bytes:
        return bytes(self.memory.read(self.store, begin, begin + count))


def _aligned(address: int) -> int:
    return -(-address // 16) * 16
