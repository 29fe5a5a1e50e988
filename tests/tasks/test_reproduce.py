import json
from pathlib import Path

import pytest

from tailcut.errors import ArgumentError
from tailcut.tasks.reproduce import reproduce, wanted_rows

RECORDS = Path(__file__).parents[2] / "docs" / "results" / "frequency-regularization"


def test_a_table_is_returned_and_written(tmp_path: Path) -> None:
    report = reproduce("table1", runs=tmp_path, show=True, only=["lenet5-776"], markdown=tmp_path / "t.md")
    recorded = [json.loads(path.read_text())["metrics"]["accuracy"] for path in RECORDS.glob("lenet5-776*.json")]
    assert sorted(row.ours or 0.0 for row in report.rows) == sorted(recorded)
    assert (tmp_path / "t.md").read_text() == report.to_markdown()


def test_no_records_leave_the_row_open(tmp_path: Path) -> None:
    report = reproduce("table1", runs=tmp_path, show=True, no_records=True, only=["lenet5-776"])
    assert [row.ours for row in report.rows] == [None]


def test_detectors_that_were_not_run_are_measured_by_boxes() -> None:
    measured = {entry.name: entry.measured for entry in wanted_rows(["faster-rcnn-overfit", "resnet56"])}
    assert measured == {"faster-rcnn-overfit": "box_AP", "resnet56": "accuracy"}


def test_a_recipe_that_is_not_there() -> None:
    with pytest.raises(ArgumentError, match="no recipe 'lenet6'"):
        wanted_rows(["lenet6"])
