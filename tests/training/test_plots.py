import builtins
import warnings
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tailcut.errors import MissingExtraError
from tailcut.training.plots import draw_curves, try_to_draw_curves

LINES = [
    {"epoch": 1, "loss": 2.0, "split": "", "metrics": {}, "num_kept": 1000},
    {"epoch": 2, "loss": 1.0, "split": "validation", "metrics": {"accuracy": 0.5}, "num_kept": 100},
]


@pytest.mark.parametrize("lines", [LINES, LINES[:1], [{**LINES[0], "loss": 0.0}]])
def test_a_plot_is_an_image(lines: list[dict[str, Any]], tmp_path: Path) -> None:
    with warnings.catch_warnings(action="error"):
        draw_curves(lines, tmp_path / "curves.png", title="lenet5-776")
    with Image.open(tmp_path / "curves.png") as image:
        assert image.format == "PNG"
        assert image.width > 3 * image.height
        assert len(image.convert("RGB").getcolors(maxcolors=1 << 24) or ()) > 10


def test_the_plot_shows_the_lines(tmp_path: Path) -> None:
    for number, name in ((0.5, "a"), (0.9, "b")):
        draw_curves([*LINES, {**LINES[1], "epoch": 3, "metrics": {"accuracy": number}}], tmp_path / name, title="t")
    assert (tmp_path / "a").read_bytes() != (tmp_path / "b").read_bytes()


def test_without_matplotlib_the_run_goes_on_and_says_how_to_get_the_plot(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    real = builtins.__import__

    def refuse(name: str, *args: Any, **settings: Any) -> Any:
        if name.startswith("matplotlib"):
            raise ImportError(name)
        return real(name, *args, **settings)

    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(MissingExtraError, match=r"pip install '\.\[plots\]"):
        draw_curves(LINES, tmp_path / "curves.png", title="t")
    try_to_draw_curves(LINES, tmp_path / "curves.png", title="t")
    assert "curves.png was not drawn" in caplog.text
    assert not (tmp_path / "curves.png").exists()


def test_nothing_is_drawn_of_nothing(tmp_path: Path) -> None:
    try_to_draw_curves([], tmp_path / "curves.png", title="t")
    assert not (tmp_path / "curves.png").exists()


@pytest.mark.parametrize("title", ["costs $5_{ $", "$\\frac$", "a$b"])
def test_a_name_may_hold_dollar_signs(title: str, tmp_path: Path) -> None:
    draw_curves(LINES, tmp_path / "curves.png", title=title)
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")


def test_two_metrics_have_two_colours(tmp_path: Path) -> None:
    purple = (148, 103, 189)
    for metrics, expected in (({"fid": 90.0}, False), ({"fid": 90.0, "elbo": -100.0}, True)):
        lines = [{**LINES[1], "epoch": epoch, "metrics": metrics} for epoch in (1, 2)]
        draw_curves(lines, tmp_path / "curves.png", title="vae")
        with Image.open(tmp_path / "curves.png") as image:
            colours = {colour for _, colour in image.convert("RGB").getcolors(maxcolors=1 << 24) or ()}
        assert (purple in colours) == expected


def test_what_lies_in_the_place_of_the_plot_ends_no_training(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "curves.png").mkdir()
    try_to_draw_curves(LINES, tmp_path / "curves.png", title="t")
    assert "curves.png was not drawn: cannot write" in caplog.text
