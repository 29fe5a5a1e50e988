from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from tailcut.format import save
from tailcut.inputs.selection.selection import Selection
from tailcut.inputs.stem.replace import replace_stem
from tailcut.structure import create_model

Tailcut = Callable[..., Any]


@pytest.fixture
def gate(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    save(replace_stem(create_model("resnet20", width=2), 12, gate=True), tmp_path / "gate.tailcut")
    return tmp_path / "gate.tailcut"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "imagenette224" / "val" / "n01440764"
    folder.mkdir(parents=True)
    for number in range(3):
        pixels = np.random.default_rng(number).integers(0, 256, (16, 16, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
    return tmp_path


def test_a_selection_is_written(tailcut: Tailcut, gate: Path, root: Path, tmp_path: Path) -> None:
    out = tmp_path / "selection.json"
    words = ("select", gate, "-o", out, "--data", "imagenette@32", "--data-root", root)
    outcome = tailcut(*words, "--channels", "3", "--json")
    assert outcome.code == 0
    assert outcome.json["num_images"] == 3
    assert Selection.load(out).num_channels == outcome.json["num_channels"] == 3
    outcome = tailcut(*words, "--channels", "2+1+1", "--heat-maps", tmp_path / "heat.png")
    assert outcome.code == 0
    assert str(out) in outcome.out
    assert [len(part) for part in Selection.load(out).components().values()] == [2, 1, 1]
    assert (tmp_path / "heat.png").read_bytes().startswith(b"\x89PNG")
    outcome = tailcut(
        "dct", root / "imagenette224/val/n01440764/0.png", "-o", tmp_path / "dct", "--channels", out, "--json"
    )
    assert outcome.json["shape"][0] == 4


def test_bad_usage(tailcut: Tailcut, gate: Path, root: Path, tmp_path: Path) -> None:
    out = tmp_path / "a.json"
    assert tailcut("select", gate).code == 2
    assert tailcut("select", gate, "-o", out, "--channels", "many", "--data", "imagenette").code == 2
    outcome = tailcut("select", gate, "-o", out)
    assert outcome.code == 2
    assert "give --data" in outcome.err
    outcome = tailcut("select", gate, "-o", out, "--channels", "13", "--data", "imagenette@32", "--data-root", root)
    assert outcome.code == 2
    assert "1 to 12 channels" in outcome.err
    assert not out.exists()


def test_heat_maps_and_selection_are_two_files(tailcut: Tailcut, packed: Path, tmp_path: Path) -> None:
    both = tmp_path / "both.png"
    outcome = tailcut("select", packed, "-o", both, "--heat-maps", both, "--data", "digits")
    assert (outcome.code, "would be written twice" in outcome.err) == (2, True)
