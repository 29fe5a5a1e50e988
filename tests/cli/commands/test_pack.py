from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from tailcut.structure import create_model

Tailcut = Callable[..., Any]


def test_plain_weights_are_packed(tailcut: Tailcut, tmp_path: Path) -> None:
    torch.save(create_model("lenet5", bias=False).state_dict(), tmp_path / "weights.pt")
    out = tmp_path / "a.tailcut"
    words = ["pack", tmp_path / "weights.pt", "-o", out, "--model", "lenet5", "--set-argument", "bias=false"]
    outcome = tailcut(*words, "--num-kept", "194", "--dtype", "float16", "--json")
    assert outcome.code == 0
    assert outcome.json["num_kept"] == 776
    assert outcome.json["out"] == str(out)
    assert out.stat().st_size == outcome.json["file_bytes"] < 1700


def test_what_is_missing_is_reported(tailcut: Tailcut, tmp_path: Path) -> None:
    torch.save(create_model("lenet5").state_dict(), tmp_path / "weights.pt")
    outcome = tailcut("pack", tmp_path / "weights.pt", "-o", tmp_path / "a.tailcut")
    assert outcome.code == 2
    assert "--model" in outcome.err
    outcome = tailcut("pack", tmp_path / "none", "-o", tmp_path / "a.tailcut", "--model", "lenet5")
    assert outcome.code == 1
    words = ["--model", "lenet5", "--keep-ratio", "0.5", "--num-kept", "3"]
    outcome = tailcut("pack", tmp_path / "weights.pt", "-o", tmp_path / "a.tailcut", *words)
    assert outcome.code == 2
    assert "not allowed with" in outcome.err


def test_the_result_is_printed_once(tailcut: Tailcut, tmp_path: Path) -> None:
    torch.save(create_model("lenet5").state_dict(), tmp_path / "weights.pt")
    out = tmp_path / "a.tailcut"
    outcome = tailcut("pack", tmp_path / "weights.pt", "-o", out, "--model", "lenet5", "--num-kept", "30")
    assert outcome.code == 0
    assert (outcome.out + outcome.err).count(f"{out.stat().st_size:,} bytes") == 1
    assert outcome.err == ""
    assert outcome.out.count("fc1.weight") == 1
