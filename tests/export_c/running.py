"""Exported networks, compiled and run beside torch."""

import subprocess
from collections.abc import Sequence
from pathlib import Path

import torch
from tests.export_c.compiling import C_FOLDER, SANITIZED, compile_c
from torch import Tensor, nn

import tailcut
from tailcut.evaluation.pixel_inputs import ImageReader
from tailcut.export_c.export import CExportReport, export_c

NUM_INPUTS = 2


def compare(
    model: nn.Module, folder: Path, *, options: Sequence[str] = (), **settings: object
) -> tuple[float, CExportReport]:
    """The largest difference from torch in float64, of the largest output, over some inputs; under sanitizers.

    The arena has just the bytes that the export says, and what it leaves out of the runtime is not there. `options` are
    the compiler's.
    """
    (difference,), report = compare_builds(model, folder, [options], **settings)
    return difference, report


def compare_builds(
    model: nn.Module, folder: Path, builds: Sequence[Sequence[str]], **settings: object
) -> tuple[list[float], CExportReport]:
    """As `compare`, for one export that is compiled with some options after others."""
    report = export_c(model, folder, **settings)  # type: ignore[arg-type]
    sources = [*sorted(folder.glob("*.c")), C_FOLDER / "run_model.c"]
    generator = torch.Generator().manual_seed(1)
    shape = (NUM_INPUTS, *report.input_shape)
    is_of_pixels = settings.get("pixels", False)
    inputs = torch.rand(shape, generator=generator) if is_of_pixels else 2 * torch.randn(shape, generator=generator)
    dense = tailcut.to_dense(model).eval().double()
    dense = ImageReader(dense) if is_of_pixels else dense
    with torch.no_grad():
        wanted = torch.stack([_joined(dense(one[None].double())) for one in inputs])
    assert (wanted[0] - wanted[1]).abs().max() > 1e-4 * wanted.abs().max()  # or it would not depend on the input
    differences = []
    for options in builds:
        program = compile_c(folder / "run_model", sources, *SANITIZED, *options, folders=[folder])
        found = _outputs(program, inputs)
        assert found.shape == wanted.shape
        differences.append(float((found - wanted).abs().max() / wanted.abs().max()))
    return differences, report


def _outputs(program: Path, inputs: Tensor) -> Tensor:
    done = subprocess.run([str(program)], input=inputs.numpy().tobytes(), capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()[-3000:]
    return torch.frombuffer(bytearray(done.stdout), dtype=torch.float32).reshape(NUM_INPUTS, -1).double()


def _joined(outputs: Tensor | tuple[Tensor | None, ...]) -> Tensor:
    parts = outputs if isinstance(outputs, tuple) else (outputs,)
    return torch.cat([part.flatten() for part in parts if part is not None])
