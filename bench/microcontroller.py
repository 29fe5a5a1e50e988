"""Networks in C on a small core: what they take of flash and RAM, and how many instructions a Cortex-M4 needs.

Needs `arm-none-eabi-gcc` and `qemu-system-arm` (Debian: gcc-arm-none-eabi, qemu-system-arm).
"""

import json
import math
import shutil
import struct
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

import tailcut
from bench.machine import Machine
from bench.scale import Scale
from bench.tables import Row, Table
from tailcut.export_c import export_c, reader_sources, runtime_folder
from tailcut.export_c.description import describe
from tailcut.export_c.description_text import description_text
from tailcut.export_c.export import CExportReport
from tailcut.format.container.contents import HEAD_BYTES, decode
from tailcut.format.file_bytes import read_file
from tailcut.format.zoo import zoo_folder

FIRMWARE = Path(__file__).parent / "firmware"
COMPILER, SIZER, EMULATOR = "arm-none-eabi-gcc", "arm-none-eabi-size", "qemu-system-arm"
STRICT = ("-std=gnu99", "-Wall", "-Wextra", "-Werror", "-ffunction-sections", "-fdata-sections")
# Loops of startup.c are the library's functions themselves.
LINK = ("-nostdlib", "-ffreestanding", "-fno-tree-loop-distribute-patterns", "-Wl,--gc-sections", "-lgcc")
# Parts of the reader that firmware for one registered network does not need, and those that some files need: the
# numbers of their codecs.
ALWAYS_LEFT_OUT = ("OWN_CLASSES", "METADATA")
CODEC_PARTS = {"DEFLATE": {1}, "RANGE": {2}, "QUANTIZED": {3, 4, 5}, "ALONG_AXES": {4, 5}, "DEPENDENT": {5}}
# The emulated timer counts at 25 MHz, one instruction takes a nanosecond.
INSTRUCTIONS_PER_TICK = 40
NETWORKS: tuple[tuple[str, tuple[int, int] | None], ...] = (
    ("lenet5-776", None),
    ("lenet5-1500", None),
    ("lenet5-7668", None),
    ("lenet300-2816", None),
    ("unet-759-float16", (96, 96)),
    ("resnet18-2688", None),
    ("vgg16-2048", None),
)


def missing_tools() -> list[str]:
    """Programs that are not there."""
    return [name for name in (COMPILER, EMULATOR) if shutil.which(name) is None]


@dataclass(frozen=True)
class Core:
    """A processor, and the machine in QEMU that has it.

    Attributes:
        options: of the compiler.
        machine: of QEMU, with its processor.
    """

    options: tuple[str, ...]
    machine: tuple[str, str]


M4 = Core(("-mcpu=cortex-m4", "-mthumb", "-mfloat-abi=hard", "-mfpu=fpv4-sp-d16"), ("mps2-an386", "cortex-m4"))
M3 = Core(("-mcpu=cortex-m3", "-mthumb"), ("mps2-an385", "cortex-m3"))
"""Without a floating-point unit."""


@dataclass(frozen=True)
class Measured:
    """One run on the emulated core.

    Attributes:
        flash: bytes that the network and the runtime add to a program.
        instructions: of one call.
        stack: bytes.
        outputs: of the network; of one in integers the exponents, then the numbers.
    """

    flash: int
    instructions: int
    stack: int
    outputs: torch.Tensor


def run(scale: Scale, machine: Machine) -> list[Table]:
    """Measure networks of each kind in the zoo."""
    del machine
    networks = NETWORKS[:1] if scale.is_tiny else NETWORKS
    columns = {
        "network": "",
        "input": "",
        "constants": ",",
        "code": ",",
        "network and runner": ",",
        "reader": ",",
        "its file's reader": ",",
        "runner and its file's reader": ",",
        "RAM: arena": ",",
        "RAM: input and output": ",",
        "RAM: stack": ",",
        "million instructions": ",.1f",
        "with -O2": ",.1f",
        "accuracy or Dice": "",
        "difference": ".1e",
    }
    notes = [
        "Bytes. Cortex-M4 with its floating-point unit, -Os but where it says -O2, in QEMU (mps2-an386), which counts "
        "instructions and knows no cycles. constants: the network in flash; code: what runner and network add to an "
        "empty program, without the constants; network and runner: both together; reader: what tailcut_open adds to "
        "that; its file's reader: the same without own classes, a look at metadata, levels, and codecs that the file "
        "does not use; runner and its file's reader: the code of both. difference: the largest from torch in float64, "
        "relative to the largest output."
    ]
    missing = missing_tools()
    if missing:
        notes.append(f"needs {' and '.join(missing)}.")
        return [Table("Networks in C on a Cortex-M4", columns, [], notes)]
    return [Table("Networks in C on a Cortex-M4", columns, [_row(*network) for network in networks], notes)]


