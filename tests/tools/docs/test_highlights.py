"""The README's lines say what the records say."""

import json
import shutil
from pathlib import Path

from tools.docs.highlights import highlights

RECORDS = Path(__file__).resolve().parents[3] / "docs" / "results"


def test_figures_come_from_the_records(tmp_path: Path) -> None:
    shutil.copytree(RECORDS, tmp_path / "results")
    file = tmp_path / "results" / "published-unet" / "inspect-float16.json"
    file.write_text(json.dumps(json.loads(file.read_text(encoding="utf-8")) | {"file_bytes": 12_345}), encoding="utf-8")
    parent = tmp_path / "results" / "parents" / "resnet56.json"
    parent.write_text(json.dumps({"metrics": {"accuracy": 0.5}}), encoding="utf-8")
    told = highlights(tmp_path / "results")
    assert "**12,345 bytes**" in told
    assert "| 50.00 %, all MACs |" in told
    assert "12,345" not in highlights(RECORDS)


def test_what_was_not_trained_has_no_line(tmp_path: Path) -> None:
    shutil.copytree(RECORDS, tmp_path / "results")
    shutil.rmtree(tmp_path / "results" / "frequency-pruning")
    (tmp_path / "results" / "training-for-bytes" / "unet-1000.json").unlink()
    told = highlights(tmp_path / "results")
    assert "of its MACs" not in told
    assert "of its MACs" in highlights(RECORDS)
    assert "photos of cars" not in told
    assert "photos of cars" in highlights(RECORDS)
