"""The table of accuracy per byte says what the records say."""

import json
import shutil
from pathlib import Path

from tools.docs.byte_tables import byte_table, trained_table, training_table
from tools.docs.peers import points

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
    run = other | {"source": "runs/vit-ref/model.tailcut"}
    (tmp_path / "bytes" / "c.json").write_text(json.dumps(run), encoding="utf-8")
    table = byte_table(tmp_path)
    assert "| `zoo:lenet5-776` | mnist, accuracy | 50.00 % | 1,406 | **25.00 %** | **12,345** |" in table
    assert "`--max-bytes 13000 --num-gradients 7` | 4 |" in table
    assert "| `resnet20-cifar10.th`, dense | mnist, accuracy | 50.00 % | 1,080,000 |" in table
    assert "| `vit-ref`, dense | mnist, accuracy | 50.00 % | 1,080,000 |" in table


def test_every_record_was_written_by_the_command() -> None:
    records = [json.loads(path.read_text(encoding="utf-8")) for path in (RESULTS / "bytes").glob("*.json")]
    assert records
    for record in records:
        assert record["file_bytes"] <= record["settings"]["max_bytes"]
        assert {"source", "data", "split", "before", "after", "seconds", "num_threads"} <= set(record)


def test_rows_of_trainings_come_from_their_records(tmp_path: Path) -> None:
    folder = tmp_path / "training-for-bytes"
    folder.mkdir()
    record = json.loads((RESULTS / "training-for-bytes" / "lenet5-1500.json").read_text(encoding="utf-8"))
    changed = record | {"metrics": {"accuracy": 0.125}, "file_bytes": 1_234, "validation": {}, "seconds": 60}
    (folder / "lenet5-1500.json").write_text(json.dumps(changed), encoding="utf-8")
    assert "**12.50 %** |  | **1,234** | 1,500 | 12 | 60 s |" in trained_table(tmp_path)


def test_a_row_has_the_mean_of_the_seeds_and_the_largest_file(tmp_path: Path) -> None:
    folder = tmp_path / "training-for-bytes"
    folder.mkdir()
    record = json.loads((RESULTS / "training-for-bytes" / "lenet5-1500.json").read_text(encoding="utf-8"))
    for seed, accuracy, size in ((0, 0.25, 1_400), (1, 0.75, 1_450)):
        changed = record | {"metrics": {"accuracy": accuracy}, "file_bytes": size, "validation": {}, "seed": seed}
        (folder / f"lenet5-1500-{seed}.json").write_text(json.dumps(changed), encoding="utf-8")
    assert "| 0, 1 | **50.00 ± 35.36 %** |  | **1,450** |" in trained_table(tmp_path)


def test_the_plot_has_one_point_for_all_seeds(tmp_path: Path) -> None:
    folder = tmp_path / "training-for-bytes"
    folder.mkdir()
    shutil.copy(RESULTS / "peers.json", tmp_path)
    record = json.loads((RESULTS / "training-for-bytes" / "lenet5-1500.json").read_text(encoding="utf-8"))
    for seed, accuracy, size in ((0, 0.98, 1_400), (1, 0.99, 1_450)):
        changed = record | {"metrics": {"accuracy": accuracy}, "file_bytes": size, "seed": seed}
        (folder / f"lenet5-1500-{seed}.json").write_text(json.dumps(changed), encoding="utf-8")
    (ours,) = [point for point in points(tmp_path) if point.method.startswith("Tailcut")]
    assert (ours.file, round(ours.accuracy, 4)) == (1_450, 0.985)


def test_what_a_training_is_worth_comes_from_the_records(tmp_path: Path) -> None:
    assert training_table(tmp_path).count("not run") == 7
    (tmp_path / "bytes").mkdir()
    record = json.loads((RESULTS / "bytes" / "resnet20-60000.json").read_text(encoding="utf-8"))
    changed = record | {"after": 0.5, "file_bytes": 1_234}
    (tmp_path / "bytes" / "resnet20-60000.json").write_text(json.dumps(changed), encoding="utf-8")
    (tmp_path / "training-for-bytes").mkdir()
    shutil.copy(RESULTS / "training-for-bytes" / "resnet20-9900.json", tmp_path / "training-for-bytes")
    assert "| 50.00 % in 1,234 bytes | not run; 85.18 % in 9,482 bytes |" in training_table(tmp_path)
    assert "not run" not in training_table(RESULTS)
