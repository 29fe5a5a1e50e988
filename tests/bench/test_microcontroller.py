"""Networks in C on an emulated Cortex-M4: torch's outputs, in little flash and RAM."""

from pathlib import Path
from typing import Any

import pytest
import torch

import tailcut
from bench import microcontroller as bench
from tailcut.export_c import export_c, integer_program_of, simulate

MISSING = bench.missing_tools()
pytestmark = pytest.mark.skipif(bool(MISSING), reason=f"needs {' and '.join(MISSING)}")


# RAM with the stack, in bytes; instructions.
LENETS = {"lenet5-776": (48_000, 10_000_000), "lenet5-1500": (112_000, 32_000_000)}


@pytest.mark.parametrize("name", LENETS)
def test_lenets_in_eight_kilobytes(name: str, tmp_path: Path) -> None:
    """The second has 99.28 % on MNIST."""
    ram, instructions = LENETS[name]
    model = tailcut.load(f"zoo:{name}")
    report = export_c(model, tmp_path)
    x = torch.rand(1, 1, 28, 28)
    bench.write_given(tmp_path, x, f"zoo:{name}")
    measured = bench.measure(tmp_path, report)
    with torch.no_grad():
        wanted = tailcut.to_dense(model).eval()(x).flatten()
    torch.testing.assert_close(measured.outputs, wanted, rtol=0, atol=1e-5 * float(wanted.abs().max()))
    assert measured.flash < 8192  # code and network
    assert report.arena_bytes + measured.stack < ram
    assert measured.instructions < instructions


def test_lenet_in_integers_on_a_core_without_floats(tmp_path: Path) -> None:
    """Python's integers bit for bit, in 8 KB of flash and 16 KB of RAM."""
    model = tailcut.load("zoo:lenet5-776")
    report = export_c(model, tmp_path, arithmetic="integer")
    pixels = torch.randint(0, 1 << 15, (1, 1, 28, 28), generator=torch.Generator().manual_seed(0))
    bench.write_given(tmp_path, pixels, "zoo:lenet5-776")
    measured = bench.measure(tmp_path, report, core=bench.M3)
    (output,) = simulate(integer_program_of(model), pixels.numpy())
    assert measured.outputs.tolist() == [*output.exponents.tolist(), *output.numbers.flatten().tolist()]
    assert measured.flash < 8192  # code and network
    assert report.arena_bytes + measured.stack < 16_384
    assert measured.instructions < 12_000_000


def test_runner_and_reader_in_twelve_kilobytes(tmp_path: Path) -> None:
    """Code for a network whose file needs codec 2."""
    report = export_c(tailcut.load("zoo:lenet5-776"), tmp_path)
    bench.write_given(tmp_path, torch.rand(1, 1, 28, 28), "zoo:lenet5-776")
    unneeded = bench.unneeded_parts("zoo:lenet5-776")
    assert unneeded == ("OWN_CLASSES", "METADATA", "DEFLATE", "QUANTIZED", "ALONG_AXES", "DEPENDENT", "LEVELS")
    bench.measure(tmp_path, report, reads=True, without=unneeded)
    assert bench.runner_code(tmp_path, report) + bench.reader_code(tmp_path, *unneeded) <= 12_288


def test_the_reader_takes_a_file_there(tmp_path: Path) -> None:
    """The same bytes as on this machine, with a processor of 32 bits; a status that is not ok would be an error."""
    torch.manual_seed(0)
    model = tailcut.create_model("lenet5", bias=False, convolutional=True)
    tailcut.regularize(model, num_kept=60)
    kinds: dict[str, dict[str, Any]] = {"a": {"dtype": "float16"}, "b": {"dtype": "quantized", "step": 0.1}}
    for name, settings in kinds.items():
        folder = tmp_path / name
        tailcut.save(model, tmp_path / f"{name}.tailcut", **settings)
        report = export_c(model, folder)
        bench.write_given(folder, torch.rand(1, 1, 28, 28), tmp_path / f"{name}.tailcut")
        bench.measure(folder, report, reads=True)
    assert bench.reader_code(tmp_path / "a", *bench.unneeded_parts(tmp_path / "a.tailcut")) < 9216
    assert bench.reader_code(tmp_path / "a") < 21_504


def test_unet_in_a_quarter_of_a_megabyte(tmp_path: Path) -> None:
    model = tailcut.load("zoo:unet-759-float16")
    report = export_c(model, tmp_path, image_size=(96, 96))
    x = torch.rand(1, 3, 96, 96)
    bench.write_given(tmp_path, x, "zoo:unet-759-float16")
    measured = bench.measure(tmp_path, report, optimize="-O2")
    with torch.no_grad():
        wanted = tailcut.to_dense(model).eval()(x).flatten()
    torch.testing.assert_close(measured.outputs, wanted, rtol=0, atol=1e-5 * float(wanted.abs().max()))
    assert report.arena_bytes + measured.stack < 256 * 1024
