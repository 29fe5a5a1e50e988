"""Runs the command line in this process, and a small packed network to run it on."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from tailcut.cli import main
from tailcut.format import save
from tailcut.structure import create_model
from tailcut.weights import regularize


@dataclass
class Outcome:
    """What a command left: its exit code and what it wrote."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> dict[str, Any]:
        """The one JSON object on standard output."""
        value = json.loads(self.out)
        assert isinstance(value, dict)
        return value


Tailcut = Callable[..., Outcome]


@pytest.fixture
def tailcut(capsys: pytest.CaptureFixture[str]) -> Tailcut:
    """`tailcut("inspect", path, "--json")` runs the command."""

    def run(*words: object) -> Outcome:
        capsys.readouterr()
        code = main([str(word) for word in words])
        captured = capsys.readouterr()
        return Outcome(code, captured.out, captured.err)

    return run


@pytest.fixture
def packed(tmp_path: Path) -> Path:
    """A LeNet-300-100 of 150 coefficients."""
    torch.manual_seed(0)
    model = create_model("lenet300", bias=False)
    regularize(model, num_kept=50)
    save(model, tmp_path / "small.tailcut", dtype="float16")
    return tmp_path / "small.tailcut"


@pytest.fixture
def levels(tailcut: Tailcut, packed: Path, tmp_path: Path) -> Path:
    """The same network in a progressive file of two levels."""
    assert tailcut("pack", packed, "--levels", "0.25", "-o", tmp_path / "levels.tailcut").code == 0
    return tmp_path / "levels.tailcut"


@pytest.fixture
def part(tailcut: Tailcut, levels: Path, tmp_path: Path) -> Path:
    """The first of its levels, as a file of its own."""
    assert tailcut("cut", levels, "--level", 1, "-o", tmp_path / "part.tailcut").code == 0
    return tmp_path / "part.tailcut"


@pytest.fixture
def image(tmp_path: Path) -> Path:
    Image.new("L", (28, 28), 128).save(tmp_path / "digit.png")
    return tmp_path / "digit.png"
