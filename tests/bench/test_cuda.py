"""The benchmark of GPUs, on the CPU: its tables are made, and no time is looked at."""

import json
from pathlib import Path

import pytest
import torch
from bench.__main__ import main
from bench.cuda import COLUMNS, PRECISIONS, Case, Precision, cases, device_tables, products
from bench.scale import FULL, TINY
from bench.tables import Row, Table
from torch import nn

from bench import cuda


def test_tables_are_made_on_any_device(monkeypatch: pytest.MonkeyPatch) -> None:
    for limit in ("MAX_FORWARD_SECONDS", "MAX_SECONDS"):
        monkeypatch.setattr(cuda, limit, float("inf"))
    limits, forwards, steps = device_tables(TINY, torch.device("cpu"))

    assert [row["precision"] for row in limits.rows] == ["float32", "TF32", "bfloat16"]
    assert "cpu" in forwards.title
    assert len(forwards.rows) == len(PRECISIONS) * len(cases(TINY))
    assert len(steps.rows) == len(PRECISIONS) * (len(cases(TINY)) - 1)
    for row in (*forwards.rows, *steps.rows):
        for name in ("fused ms", "low rank ms", "its limit ms", "dense ms", "dense limit ms", "rebuilt ms"):
            value = row[name]
            assert isinstance(value, float), name
            assert value > 0, name
        assert row["dense MB"] is None
    for row in forwards.rows:
        apart = row["apart"]
        assert isinstance(apart, float)
        assert apart < (0.1 if row["precision"] == "bfloat16" else 1e-3)
    for table in (limits, forwards, steps):
        assert str(table)
        json.dumps(table.to_dict())


def test_one_failure_does_not_cost_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    def row(case: Case, network: nn.Module, precision: Precision, *_: object) -> Row:
        if precision.name == "TF32":
            raise torch.OutOfMemoryError("no memory\nand more")
        return dict.fromkeys((*COLUMNS, "apart"))

    monkeypatch.setattr(cuda, "_forward_row", row)
    monkeypatch.setattr(cuda, "MAX_SECONDS", -1.0)
    _, forwards, steps = device_tables(TINY, torch.device("cpu"))
    assert len(forwards.rows) == 2 * len(cases(TINY))
    assert forwards.notes[1] == "Left out: AlexNet, batch 2, TF32: OutOfMemoryError: no memory"
    assert forwards.notes[-1] == "Left out: UNet, batch 4, TF32: OutOfMemoryError: no memory"
    assert steps.rows == []
    late = [f"{name}, {kind.name}" for name in ("AlexNet", "VGG16", "ResNet18", "UNet") for kind in PRECISIONS]
    assert steps.notes[1:] == [f"Left out, for want of time: {'; '.join(late)}."]


def test_sizes_are_the_published_ones() -> None:
    shapes = [(case.name, case.num_kept, case.shape) for case in cases(FULL)]
    assert shapes[1] == ("VGG16", 128, (128, 3, 32, 32))
    assert shapes[3:] == [("UNet", 33, (1, 3, 640, 960)), ("UNet", 33, (4, 3, 640, 960))]


def test_products_are_set_back() -> None:
    before = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    for precision in PRECISIONS:
        with products(precision):
            assert torch.backends.cudnn.allow_tf32 == torch.backends.cuda.matmul.allow_tf32 == precision.tf32
    assert (torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32) == before


def test_a_missing_device_is_said(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert main(["cuda", "--scale", "tiny", "--threads", "1"]) == 0
    assert "this needs a CUDA device" in capsys.readouterr().out


def test_without_a_device_the_short_command_ends(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert cuda.main([]) == 1
    assert capsys.readouterr().err == "python -m bench.cuda needs a CUDA device\n"


def test_the_short_command_writes_its_tables(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(cuda, "device_tables", lambda scale, device: [Table(device.type, {"a": "d"}, [{"a": 1}])])
    assert cuda.main(["tiny", str(tmp_path / "cuda.json")]) == 0
    content = json.loads((tmp_path / "cuda.json").read_text(encoding="utf-8"))
    assert content == {"scale": "tiny", "topics": {"cuda": [{"title": "cuda", "rows": [{"a": 1}], "notes": []}]}}
    assert capsys.readouterr().out.startswith("cuda\n")
