from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tests.reports.html.browser import DARK, LIGHT, find_browser, look_at
from tests.reports.html.pages import check_page

from tailcut.errors import ArgumentError
from tailcut.reports.html.page import PageReport, write_report
from tailcut.reports.html.samples import Sample, Samples
from tailcut.reports.networks import ReportedNetwork, reported_networks

PARTS = [
    "Results",
    "Training curves",
    "Samples",
    "Kept corners",
    "Spectrum of the weights",
    "Bytes per layer",
    "Speed, fused against dense",
]
PHONE, DESKTOP = 360, 1280


@pytest.fixture(scope="module")
def report(networks: list[ReportedNetwork], tmp_path_factory: pytest.TempPathFactory) -> PageReport:
    generator = torch.Generator().manual_seed(0)
    digits = [
        Sample(place, torch.rand(1, 28, 28, generator=generator), torch.tensor(place), torch.tensor(3), 0.5)
        for place in range(6)
    ]
    found = Samples("digits", "test", [*map(str, range(10))], digits)
    out = tmp_path_factory.mktemp("page") / "report.html"
    return write_report(networks, {networks[0].name: found}, out, command="tailcut report <&>")


@pytest.fixture(scope="module")
def content(report: PageReport) -> str:
    return report.out.read_text(encoding="utf-8")


def test_the_page_is_sound_and_whole(report: PageReport, content: str) -> None:
    page = check_page(content)
    for part in PARTS:
        assert part in page.text
    assert len(page.all("section")) == len(PARTS)
    assert len(page.all("svg")) == 4 + (3 + 4) + (3 + 4 + 3)
    assert len(page.all("img")) == 6
    assert report.page_bytes == report.out.stat().st_size < 1_000_000


def test_names_and_recipes_are_text_and_no_more(content: str) -> None:
    page = check_page(content)
    for text in ("tiny <u>run", "tiny <b>run</b> & more", "<script>alert(1)</script>", "<i>Table 9</i>", "report <&>"):
        assert text in page.text
    assert "<script" not in content
    assert {tag for tag, _ in page.elements} & {"u", "b", "i"} == set()


def test_what_is_missing_is_said_on_the_page_and_in_the_report(report: PageReport, content: str) -> None:
    text = check_page(content).text
    found = {(item.section, item.network) for item in report.skipped}
    assert ("Training curves", "zoo:lenet5-776") in found
    assert ("Kept corners", "zoo:lenet300-ref") in found
    assert ("Samples", "zoo:lenet5-776") in found
    assert all(item.reason in text for item in report.skipped)
    assert str(report).startswith(f"{report.out}: ")
    assert "Training curves: without zoo:lenet5-776" in str(report)


def test_an_existing_page_is_replaced_and_nothing_else_is_left(report: PageReport, tmp_path: Path) -> None:
    out = tmp_path / "report.html"
    out.write_text("old")
    write_report(reported_networks(["zoo:lenet300-ref"]), {}, out)
    check_page(out.read_text(encoding="utf-8"))
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]


def test_a_page_never_replaces_what_it_reports_on(networks: list[ReportedNetwork], run_folder: Path) -> None:
    content = (run_folder / "result.json").read_bytes()
    with pytest.raises(ArgumentError, match="a file of the run"):
        write_report(networks, {}, run_folder / "result.json")
    assert (run_folder / "result.json").read_bytes() == content


@pytest.mark.parametrize("out", [".", "nowhere/report.html"])
def test_a_place_that_cannot_be_written_is_refused(out: str, tmp_path: Path) -> None:
    with pytest.raises(ArgumentError, match="cannot write"):
        write_report([], {}, tmp_path / out)


@pytest.mark.parametrize("width", [PHONE, DESKTOP])
@pytest.mark.parametrize("scheme", [LIGHT, DARK])
def test_a_browser_shows_it(width: int, scheme: int, report: PageReport, tmp_path: Path) -> None:
    facts, image = look_at(report.out, tmp_path, width=width, scheme=scheme)
    assert facts["width"] == width
    assert facts["scroll_width"] <= width  # wide tables scroll in their own boxes
    assert facts["height"] > 2400
    assert facts["broken"] == 0
    assert facts["least_font"] >= 12
    assert all(20 < part[0] < width and part[1] > 20 for part in facts["drawings"])
    shades = np.asarray(image.convert("L")).astype(float)
    paper, ink = (shades < 60, shades > 180) if scheme == DARK else (shades > 220, shades < 100)
    assert paper.mean() > 0.6
    assert 0.005 < ink.mean() < 0.3
    # Drawings are on it: more than greys.
    red, green, blue = np.moveaxis(np.asarray(image).astype(int), 2, 0)
    assert (abs(red - green) + abs(green - blue) > 90).mean() > 0.002


def test_the_browser_of_these_tests_sees_what_is_wrong(tmp_path: Path) -> None:
    find_browser()
    wide = tmp_path / "wide.html"
    wide.write_text(
        '<!DOCTYPE html><html><body><p style="width: 900px">wide</p><img src="data:image/png;base64,AA"></body></html>'
    )
    facts, image = look_at(wide, tmp_path, width=PHONE, scheme=LIGHT, height=500)
    assert facts["scroll_width"] > PHONE
    assert facts["broken"] == 1
    assert isinstance(image, Image.Image)
    assert image.size == (PHONE, 500)
