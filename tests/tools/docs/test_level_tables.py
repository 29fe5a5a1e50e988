"""The table of progressive files says what the records say."""

import json
from pathlib import Path

import pytest

import tailcut
from tailcut.data import open_dataset
from tailcut.evaluation.evaluate import evaluate
from tools.docs import level_tables


def test_rows_come_from_the_records(tmp_path: Path) -> None:
    assert level_tables.level_table(tmp_path) == "No network is measured yet."
    levels = [
        {"num_kept": 50, "file_bytes": 1_234, "metric": 0.5, "start": 0.25},
        {"num_kept": 100, "file_bytes": 5_678, "metric": 0.75, "start": 0.8},
    ]
    record = {"name": "net", "start": "old", "data": "mnist", "split": "test", "metric": "accuracy", "levels": levels}
    (tmp_path / "levels").mkdir()
    (tmp_path / "levels" / "net.json").write_text(json.dumps(record), encoding="utf-8")
    table = level_tables.level_table(tmp_path)
    assert "| `zoo:net`, mnist, accuracy | 1 | 50 | 1,234 | **50.00 %** | 25.00 % |" in table
    assert "| 2 | 100 | 5,678 | **75.00 %** | 80.00 % |" in table


def test_levels_are_those_of_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.tailcut"
    network = tailcut.load("zoo:lenet5-776")
    tailcut.save(network, path, dtype="float16", levels=(0.5,))
    load, inspect = tailcut.load, tailcut.inspect
    monkeypatch.setattr(tailcut, "inspect", lambda name: inspect(path if name == "zoo:ours" else name))
    monkeypatch.setattr(tailcut, "load", lambda name, **more: load(path if name == "zoo:ours" else name, **more))
    data = open_dataset("digits", "test")
    record = level_tables.measure("ours", "lenet5-776", data)
    assert [level["num_kept"] for level in record["levels"]] == [388, 776]
    assert record["levels"][-1]["file_bytes"] == path.stat().st_size
    assert record["levels"][-1]["metric"] == record["levels"][-1]["start"] == evaluate(network, data)["accuracy"]
