"""Programs in the memory of the WebAssembly runner, beside torch: the same outputs."""

import struct
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.export_c.networks import MADE, truncated
from tests.export_html.wasm import BUILDS, Runner
from torch import Tensor, nn

import tailcut
from tailcut.errors import StructureError
from tailcut.export_c.export import lower
from tailcut.export_c.program.program import Program
from tailcut.export_c.writing.tables import SIZES
from tailcut.export_html.memory_image import BASE, FORMATS, memory_image

CLOSE = 1e-5
# Name -> the shape of an input. The generator takes a code.
ZOO = {
    "lenet5-776": (1, 28, 28),
    "lenet300-2816": (1, 28, 28),
    "unet-759-float16": (3, 64, 96),
    "resnet18-2688": (3, 32, 32),
    "gan-64383": (100,),
}


def program_of(model: nn.Module, shape: tuple[int, ...]) -> tuple[Program, nn.Module]:
    dense = tailcut.to_dense(model).eval()
    return lower(model, dense, torch.rand(1, *shape))[0], dense.double()


def joined(outputs: Tensor | tuple[Tensor, ...]) -> np.ndarray:
    parts = outputs if isinstance(outputs, tuple) else (outputs,)
    return torch.cat([part.flatten() for part in parts]).numpy()


def compare(model: nn.Module, shape: tuple[int, ...], build: str) -> None:
    program, dense = program_of(model, shape)
    runner = Runner(build, [program])
    generator = torch.Generator().manual_seed(1)
    for _ in range(2):
        image = torch.randn(1, *shape, generator=generator)
        with torch.no_grad():
            wanted = joined(dense(image.double()))
        found = runner.run(0, image.numpy())
        assert wanted.std() > 0
        assert np.abs(found - wanted).max() < CLOSE * np.abs(wanted).max()


@pytest.mark.parametrize("build", BUILDS)
@pytest.mark.parametrize("name", ZOO)
def test_networks_of_the_zoo(name: str, build: str) -> None:
    compare(tailcut.load(f"zoo:{name}"), ZOO[name], build)


@pytest.mark.parametrize("build", BUILDS)
@pytest.mark.parametrize("settings", [{}, {"num_kept": 30}], ids=["plain", "truncated"])
@pytest.mark.parametrize("name", MADE)
def test_every_operation(name: str, settings: dict[str, object], build: str) -> None:
    """All layers and activations, so that each is in the WebAssembly too."""
    model, shape = truncated(name, **settings)
    compare(model, shape, build)


@pytest.mark.parametrize("step", [0.2, 0.002], ids=["int8", "int16"])
def test_whole_numbers(step: float, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = tailcut.create_model("lenet5", bias=False, convolutional=True)
    tailcut.regularize(model, num_kept=100)
    tailcut.save(model, tmp_path / "small.tailcut", dtype="quantized", step=step)
    compare(tailcut.load(tmp_path / "small.tailcut"), (1, 28, 28), BUILDS[0])


def test_programs_share_their_numbers() -> None:
    model = tailcut.load("zoo:unet-759-float16")
    programs = [program_of(model, shape)[0] for shape in ((3, 32, 64), (3, 64, 32))]
    one, both = memory_image(programs[:1]), memory_image(programs)
    assert both.content.startswith(one.content)
    assert len(both.content) < 2 * len(one.content) - 1500  # the coefficients, two bytes each, are there once
    runner = Runner(BUILDS[0], programs)
    image = torch.rand(1, 3, 32, 64).numpy()
    alone = Runner(BUILDS[0], programs[:1]).run(0, image)
    assert np.array_equal(runner.run(0, image), alone)
    assert runner.run(1, image.reshape(1, 3, 64, 32)).shape == alone.shape


def test_structures_have_the_sizes_of_the_compiler() -> None:
    assert {kind: struct.calcsize(layout) for kind, layout in FORMATS.items()} == SIZES


@pytest.mark.parametrize("build", BUILDS)
def test_the_image_begins_behind_the_runner(build: str) -> None:
    assert Runner(build, []).own_bytes <= BASE


def test_what_a_page_cannot_hold_is_refused() -> None:
    program, _ = program_of(tailcut.load("zoo:lenet300-2816"), (1, 28, 28))
    large = replace(program, arena_floats=1 << 29)
    with pytest.raises(StructureError, match=r"needs 2,147,\d{3},\d{3} bytes for one input"):
        memory_image([large])
    stage = replace(program.stages[0], groups=1 << 16)
    with pytest.raises(StructureError, match="too large for a page"):
        memory_image([replace(program, stages=[stage])])
