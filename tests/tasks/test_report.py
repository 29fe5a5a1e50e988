from pathlib import Path

import pytest

from tailcut.errors import ArgumentError
from tailcut.tasks.report import write_page


def test_a_page_shows_so_many_images_and_its_command(tmp_path: Path) -> None:
    out = tmp_path / "a.html"
    report = write_page(["zoo:lenet300-2816"], out, data="digits", num_samples=3, command="report of a test")
    assert report.page_bytes == out.stat().st_size
    content = out.read_text()
    assert content.count("<img ") == 3
    assert "report of a test" in content


def test_a_negative_number_of_images_leaves_no_page(tmp_path: Path) -> None:
    with pytest.raises(ArgumentError, match="num_samples must be at least 0, got -1"):
        write_page(["zoo:lenet300-2816"], tmp_path / "a.html", num_samples=-1)
    assert not list(tmp_path.iterdir())
