"""The images of the pages: there, small, and of the results that are committed."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from tools.docs.combined_tables import combined_points

from tools.docs import findings, make_images

ROOT = Path(__file__).resolve().parents[3]
IMAGES = sorted((ROOT / "docs" / "images").glob("*.png"))
MAX_BYTES = 60_000


def test_every_image_is_shown_on_a_page() -> None:
    text = "\n".join(page.read_text(encoding="utf-8") for page in [ROOT / "README.md", *(ROOT / "docs").glob("*.md")])
    shown = {Path(target).name for target in re.findall(r"!\[[^\]]+\]\(([^)]+)\)", text)}
    assert shown == {path.name for path in IMAGES}


@pytest.mark.parametrize("path", IMAGES, ids=lambda path: path.name)
def test_image_is_small_and_light(path: Path) -> None:
    assert path.stat().st_size < MAX_BYTES
    with Image.open(path) as image:
        assert image.convert("RGB").getpixel((0, 0)) == (255, 255, 255)


def points_of(name: str) -> Any:
    with Image.open(ROOT / "docs" / "images" / f"{name}.png") as image:
        return json.loads(image.text[make_images.POINTS_KEY])  # type: ignore[attr-defined]


def test_image_of_the_results_is_up_to_date() -> None:
    assert points_of("results") == make_images.result_points(), "run: python -m tools.docs.make_images"


def test_image_of_accuracy_per_byte_is_up_to_date() -> None:
    assert points_of("accuracy-per-byte") == make_images.byte_points(), "run: python -m tools.docs.make_images"


def test_image_of_the_three_papers_together_is_up_to_date() -> None:
    points = combined_points(ROOT / "docs" / "results")
    assert points_of("combined") == points, "run: python -m tools.docs.make_images"


def test_images_of_the_findings_are_up_to_date() -> None:
    for name in findings.with_records():
        assert points_of(name) == findings.finding_points(name), f"{name}: run: python -m tools.docs.make_images"


@pytest.mark.parametrize("name", make_images.SHOWN)
def test_images_show_the_networks_of_the_zoo(name: str) -> None:
    assert points_of(name) == make_images.network_points(name), "run: python -m tools.docs.make_images"


@pytest.mark.slow
def test_images_can_be_drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(make_images, "FOLDER", tmp_path)
    make_images.main()
    drawn = {path.name for path in tmp_path.iterdir()}
    others = {*make_images.BY_COMMAND, *make_images.NEEDS_DATA}
    assert drawn | others == {path.name for path in IMAGES}
    assert not drawn & set(make_images.BY_COMMAND)
