import builtins
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from tailcut.errors import ArgumentError, MissingExtraError
from tailcut.inputs import (
    BlockDCT,
    Selection,
    draw_channels,
    draw_frequency_map,
    draw_image,
    draw_reconstruction,
)


def image(height: int = 24, width: int = 40) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.nn.functional.interpolate(torch.rand(1, 3, 5, 6, generator=generator), (height, width))[0]


def pixels(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        assert image.format == "PNG"
        return np.asarray(image.convert("RGB")).astype(int)


@pytest.mark.parametrize("selection", [Selection.of(24), Selection((), (63,)), Selection.of(192)])
def test_channels(selection: Selection, tmp_path: Path) -> None:
    channels = BlockDCT(selection)(image())
    draw_channels(channels, selection, tmp_path / "a.png")
    drawn = pixels(tmp_path / "a.png")
    assert drawn[0, 0].tolist() == [255, 255, 255]
    draw_channels(channels.flip(-1), selection, tmp_path / "b.png")
    assert (drawn != pixels(tmp_path / "b.png")).any() or selection.num_channels == 1


def test_a_channel_stands_where_its_frequency_is(tmp_path: Path) -> None:
    """One bright pixel in the channel (v = 1, u = 0) of four: to the left of the middle, below it."""
    selection = Selection((0, 1, 8, 9))
    channels = torch.zeros(4, 3, 3)
    channels[2, 1, 1] = 1
    draw_channels(torch.zeros(4, 3, 3), selection, tmp_path / "flat.png")
    draw_channels(channels, selection, tmp_path / "dot.png")
    rows, columns = np.nonzero((pixels(tmp_path / "flat.png") != pixels(tmp_path / "dot.png")).any(-1))
    height, width = pixels(tmp_path / "dot.png").shape[:2]
    assert rows.min() > 0.4 * height
    assert columns.max() < 0.6 * width


def test_frequency_map(tmp_path: Path) -> None:
    values = torch.linspace(1, 0, 192)
    draw_frequency_map(values, tmp_path / "a.png", title="probability")
    draw_frequency_map(values, tmp_path / "framed.png", title="probability", selection=Selection.of(24))
    draw_frequency_map(values, tmp_path / "log.png", title="probability", logarithmic=True)
    drawn = [pixels(tmp_path / name) for name in ("a.png", "framed.png", "log.png")]
    assert (drawn[0] != drawn[1]).any(-1).sum() > 24 * 20
    assert (drawn[0] != drawn[2]).any()
    # The left map holds the largest values, which are the brightest.
    third = drawn[0].shape[1] // 3
    assert drawn[0][:, :third].mean() > drawn[0][:, third : 2 * third].mean() + 20


@pytest.mark.parametrize("value", [0.0, 1.0])
@pytest.mark.parametrize("logarithmic", [False, True])
def test_equal_values_can_be_drawn(value: float, logarithmic: bool, tmp_path: Path) -> None:
    draw_frequency_map(torch.full((192,), value), tmp_path / "a.png", title="t", logarithmic=logarithmic)
    assert pixels(tmp_path / "a.png").size


def test_reconstruction(tmp_path: Path) -> None:
    draw_reconstruction(image(), image() + 0.2, tmp_path / "a.png", title="lighter")
    draw_reconstruction(image(), image(), tmp_path / "b.png", title="lighter")
    third = pixels(tmp_path / "a.png").shape[1] // 3
    difference = np.abs(pixels(tmp_path / "a.png") - pixels(tmp_path / "b.png"))
    assert difference[:, :third].max() == 0
    assert difference[:, third : 2 * third].max() > 30
    assert difference[:, 2 * third :].max() > 100


def test_everything_of_an_image(tmp_path: Path) -> None:
    report = draw_image(image(19, 33), BlockDCT(24), tmp_path / "deep" / "folder", name="a.png")
    assert report.files == [
        str(tmp_path / "deep" / "folder" / name) for name in ("channels.png", "energy.png", "reconstruction.png")
    ]
    assert all(pixels(Path(file)).size for file in report.files)
    again = draw_image(image(19, 33), BlockDCT(24), tmp_path / "deep" / "folder", name="a.png")
    assert again == report


def test_bad_input(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    with pytest.raises(ArgumentError, match=r"expected channels \(24, blocks_h, blocks_w\), got shape"):
        draw_channels(torch.zeros(23, 2, 2), Selection.of(24), path)
    for values in (torch.zeros(64), torch.full((192,), torch.nan)):
        with pytest.raises(ArgumentError, match="expected 192 finite values"):
            draw_frequency_map(values, path, title="t")
    with pytest.raises(ArgumentError, match="not negative for a logarithmic map"):
        draw_frequency_map(-torch.ones(192), path, title="t", logarithmic=True)
    with pytest.raises(ArgumentError, match=r"two images \(3, height, width\) of one size"):
        draw_reconstruction(image(), image(8, 8), path, title="t")
    (tmp_path / "file").write_text("")
    with pytest.raises(ArgumentError, match="cannot make the folder"):
        draw_image(image(), BlockDCT(6), tmp_path / "file")
    assert not path.exists()


def test_without_matplotlib(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def refuse(name: str, *args: Any, **settings: Any) -> Any:
        if name.startswith("matplotlib"):
            raise ImportError(name)
        return real(name, *args, **settings)

    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(MissingExtraError, match=r"an image of frequency channels needs .*pip install '\.\[plots\]"):
        draw_image(image(), BlockDCT(6), tmp_path)
    assert list(tmp_path.iterdir()) == []
