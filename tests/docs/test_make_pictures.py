"""The pictures of the pages: there, small, and of the results that are committed."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from docs import findings, make_pictures

ROOT = Path(__file__).resolve().parents[2]
PICTURES = sorted((ROOT / "docs" / "pictures").glob("*.png"))
MAX_BYTES = 60_000


def test_every_picture_is_shown_on_a_page() -> None:
    text = "\n".join(page.read_text(encoding="utf-8") for page in [ROOT / "README.md", *(ROOT / "docs").glob("*.md")])
    shown = {Path(target).name for target in re.findall(r"!\[[^\]]+\]\(([^)]+)\)", text)}
    assert shown == {path.name for path in PICTURES}


@pytest.mark.parametrize("path", PICTURES, ids=lambda path: path.name)
def test_picture_is_small_and_light(path: Path) -> None:
    assert path.stat().st_size < MAX_BYTES
    with Image.open(path) as picture:
        assert picture.convert("RGB").getpixel((0, 0)) == (255, 255, 255)


def points_of(name: str) -> Any:
    with Image.open(ROOT / "docs" / "pictures" / f"{name}.png") as picture:
        return json.loads(picture.text[make_pictures.POINTS_KEY])  # type: ignore[attr-defined]


def test_picture_of_the_results_is_up_to_date() -> None:
    assert points_of("results") == make_pictures.result_points(), "run: python -m docs.make_pictures"


def test_pictures_of_the_findings_are_up_to_date() -> None:
    for name in findings.with_records():
        assert points_of(name) == findings.finding_points(name), f"{name}: run: python -m docs.make_pictures"


@pytest.mark.parametrize("name", make_pictures.SHOWN)
def test_pictures_show_the_networks_of_the_zoo(name: str) -> None:
    assert points_of(name) == make_pictures.network_points(name), "run: python -m docs.make_pictures"


@pytest.mark.slow
def test_pictures_can_be_drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(make_pictures, "FOLDER", tmp_path)
    make_pictures.main()
    drawn = {path.name for path in tmp_path.iterdir()}
    others = {*make_pictures.BY_COMMAND, *make_pictures.NEEDS_DATA}
    assert drawn | others == {path.name for path in PICTURES}
    assert not drawn & set(make_pictures.BY_COMMAND)
