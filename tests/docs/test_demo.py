"""The demo, shortened: it runs, leaves what it says, and what it proposes can be typed."""

import re
import shlex
from pathlib import Path

import demo
import pytest

import tailcut
from tailcut.cli import main

pytestmark = [pytest.mark.slow, pytest.mark.curves]


@pytest.fixture
def output(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> str:
    """What a demo of one epoch on scikit-learn's digits prints; its files lie in `tmp_path / "out"`."""
    monkeypatch.setattr(demo, "mnist_is_there", lambda: False)
    demo.main(tmp_path / "out", ["training.epochs=1", "regularization.num_kept=400", "schedule.every=1"])
    return capsys.readouterr().out


def test_demo(output: str, tmp_path: Path) -> None:
    out = tmp_path / "out"
    for name in ("corners.png", "predictions.png", "digit.png", "dense.safetensors", "run/curves.png"):
        assert (out / name).stat().st_size > 0
    assert tailcut.inspect(out / "run" / "model.tailcut").num_kept == 1200
    assert "1,200 coefficients" in output
    assert re.search(r"\d+\.\d\d % of 355 test digits", output)

    proposed = [shlex.split(line)[1:] for line in output.splitlines() if re.match(r"   \S*/tailcut ", line)]
    assert [words[0] for words in proposed] == ["predict", "train", "models"]
    assert main(proposed[0]) == 0
    assert main(proposed[2]) == 0


def test_demo_runs_again_in_the_same_folder(output: str, tmp_path: Path) -> None:
    demo.main(tmp_path / "out", ["training.epochs=1", "regularization.num_kept=400", "schedule.every=1"])