def _row(name: str, size: tuple[int, int] | None) -> Row:
    with tempfile.TemporaryDirectory() as folder:
        model = tailcut.load(f"zoo:{name}")
        report = export_c(model, folder, image_size=size)
        torch.manual_seed(0)
        x = torch.rand(1, *report.input_shape)
        write_given(Path(folder), x, f"zoo:{name}")
        unneeded = unneeded_parts(f"zoo:{name}")
        measure(Path(folder), report, reads=True, without=unneeded)  # an error if that reader refuses the file
        small = measure(Path(folder), report)
        fast = measure(Path(folder), report, optimize="-O2")
        reader = reader_code(Path(folder))
        own_reader = reader_code(Path(folder), *unneeded)
    with torch.no_grad():
        wanted = torch.cat([part.flatten() for part in _tuple(tailcut.to_dense(model).eval().double()(x.double()))])
    accuracy, constants = _accuracy(name), sum(report.flash_bytes.values())
    return {
        "network": name,
        "input": " x ".join(map(str, report.input_shape)),
        "constants": constants,
        "code": small.flash - constants,
        "network and runner": small.flash,
        "reader": reader,
        "its file's reader": own_reader,
        "runner and its file's reader": small.flash - constants + own_reader,
        "RAM: arena": report.arena_bytes,
        "RAM: input and output": report.input_and_output_bytes,
        "RAM: stack": small.stack,
        "million instructions": small.instructions / 1e6,
        "with -O2": fast.instructions / 1e6,
        "accuracy or Dice": "-" if accuracy is None else f"{100 * accuracy:.2f} %",
        "difference": float((small.outputs.double() - wanted).abs().max() / wanted.abs().max()),
    }


