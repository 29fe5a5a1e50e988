import dataclasses
import re
from typing import Any
from xml.etree.ElementTree import Element, tostring

import numpy as np
import pytest
from tests.reports.html.pages import check_page

from tailcut.reports.html.curves import curves_section
from tailcut.reports.html.drawing import NUM_SERIES
from tailcut.reports.html.elements import PageSection, write_page
from tailcut.reports.networks import ReportedNetwork


def drawings(section: PageSection) -> dict[str, Element]:
    """By title."""
    found = [drawing for part in section.body for drawing in part.iter("svg")]
    return {drawing.attrib["aria-label"].partition(" over the epochs")[0]: drawing for drawing in found}


def line_of(drawing: Element, series: int = 0) -> np.ndarray:
    """The points of a line of the drawing, (points, 2), y upwards."""
    (path,) = [
        path.attrib["d"]
        for path in drawing.iter("path")
        if f"stroke: var(--series-{series})" in path.attrib.get("style", "") and path.attrib["d"].count("L") > 1
    ]
    return np.array(re.findall(r"(-?[\d.]+) (-?[\d.]+)", path), dtype=float) * [1, -1]


def test_each_quantity_of_a_run_is_drawn(networks: list[ReportedNetwork]) -> None:
    section = curves_section(networks)
    assert list(drawings(section)) == ["training loss", "test accuracy", "kept coefficients", "learning rate"]
    assert set(section.skipped) == {"zoo:lenet5-776", "zoo:lenet300-ref"}


@pytest.mark.parametrize(
    ("title", "key", "logarithmic"), [("training loss", "loss", True), ("kept coefficients", "num_kept", True)]
)
def test_lines_follow_the_figures(title: str, key: str, logarithmic: bool, networks: list[ReportedNetwork]) -> None:
    values = np.array([line[key] for line in networks[0].lines], dtype=float)
    points = line_of(drawings(curves_section(networks[:1]))[title])
    expected = np.log(values) if logarithmic else values
    assert np.ptp(expected) > 0
    # The drawing scales and moves: what stays is how the steps compare.
    np.testing.assert_allclose(
        (points[:, 1] - points[0, 1]) * (expected[-1] - expected[0]),
        (expected - expected[0]) * (points[-1, 1] - points[0, 1]),
        atol=0.05,
    )


def test_runs_share_drawings_and_have_a_legend(networks: list[ReportedNetwork]) -> None:
    second = dataclasses.replace(networks[0], name="another <run>")
    section = curves_section([networks[0], second])
    loss = drawings(section)["training loss"]
    assert len(line_of(loss, 0)) == len(line_of(loss, 1)) == 3
    page = check_page(write_page("a page", [], [section]))
    assert "another <run>" in page.text


def test_more_runs_than_colors_differ_in_the_style_of_their_lines(networks: list[ReportedNetwork]) -> None:
    runs = [dataclasses.replace(networks[0], name=f"run {number}") for number in range(NUM_SERIES + 1)]
    section = curves_section(runs)
    paths = [path.attrib.get("style", "") for path in drawings(section)["training loss"].iter("path")]
    lines = [style for style in paths if "stroke: var(--series-0)" in style]
    assert ["stroke-dasharray" in style for style in lines] == [False, True]
    swatches = [span.attrib["style"] for span in section.body[0].iter("span")]
    assert len(set(swatches)) == len(runs)
    assert swatches[-1] == "border-top: 0.25rem dashed var(--series-0)"


def test_figures_of_few_epochs_and_other_metrics_are_drawn(networks: list[ReportedNetwork]) -> None:
    lines: list[dict[str, Any]] = [
        {"epoch": 1, "metrics": {}},
        {"epoch": 2, "split": "validation", "metrics": {"fid\x00$": 93.0}},
        {"epoch": 3},
    ]
    section = curves_section([dataclasses.replace(networks[0], lines=lines)])
    ((title, drawing),) = drawings(section).items()
    assert title == "validation fid\ufffd$"
    assert b"var(--series-0)" in tostring(drawing)


def test_a_run_of_one_epoch_is_a_dot(networks: list[ReportedNetwork]) -> None:
    def coloured_parts(num_epochs: int) -> int:
        lines = [{"epoch": epoch, "loss": 2.0 / epoch} for epoch in range(1, num_epochs + 1)]
        drawing = drawings(curves_section([dataclasses.replace(networks[0], lines=lines)]))["training loss"]
        return tostring(drawing).count(b"var(--series-0)")

    assert coloured_parts(1) > coloured_parts(3)  # the line and its dot, and the line


def test_a_loss_below_zero_has_a_linear_axis(networks: list[ReportedNetwork]) -> None:
    lines = [{"epoch": epoch, "loss": loss} for epoch, loss in ((1, 2.0), (2, 0.0), (3, -2.0))]
    drawing = drawings(curves_section([dataclasses.replace(networks[0], lines=lines)]))["training loss"]
    heights = line_of(drawing)[:, 1]
    assert heights[0] - heights[1] == pytest.approx(heights[1] - heights[2], abs=0.05)


def test_without_any_run_there_is_only_the_reason(networks: list[ReportedNetwork]) -> None:
    section = curves_section(networks[1:])
    assert section.body == []
    assert len(section.skipped) == 2
