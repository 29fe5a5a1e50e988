from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
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


def test_a_level_of_a_progressive_file(tailcut: Tailcut, levels: Path, part: Path, tmp_path: Path) -> None:
    names = [tmp_path / f"{name}.safetensors" for name in ("whole", "level", "part")]
    for source, out, words in ((levels, names[0], ()), (levels, names[1], ("--level", 1)), (part, names[2], ())):
        assert tailcut("unpack", source, "-o", out, *words).code == 0
    assert names[1].read_bytes() == names[2].read_bytes() != names[0].read_bytes()


@pytest.mark.parametrize("name", ["dense.pth", "dense.npz", "dense.bin"])
def test_a_name_that_says_another_kind_of_file_is_refused(
    name: str, tailcut: Tailcut, packed: Path, tmp_path: Path
) -> None:
    for words in (("unpack", packed), ("export", packed, "--to", "safetensors")):
        refused = tailcut(*words, "-o", tmp_path / name)
        assert (refused.code, (tmp_path / name).exists()) == (2, False)
        assert "expected a name that ends in .safetensors, got" in refused.err
    refused = tailcut("export", packed, "--to", "torch", "-o", tmp_path / "dense.safetensors")
    assert (refused.code, "ends in .pt or .pth, got" in refused.err) == (2, True)
    assert tailcut("export", packed, "--to", "torch", "-o", tmp_path / "dense.PTH").code == 0


def test_a_folder_that_is_not_there_is_bad_usage(tailcut: Tailcut, packed: Path, tmp_path: Path) -> None:
    outcome = tailcut("unpack", packed, "-o", tmp_path / "nowhere" / "dense.safetensors")
    assert outcome.code == 2
    assert "nowhere" in outcome.err
