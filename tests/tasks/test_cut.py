from pathlib import Path

import pytest

import tailcut
from tailcut.errors import ArgumentError
from tailcut.tasks.cut import cut_file


def test_the_report_says_how_much_was_taken(tmp_path: Path) -> None:
    path, part = tmp_path / "a.tailcut", tmp_path / "part.tailcut"
    tailcut.save(tailcut.load("zoo:lenet5-776"), path, dtype="float16", levels=(0.5,))
    report = cut_file(path, part, level=1)
    assert str(report) == f"{part}: {part.stat().st_size:,} of {path.stat().st_size:,} bytes, level 1 of 2"
    assert tailcut.inspect(part).num_kept == 388
    with pytest.raises(ArgumentError, match="levels 1 to 2, asked for was 3"):
        cut_file(path, part, level=3)
    assert tailcut.inspect(part).num_kept == 388, "an error leaves the file that was there"


def test_a_file_without_levels_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ArgumentError, match=r"zoo:lenet5-776 has no levels, of which one could be cut"):
        cut_file("zoo:lenet5-776", tmp_path / "a.tailcut", level=1)
    assert not list(tmp_path.iterdir())
