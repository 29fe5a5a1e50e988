from collections.abc import Callable
from pathlib import Path
from typing import Any

import safetensors.torch

Tailcut = Callable[..., Any]


def test_dense_weights_are_written(tailcut: Tailcut, packed: Path, tmp_path: Path) -> None:
    out = tmp_path / "dense.safetensors"
    outcome = tailcut("unpack", packed, "-o", out, "--json")
    assert outcome.code == 0
    assert outcome.json["num_parameters"] == 266_200
    tensors = safetensors.torch.load_file(out)
    assert {name: tuple(value.shape) for name, value in tensors.items()} == {
        "fc1.weight": (300, 784),
        "fc2.weight": (100, 300),
        "fc3.weight": (10, 100),
    }


def test_a_folder_that_is_not_there_is_bad_usage(tailcut: Tailcut, packed: Path, tmp_path: Path) -> None:
    outcome = tailcut("unpack", packed, "-o", tmp_path / "nowhere" / "dense.safetensors")
    assert outcome.code == 2
    assert "nowhere" in outcome.err
