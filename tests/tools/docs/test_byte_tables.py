"""The table of accuracy per byte says what the records say."""

import json
from pathlib import Path

from tools.docs.byte_tables import byte_table, trained_table

RESULTS = Path(__file__).resolve().parents[3] / "docs" / "results"


def test_rows_come_from_the_records(tmp_path: Path) -> None:
    record = {
        "source": "zoo:lenet5-776",
        "file_bytes": 12_345,
        "dense_bytes": 1,
        "data": "mnist",
        "metric": "accuracy",
        "before": 0.5,
        "after": 0.25,
        "settings": {"max_bytes": 13_000, "num_gradients": 7},
        "seconds": 3.6,
    }
    (tmp_path / "bytes").mkdir()
    (tmp_path / "bytes" / "a.json").write_text(json.dumps(record), encoding="utf-8")
    other = record | {"source": "weights/resnet20-cifar10.th", "dense_bytes": 1_080_000}
    (tmp_path / "bytes" / "b.json").write_text(json.dumps(other), encoding="utf-8")
    table = byte_table(tmp_path)
    assert "| `zoo:lenet5-776` | mnist, accuracy | 50.00 % | 1,406 | **25.00 %** | **12,345** |" in table
    assert "`--max-bytes 13000 --num-gradients 7` | 4 |" in table
    assert "| `resnet20-cifar10.th`, dense | mnist, accuracy | 50.00 % | 1,080,000 |" in table


def test_every_record_was_written_by_the_command() -> None:
    records = [json.loads(path.read_text(encoding="utf-8")) for path in (RESULTS / "bytes").glob("*.json")]
    assert records
    for record in records:
        assert record["file_bytes"] <= record["settings"]["max_bytes"]
        assert {"source", "data", "split", "before", "after", "seconds", "threads"} <= set(record)


def test_rows_of_trainings_come_from_their_records(tmp_path: Path) -> None:
    folder = tmp_path / "training-for-bytes"
    folder.mkdir()
    record = json.loads((RESULTS / "training-for-bytes" / "lenet5-1500.json").read_text(encoding="utf-8"))
    changed = record | {"metrics": {"accuracy": 0.125}, "file_bytes": 1_234, "validation": {}, "seconds": 60}
    (folder / "lenet5-1500.json").write_text(json.dumps(changed), encoding="utf-8")
    assert "**12.50 %** |  | **1,234** | 1,500 | 12 | 60 s |" in trained_table(tmp_path)
