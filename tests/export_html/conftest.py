"""Pages of networks of the zoo, and a browser."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.reports.html.browser import find_browser
from tools.chromium import Tab, chromium

import tailcut
from tailcut.export_html import export_html

Pages = Callable[[str], Path]


@pytest.fixture(scope="session")
def pages(tmp_path_factory: pytest.TempPathFactory) -> Pages:
    """The page of a network of the zoo, by its name."""
    folder = tmp_path_factory.mktemp("pages")

    def page(name: str) -> Path:
        file = folder / f"{name}.html"
        if not file.exists():
            export_html(tailcut.load(f"zoo:{name}"), file, title=f"zoo:{name}")
        return file

    return page


@pytest.fixture(scope="session")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tab]:
    find_browser()  # skips the test where there is none
    with chromium(tmp_path_factory.mktemp("browser")) as tab:
        yield tab


@pytest.fixture
def tab(browser: Tab) -> Iterator[Tab]:
    """A tab; fails if a page asked for anything, or reported an error."""
    browser.errors.clear()
    browser.requests.clear()
    yield browser
    assert browser.errors == []
    assert {request.partition(":")[0] for request in browser.requests} <= {"file", "blob"}
    assert all(request.endswith(".html") or request.startswith("blob:") for request in browser.requests)
    browser.call("Emulation.clearDeviceMetricsOverride")
    browser.call("Emulation.setEmulatedMedia", features=[])