def _tuple(outputs: torch.Tensor | tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
    return outputs if isinstance(outputs, tuple) else (outputs,)


def write_given(folder: Path, x: torch.Tensor, path: str | Path | None = None) -> None:
    """`given.h` for the firmware: an input (floats, or integers of 16 bits), a file, and the network that it fills."""
    is_float = x.is_floating_point()
    numbers = ", ".join(f"{value.hex()}f" if is_float else str(value) for value in x.flatten().tolist())
    text = f"static const {'float' if is_float else 'int16_t'} given_input[] = {{{numbers}}};\n"
    reader = ""
    if path is not None:
        content = read_file(path)
        reader += f"#define GIVEN_READER_ARENA {8 * len(content) + 131072}\n"
        reader += f"static const uint8_t given_file[] = {{{', '.join(map(str, content))}}};\n"
        reader += description_text(describe(path), "given_network")
    (folder / "given.h").write_text(f'#include "tailcut.h"\n{text}\n#if READS\n{reader}\n#endif\n', encoding="utf-8")


def unneeded_parts(path: str | Path) -> tuple[str, ...]:
    """Parts of the reader that a program leaves out which takes files of one registered network, made as this one is.

    Args:
        path: of the file, or its name in the zoo.
    """
    content = read_file(path)
    contents = decode(content)
    streams = [
        stream
        for level in contents.levels
        for stream in (level.coefficients, *level.other_streams)
        if stream is not None
    ]
    used = {stream.codec_number for stream in streams}
    if contents.parts or content[HEAD_BYTES + len(contents.digest)] & 1:
        used |= CODEC_PARTS["DEFLATE"]  # a packed header
    codecs = tuple(part for part, numbers in CODEC_PARTS.items() if not numbers & used)
    return (*ALWAYS_LEFT_OUT, *codecs, *(() if contents.parts else ("LEVELS",)))


def measure(
    folder: Path,
    report: CExportReport,
    *,
    optimize: str = "-Os",
    reads: bool = False,
    without: Sequence[str] = (),
    core: Core = M4,
) -> Measured:
    """Compile an exported network for the small core, run it there, and read what it prints.

    Args:
        folder: where `export_c` and `write_given` wrote.
        report: of the export.
        optimize: the compiler's option.
        reads: open the file with the reader too; an error there is one here.
        without: parts of the reader that are left out.
        core: what it is compiled for.
    """
    program = _compile(folder, *_left_out(without), runs=1, reads=2 if reads else 0, optimize=optimize, core=core)
    flash = _size(program) - _size(_compile(folder, runs=0, reads=0, optimize=optimize, core=core))
    ticks, stack, *words = (int(line, 16) for line in _emulate(program, core))
    is_integer = report.arithmetic == "integer"
    kind = "<i" if is_integer else "<f"
    outputs = torch.tensor([struct.unpack(kind, struct.pack("<I", word))[0] for word in words])
    expected = sum(map(math.prod, report.output_shapes)) + (len(report.output_shapes) if is_integer else 0)
    if len(words) != expected:
        raise RuntimeError(f"{len(words)} outputs came back, expected {expected}")
    return Measured(flash, ticks * INSTRUCTIONS_PER_TICK, stack, outputs)


def runner_code(folder: Path, report: CExportReport, *, optimize: str = "-Os") -> int:
    """Bytes of code that network and runner add to an empty program. Arguments: as for `measure`."""
    with_runner, empty = (_size(_compile(folder, runs=runs, reads=0, optimize=optimize)) for runs in (1, 0))
    return with_runner - empty - sum(report.flash_bytes.values())


def reader_code(folder: Path, *without: str) -> int:
    """Bytes that the reader adds to a program with the runner in it, the file and the network's description aside.

    Args:
        folder: as for `measure`.
        without: parts of the reader that are left out.
    """
    options = _left_out(without)
    with_reader, without_it = (
        _size(_compile(folder, *options, runs=1, reads=reads, optimize="-Os")) for reads in (2, 1)
    )
    return with_reader - without_it


def _left_out(parts: Sequence[str]) -> list[str]:
    return [f"-DTAILCUT_READ_{part}=0" for part in parts]


def _compile(folder: Path, *more: str, runs: int, reads: int, optimize: str, core: Core = M4) -> Path:
    program = folder / f"firmware{runs}{reads}{optimize}.elf"
    sources = [FIRMWARE / "startup.c", FIRMWARE / "main.c", *sorted(folder.glob("*.c"))]
    sources += [path for path in reader_sources() if reads and not (folder / path.name).exists()]
    options = [*more, optimize, f"-DRUNS={runs}", f"-DREADS={reads}", f"-I{folder}", f"-I{runtime_folder()}"]
    command = [COMPILER, *core.options, *STRICT, *options, *map(str, sources)]
    _run([*command, "-T", str(FIRMWARE / "link.ld"), *LINK, "-o", str(program)])
    return program


def _accuracy(name: str) -> float | None:
    metrics = json.loads((zoo_folder() / f"{name}.json").read_text(encoding="utf-8"))["metrics"]
    return next(iter(metrics.values()), None)


def _size(program: Path) -> int:
    """Bytes of flash: code, constants and initial values."""
    text, data, *_ = _run([SIZER, str(program)]).splitlines()[1].split()
    return int(text) + int(data)


def _emulate(program: Path, core: Core) -> list[str]:
    machine = ["-M", core.machine[0], "-cpu", core.machine[1], "-nographic", "-monitor", "none", "-serial", "none"]
    command = [EMULATOR, *machine, "-icount", "shift=0", "-semihosting-config", "enable=on,target=native"]
    done = subprocess.run(
        [*command, "-kernel", str(program)], capture_output=True, text=True, check=False, timeout=1200
    )
    lines = (done.stdout + done.stderr).split()
    if done.returncode != 0 or "fault" in lines:
        raise RuntimeError(f"the emulated core failed: {done.stdout[-300:]} {done.stderr[-300:]}")
    return lines


def _run(command: Sequence[str]) -> str:
    done = subprocess.run(list(command), capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"{command[0]} failed: {done.stderr[-2000:]}")
    return done.stdout
