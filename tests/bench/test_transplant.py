import json
from pathlib import Path

import pytest
from bench.transplant import main

from tailcut.data import data_roots


@pytest.fixture
def trained_networks() -> None:
    """Skips without real data, fails in CI."""
    import os

    wanted = ("weights/resnet20-cifar10.th", "cifar-10-batches-bin/test_batch.bin")
    if all(any((root / name).exists() for root in data_roots()) for name in wanted):
        return
    reason = f"needs real data: set TAILCUT_DATA to folders that hold {' and '.join(wanted)}"
    if os.environ.get("CI"):
        pytest.fail(reason)
    pytest.skip(reason)


@pytest.mark.usefixtures("trained_networks")
def test_a_transplanted_network_keeps_most_of_its_accuracy(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "transplant.json"
    assert main(["--models", "resnet20", "--fit", "250", "--test", "250", "--json", str(out)]) == 0
    rows = json.loads(out.read_text())["rows"]
    assert [row["input"] for row in rows][:2] == ["RGB", "24 channels of images enlarged 2 times"]
    assert rows[0]["accuracy"] > 0.88
    assert rows[1]["kept"] > 0.95
    assert "resnet20" in capsys.readouterr().out
