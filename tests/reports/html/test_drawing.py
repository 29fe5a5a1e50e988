import re
import sys
from typing import Any
from xml.etree.ElementTree import tostring

import pytest

from tailcut.errors import MissingExtraError
from tailcut.reports.html.drawing import (
    INK,
    NUM_SERIES,
    drawing,
    label_values,
    plain_numbers,
    series_color,
    series_style,
)


def draw_line(figure: Any) -> None:
    panel = figure.subplots()
    panel.plot([1, 2], [1, 3], color=series_color(1), marker="o", label="$x_$ <b>")
    panel.legend()


def test_colors_are_those_of_the_page() -> None:
    text = tostring(drawing("a line", draw_line), encoding="unicode")
    assert "stroke: var(--series-1)" in text
    assert "fill: currentColor" in text
    assert INK not in text
    assert series_color(1) not in text


def test_it_describes_itself_and_scales() -> None:
    made = drawing("a <line>", draw_line, width=2, height=1)
    assert made.attrib == {"viewBox": "0 0 144 72", "role": "img", "aria-label": "a <line>"}
    assert (made[0].tag, made[0].text) == ("title", "a <line>")


def test_nothing_of_a_file_of_its_own_is_left() -> None:
    text = tostring(drawing("a line", draw_line), encoding="unicode")
    assert not re.search(r"https?:|<metadata|<style|xmlns|ns\d:|font-family", text)
    identifiers = re.findall(r' id="([^"]+)"', text)
    assert identifiers
    assert set(identifiers) == set(re.findall(r'(?:url\(|href=")#([^")]+)', text))


def test_text_stays_text_and_dollars_are_no_formulas() -> None:
    made = drawing("a line", draw_line)
    assert "$x_$ <b>" in [part.text for part in made.iter("text")]


def test_the_same_drawing_gives_the_same_text() -> None:
    first, second = (tostring(drawing("a line", draw_line)) for _ in range(2))
    assert first == second


def test_colors_begin_again() -> None:
    assert len({series_color(number) for number in range(NUM_SERIES)}) == NUM_SERIES
    assert series_color(NUM_SERIES) == series_color(0)
    assert series_style(NUM_SERIES - 1) == series_style(0) != series_style(NUM_SERIES)


@pytest.mark.parametrize(
    ("value", "text"), [(20_000, "20,000"), (0.5, "0.5"), (1e-6, "1e-06"), (0, "0"), (3.0, "3"), (2.5e9, "2.5e+09")]
)
def test_numbers_are_plain(value: float, text: str) -> None:
    assert plain_numbers(value) == text


@pytest.mark.parametrize(("low", "high", "labels_between"), [(1, 9, True), (1, 1e5, False)])
def test_logarithmic_axes_have_plain_numbers(low: float, high: float, labels_between: bool) -> None:
    def draw(figure: Any) -> None:
        panel = figure.subplots()
        panel.plot([low, high])
        panel.set_yscale("log")
        label_values(panel)

    texts = [part.text or "" for part in drawing("", draw).iter("text")]
    assert "1" in texts
    assert not any("math" in text or "$" in text for text in texts)
    assert ("3" in texts) == labels_between


def test_without_matplotlib_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(MissingExtraError, match=r"pip install '\.\[plots\]"):
        drawing("a line", draw_line)
