import json
from pathlib import Path

import pytest

from tailcut.errors import DataError
from tailcut.reports.tables.table5 import table5


def write_record(path: Path, rows: list[dict[str, object]]) -> Path:
    content = {"machine": {"processor": "a processor"}, "topics": {"table5": [{"rows": rows}]}}
    path.write_text(json.dumps(content))
    return path


def test_measured_rows_stand_beside_the_paper_s(tmp_path: Path) -> None:
    ours = {"way": "fused", "processes": 2, "s for 508": 123.4}
    theirs = {"way": "the paper's GPUs", "processes": 2, "s for 508": 52.0}
    report = table5(write_record(tmp_path / "record.json", [theirs, ours]))
    assert [(row.ours, row.paper) for row in report.rows] == [(None, 79), (123.4, 52), (None, 79), (None, 52)]
    [row] = [row for row in report.rows if row.ours is not None]
    assert (row.lower_is_better, row.comparable, row.device) == (True, False, "a processor")
    text = str(report)
    assert "123.40" in text
    assert "%" not in text
    assert "| 123.40 |" in report.to_markdown()


def test_without_a_record_the_command_is_reported(tmp_path: Path) -> None:
    report = table5(tmp_path / "nowhere.json")
    assert {row.ours for row in report.rows} == {None}
    assert "python -m bench table5 --json" in str(report)


@pytest.mark.parametrize("content", ["{", "[]", "{}", '{"machine": {"processor": ""}, "topics": {"table5": []}}'])
def test_a_damaged_record_is_refused(content: str, tmp_path: Path) -> None:
    (tmp_path / "record.json").write_text(content)
    with pytest.raises(DataError, match="no record of the benchmark"):
        table5(tmp_path / "record.json")
