"""The site has every page, and links that lead somewhere on it."""

import re
from pathlib import Path
from posixpath import normpath

import pytest
from tools.docs.site import api_link, api_pages, pages, site, site_text

ROOT = Path(__file__).resolve().parents[3]


def test_every_page_and_package_is_in_the_navigation() -> None:
    navigation = (ROOT / "mkdocs.yml").read_text(encoding="utf-8").partition("\nnav:\n")[2]
    listed = re.findall(r"(\S+\.md)$", navigation, re.MULTILINE)
    assert sorted(listed) == sorted([*pages(), *api_pages()])


def test_links_lead_to_files_of_the_site() -> None:
    files = dict(site())
    dead = []
    for page, text in files.items():
        if isinstance(text, str):
            prose = re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
            for link in re.findall(r"\]\(([^)\s#]+)(?:#[^)\s]*)?\)", prose):
                if "://" not in link and normpath(f"{Path(page).parent.as_posix()}/{link}") not in files:
                    dead.append((page, link))
    assert dead == []


@pytest.mark.parametrize(
    ("path", "place"),
    [
        ("src/tailcut/weights/schedule.py", "api/weights.md#tailcut.weights.schedule"),
        ("src/tailcut/weights/__init__.py", "api/weights.md#tailcut.weights"),
        ("src/tailcut/format/codecs", "api/format.md#tailcut.format.codecs"),
        ("src/tailcut/errors.py", "api/modules.md#tailcut.errors"),
        ("src/tailcut/format/SPEC.md", None),
        ("bench/files.py", None),
    ],
)
def test_source_files_have_a_place_in_the_reference(path: str, place: str | None) -> None:
    assert api_link(path) == place


def test_links_are_written_anew(tmp_path: Path) -> None:
    (tmp_path / "data.txt").write_text("1")
    (tmp_path / "folder").mkdir()
    text = "[a](b.md#c) [`x`](../src/tailcut/runs.py) [d](../data.txt) [f](../folder) ![i](https://x/y.png)\n"
    fenced = "```python\n[a](../folder)\n```\n"
    written, files = site_text("docs/a.md", text + fenced, {"docs/a.md", "docs/b.md"}, tmp_path)
    assert written == (
        "[a](../docs/b.md#c) [`x`](../api/modules.md#tailcut.runs) [d](../data.txt) f ![i](https://x/y.png)\n" + fenced
    )
    assert files == {"data.txt"}
