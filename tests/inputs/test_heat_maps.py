from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from tailcut.errors import ArgumentError
from tailcut.inputs import plots
from tailcut.inputs.plots import draw_heat_maps
from tailcut.inputs.selection.gate import GateActivity
from tailcut.inputs.selection.selection import Selection

ACTIVITY = GateActivity((0, 9, 64, 191), 1234, (1.0, 0.25, 0.5, 0.75), (1.0, 0.0, 0.5, 1.0))


def test_probabilities_stand_at_their_channels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: dict[str, Any] = {}

    def draw(values: Tensor, path: Path, **options: Any) -> None:
        drawn.update(values=values, path=path, **options)

    monkeypatch.setattr(plots, "draw_frequency_map", draw)
    draw_heat_maps(ACTIVITY, tmp_path / "a.png", selection=Selection.of([0, 191]))
    expected = torch.zeros(192, dtype=torch.float64)
    expected[[0, 9, 64, 191]] = torch.tensor([1.0, 0.25, 0.5, 0.75], dtype=torch.float64)
    assert torch.equal(drawn["values"], expected)
    assert drawn["selection"].indices == (0, 191)
    assert "1,234 images" in drawn["title"]
    draw_heat_maps(ACTIVITY, tmp_path / "a.png", title="told")
    assert (drawn["title"], drawn["selection"]) == ("told", None)


def test_the_image_has_three_grids_and_likely_channels_are_bright(tmp_path: Path) -> None:
    values = [1.0] + [0.0] * 63
    activity = GateActivity(tuple(range(192)), 5, tuple(values * 3), tuple(values * 3))
    draw_heat_maps(activity, tmp_path / "heat.png")
    with Image.open(tmp_path / "heat.png") as image:
        pixels = np.asarray(image.convert("L")).astype(float)
    assert pixels.shape[1] > 2 * pixels.shape[0]
    dark = (pixels < 40).mean(axis=0) > 0.4  # columns of boxes with probability 0
    starts = np.flatnonzero(dark[1:] & ~dark[:-1])
    assert len(starts) >= 3
    with pytest.raises(ArgumentError):
        draw_heat_maps(activity, tmp_path / "nowhere" / "heat.png")
