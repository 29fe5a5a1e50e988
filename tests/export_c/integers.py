"""Networks exported in integers, compiled and run beside Python's run of the same integers."""

import subprocess
from collections.abc import Sequence
from pathlib import Path
from unittest.mock import patch

import numpy as np
from tests.export_c.compiling import C_FOLDER, SANITIZED, compile_c
from torch import nn

from tailcut.export_c import export, export_c, simulate
from tailcut.export_c.export import CExportReport
from tailcut.export_c.integer.arithmetic import Ints
from tailcut.export_c.integer.program import IntegerProgram, integer_program
from tailcut.export_c.program.program import Program

INPUT_EXPONENT = -15


def compiled(folder: Path, *options: str) -> Path:
    """The program that runs the network of a folder, without a warning."""
    sources = [*sorted(folder.glob("*.c")), C_FOLDER / "run_integer.c"]
    return compile_c(folder / "run_integer", sources, *options, folders=[folder])


def run_c(program: Path, numbers: Ints, shapes: Sequence[tuple[int, ...]]) -> tuple[Ints, Ints]:
    """The exponents of all outputs, and their numbers one after the other, for each image."""
    done = subprocess.run([str(program)], input=numbers.astype(np.int16).tobytes(), capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()[-3000:]
    count = sum(int(np.prod(shape)) for shape in shapes)
    record = np.dtype([("exponents", "<i4", (len(shapes),)), ("numbers", "<i2", (count,))])
    found = np.frombuffer(done.stdout, record)
    return found["exponents"].astype(np.int64), found["numbers"].astype(np.int64)


def check_same(
    model: nn.Module,
    folder: Path,
    numbers: Ints | None = None,
    *,
    options: Sequence[str] = (),
    **settings: object,
) -> CExportReport:
    """C under sanitizers and Python give the same bits, for some inputs with all magnitudes if none are given.

    Python runs the very program that was written, as making it again would trace the network twice.
    """
    made: list[IntegerProgram] = []

    def kept(program: Program) -> IntegerProgram:
        made.append(integer_program(program))
        return made[-1]

    with patch.object(export, "integer_program", kept):
        report = export_c(model, folder, arithmetic="integer", **settings)  # type: ignore[arg-type]
    (program,) = made
    if numbers is None:
        numbers = extremes(program.input_shape)
    exponents, found = run_c(compiled(folder, *SANITIZED, *options), numbers, program.output_shapes)
    outputs = simulate(program, numbers, INPUT_EXPONENT)
    assert np.array_equal(exponents, np.stack([output.exponents for output in outputs], 1))
    assert np.array_equal(found, np.concatenate([output.numbers.reshape(len(numbers), -1) for output in outputs], 1))
    return report


def extremes(shape: tuple[int, ...]) -> Ints:
    """Images of noise of all sizes, of the largest numbers alone, and of zeros."""
    random = np.random.default_rng(1)
    least, most = -(1 << 15), (1 << 15) - 1
    made = [
        random.integers(least, most + 1, shape),
        random.integers(0, most + 1, shape),
        random.integers(-9, 10, shape),
    ]
    made += [
        np.full(shape, least),
        np.full(shape, most),
        random.choice([least, most], shape),
        np.zeros(shape, np.int64),
    ]
    return np.stack(made).astype(np.int64)
