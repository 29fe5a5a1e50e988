"""Images of scores: they are drawn, and what they show is right."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from tailcut.channels import Formula, draw_maps, draw_scores, map_scores, score
from tailcut.channels.scoring import plots
from tailcut.errors import ArgumentError, MissingExtraError
from tailcut.plotting import write_figure

matplotlib = pytest.importorskip("matplotlib")
X = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))


def network(num_layers: int = 2) -> nn.Sequential:
    torch.manual_seed(0)
    layers: list[nn.Module] = []
    for number in range(num_layers):
        layers += [nn.Conv2d(3 if number == 0 else 8, 8, 3, padding=1), nn.ReLU()]
    return nn.Sequential(*layers)


@pytest.fixture
def figures(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The figures that are written."""
    found: list[Any] = []
    original = write_figure

    def write(figure: Any, path: Path) -> None:
        found.append(figure)
        original(figure, path)

    monkeypatch.setattr("tailcut.channels.scoring.plots.write_figure", write)
    return found


def is_png(path: Path) -> bool:
    with Image.open(path) as image:
        image.load()
        return image.format == "PNG" and min(image.size) > 100


def test_sorted_scores_are_those_of_figure_1(figures: list[Any], tmp_path: Path) -> None:
    scores = score(network(), [X])
    draw_scores(scores, tmp_path / "scores.png")
    assert is_png(tmp_path / "scores.png")
    panel = figures[0].axes[0]
    assert panel.get_title() == "0"
    spatial, frequency, whole = (line.get_ydata() for line in panel.get_lines())
    assert (np.diff(frequency) >= 0).all()
    np.testing.assert_allclose(whole, frequency + 0.03 * spatial, rtol=1e-12)
    assert sorted(whole) == sorted(scores["0"].tolist())
    labels = [text.get_text() for text in panel.get_legend().get_texts()]
    assert labels == ["spatial only", "frequency only", "score"]


def test_baselines_have_one_curve(figures: list[Any], tmp_path: Path) -> None:
    scores = score(network(), method="l1")
    draw_scores(scores, tmp_path / "scores.png", layers=["2"])
    (panel,) = figures[0].axes
    (line,) = panel.get_lines()
    assert line.get_ydata().tolist() == scores["2"].sort().values.tolist()


def test_many_layers_are_shown_by_a_few(figures: list[Any], tmp_path: Path) -> None:
    draw_scores(score(network(30), method="random"), tmp_path / "scores.png")
    titles = [panel.get_title() for panel in figures[0].axes]
    assert len(titles) == plots.MAX_PANELS
    assert (titles[0], titles[-1]) == ("0", "58")
    assert figures[0].get_suptitle() == "scores by random, 12 of 30 layers"


def test_maps_with_high_and_low_scores(figures: list[Any], tmp_path: Path) -> None:
    model = network().train()
    formula = Formula(gaussian_sigma=None)
    draw_maps(model, X[:1], "0", tmp_path / "maps.png", formula=formula, num_maps=2)
    assert is_png(tmp_path / "maps.png")
    assert model.training
    with torch.no_grad():
        maps = model[:2](X[:1])
    order = map_scores(maps, formula)[0].argsort(descending=True).tolist()
    panels = figures[0].axes
    shown = [panel.get_images()[0].get_array() for panel in panels]
    for place, channel in enumerate([order[0], order[1], order[-2], order[-1]]):
        np.testing.assert_allclose(shown[place], maps[0, channel])
        assert panels[4 + place].get_title() == f"channel {channel}"
    assert [panel.get_title().partition(":")[0] for panel in panels[:4]] == ["high", "high", "low", "low"]
    # Without a filter the first coefficient of a block is its sum.
    block = maps[0, order[0], :4, :4].sum()
    assert float(shown[4][0, 0]) == pytest.approx(float(block.abs().log1p()), rel=1e-5)


def test_small_maps_are_drawn_too(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 15), nn.ReLU())
    draw_maps(model, X[:1], "0", tmp_path / "maps.png", formula=Formula("published"))
    assert is_png(tmp_path / "maps.png")


def test_bad_requests(tmp_path: Path) -> None:
    scores = score(network(), method="l1")
    with pytest.raises(ArgumentError, match="there are no scores of layer conv7"):
        draw_scores(scores, tmp_path / "a.png", layers=["0", "conv7"])
    with pytest.raises(ArgumentError, match="none given"):
        draw_scores(scores, tmp_path / "a.png", layers=[])
    with pytest.raises(ArgumentError, match="there is no layer 'conv7'"):
        draw_maps(network(), X[:1], "conv7", tmp_path / "a.png")
    with pytest.raises(ArgumentError, match="maps are drawn of one image, got 2"):
        draw_maps(network(), X, "0", tmp_path / "a.png")
    assert list(tmp_path.iterdir()) == []


def test_without_matplotlib_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "matplotlib.figure", None)
    with pytest.raises(MissingExtraError, match=r"pip install '\.\[plots\]"):
        draw_scores(score(network(), method="l1"), tmp_path / "a.png")
