"""Figures are written whole."""

import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from tailcut.errors import ArgumentError, MissingExtraError
from tailcut.plotting import new_figure, write_figure
from tailcut.tasks.attack import AttackPlan, attack_files
from tailcut.tasks.prediction.explain import explain_files
from tailcut.tasks.score import score_file


def test_a_figure_is_a_png_of_the_wanted_size(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    figure = new_figure("a line", (3, 2))
    figure.subplots().plot([0, 1], [1, 0])
    write_figure(figure, tmp_path / "line.png")
    with Image.open(tmp_path / "line.png") as image:
        assert (image.format, image.size) == ("PNG", (330, 220))
    with pytest.raises(ArgumentError, match="does not exist"):
        write_figure(figure, tmp_path / "nowhere" / "line.png")


def test_texts_may_hold_dollar_signs(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    figure = new_figure("a line", (3, 2))
    panel = figure.subplots()
    panel.plot([0, 1], [1, 0], label="a$_{$")
    panel.set(title="$\\frac$", xlabel="$^$")
    panel.legend()
    write_figure(figure, tmp_path / "line.png")
    assert (tmp_path / "line.png").read_bytes().startswith(b"\x89PNG")


def test_powers_of_ten_stay_formulas(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    figure = new_figure("a line", (3, 2))
    panel = figure.subplots()
    panel.plot([0, 1], [1, 1000])
    panel.set(yscale="log", ylabel="a$_{$")
    write_figure(figure, tmp_path / "line.png")
    assert [label.get_parse_math() for label in panel.yaxis.get_ticklabels()].count(False) == 0
    assert not panel.yaxis.label.get_parse_math()


def test_without_matplotlib_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(MissingExtraError, match=r"a line needs the package 'matplotlib': pip install '\.\[plots\]'"):
        new_figure("a line", (3, 2))


def test_the_tasks_ask_for_matplotlib_before_they_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("matplotlib", "matplotlib.figure", "matplotlib.backends.backend_agg"):
        monkeypatch.setitem(sys.modules, name, None)
    for module in ("attack", "prediction.explain", "score"):
        for work in ("load", "open_network", "open_dataset"):
            monkeypatch.setattr(f"tailcut.tasks.{module}.{work}", None, raising=False)
    out, image = tmp_path / "a.json", tmp_path / "a.png"
    tasks: list[Callable[[], object]] = [
        lambda: attack_files(["zoo:lenet5-776"], "digits", plan=AttackPlan(), out=image, device="cpu"),
        lambda: explain_files(["zoo:lenet5-776"], "digit.png", image, device="cpu"),
        lambda: score_file("zoo:lenet5-776", out, "digits", plot=image, device="cpu"),
    ]
    for task in tasks:
        with pytest.raises(MissingExtraError, match=r"pip install '\.\[plots\]'"):
            task()
    assert not list(tmp_path.iterdir())
