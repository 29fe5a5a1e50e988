"""The page as a file: small, whole, valid and asking for nothing."""

import base64
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import torch

import tailcut
from tailcut.errors import ArgumentError, StructureError
from tailcut.export_html import HtmlExportReport, export_html
from tailcut.export_html.memory_image import memory_image
from tailcut.export_html.network import page_network
from tailcut.format.zoo import resolve

MAX_BYTES = 150_000
VOID = {"meta", "input", "link", "br", "img"}


class Checker(HTMLParser):
    """Elements are closed in their order, ids are there once, what is named by others is there."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.ids: list[str] = []
        self.named: set[str] = set()
        self.addresses: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        assert len(found) == len(attrs), f"an attribute twice in {tag}"
        self.tags.append((tag, found))
        if tag not in VOID:
            self.open.append(tag)
        self.ids += [found["id"] or ""] if "id" in found else []
        for name in ("for", "aria-labelledby", "aria-describedby"):
            self.named |= set((found.get(name) or "").split())
        self.addresses += [value for name in ("src", "href", "action") if (value := found.get(name))]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def check(text: str) -> Checker:
    checker = Checker()
    checker.feed(text)
    checker.close()
    assert checker.open == []
    assert len(checker.ids) == len(set(checker.ids))
    assert checker.named <= set(checker.ids)
    return checker


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, HtmlExportReport]:
    file = tmp_path_factory.mktemp("page") / "page.html"
    report = export_html(tailcut.load("zoo:lenet5-776"), file, title="Digits", file_bytes=1406)
    return file.read_text(encoding="utf-8"), report


def data_of(text: str) -> Any:
    (found,) = re.findall(r'<script id="network" type="application/json">(.*?)</script>', text, re.DOTALL)
    return json.loads(found)


def test_it_is_valid_and_asks_for_nothing(page: tuple[str, HtmlExportReport]) -> None:
    text, _ = page
    assert text.startswith("<!DOCTYPE html>\n<html lang=")
    checker = check(text)
    assert checker.addresses == []
    assert not re.search(r"https?:|//[a-z]|@import|url\(", re.sub(r"/\*.*?\*/", "", text.split('id="network"')[0]))
    assert not re.search(r"https?:", text)
    (policy,) = [found["content"] for tag, found in checker.tags if found.get("http-equiv")]
    assert policy is not None
    assert policy.startswith("default-src 'none'")
    assert "connect-src" not in policy
    assert {"h1", "main", "title", "label"} <= {tag for tag, _ in checker.tags}
    labels = {found.get("for") for tag, found in checker.tags if tag == "label"}
    assert {found.get("id") for tag, found in checker.tags if tag == "input"} == labels
    assert not re.search(r"\{\{\w+\}\}", text)


def test_the_report_counts_what_is_there(page: tuple[str, HtmlExportReport]) -> None:
    text, report = page
    data = data_of(text)
    image = base64.b64decode(data["image"])
    assert report.page_bytes == len(text.encode()) < MAX_BYTES
    assert report.network_bytes == len(image)
    assert image == memory_image(page_network(tailcut.load("zoo:lenet5-776")).programs).content
    assert report.runner_bytes == sum(len(base64.b64decode(code)) for code in data["runners"].values())
    assert report.input_shapes == ((1, 28, 28),)
    assert report.kind == "classes"
    assert "430,500 weights in a file of 1,406 bytes, 1,224 times smaller than they are as floats" in text
    assert "1 x 28 x 28" in str(report)


@pytest.mark.parametrize("name", ["unet-759-float16", "lenet5-776"])
def test_the_pages_in_docs_are_those_of_today(name: str, tmp_path: Path) -> None:
    """But for numbers that another torch may round otherwise; `python -m tools.docs.browser_pages` writes them."""
    path = resolve(f"zoo:{name}")
    shown = Path(__file__).parents[2] / "docs" / "pages" / f"{name}.html"
    model, size = tailcut.load(path), path.stat().st_size
    report = export_html(model, tmp_path / "page.html", title=f"zoo:{name}", file_bytes=size)
    assert report.page_bytes <= MAX_BYTES
    there, made = shown.read_text(encoding="utf-8"), (tmp_path / "page.html").read_text(encoding="utf-8")
    image = re.compile(r'"image":"[^"]*"')
    assert image.sub("", there) == image.sub("", made)
    assert len(data_of(there)["image"]) == len(data_of(made)["image"])


def test_names_in_a_file_are_text(tmp_path: Path) -> None:
    """Class names and titles of a stranger's file are shown, never run."""
    hostile = "</script><img src=x onerror=alert(1)>"
    model = tailcut.create_model("lenet5")
    tailcut.structure.set_class_names(model, [f"{hostile}{number}" for number in range(10)])
    export_html(model, tmp_path / "page.html", title=f"{hostile} & co")
    text = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert hostile not in text
    assert check(text).addresses == []
    assert data_of(text)["classes"][3] == f"{hostile}3"


def test_a_refused_network_leaves_the_page_as_it_was(tmp_path: Path) -> None:
    class Shrunk(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.shrink = torch.nn.Hardshrink()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            shrunk: torch.Tensor = self.shrink(x)
            return shrunk

    (tmp_path / "page.html").write_text("old", encoding="utf-8")
    model = tailcut.create_model("lenet5")
    model.conv1 = torch.nn.Sequential(model.get_submodule("conv1"), Shrunk())
    with pytest.raises(StructureError, match=r"\(conv1\.1\.shrink\)"):
        export_html(model, tmp_path / "page.html")
    with pytest.raises(ArgumentError, match="registered family"):
        export_html(torch.nn.Conv2d(1, 1, 1), tmp_path / "page.html")
    assert (tmp_path / "page.html").read_text(encoding="utf-8") == "old"
    assert len(list(tmp_path.iterdir())) == 1


def test_a_title_is_a_text(tmp_path: Path) -> None:
    with pytest.raises(ArgumentError, match="title must be a text, got int"):
        export_html(tailcut.load("zoo:lenet5-776"), tmp_path / "a.html", title=3)  # type: ignore[arg-type]
    assert not list(tmp_path.iterdir())
