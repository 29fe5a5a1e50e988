"""The table of fuzzing says what the record says."""

import json
from pathlib import Path

import pytest
from tools.docs.fuzz_tables import fuzz_table


@pytest.mark.parametrize("minutes", [59, 60])
def test_rows_come_from_the_record(minutes: int, tmp_path: Path) -> None:
    targets = {
        "load": {"minutes": 83, "executions": 334_996, "findings": 2},
        "recipes": {"minutes": minutes, "executions": 7, "findings": 0},
    }
    record = {"date": "2026-11-24", "machine": "a core", "targets": targets, "graphs": {"networks": 300, "findings": 1}}
    (tmp_path / "results.json").write_text(json.dumps(record), encoding="utf-8")
    text = fuzz_table(tmp_path / "results.json")
    assert "| `load` | 83 | 334,996 | 2 |" in text
    assert "| random networks |  | 300 | 1 |" in text
    assert text.startswith("Until 2026-11-24, on a core. ")
    assert ("Less than an hour so far: `recipes`.\n" in text) == (minutes < 60)
