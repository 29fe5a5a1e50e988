from collections.abc import Callable
from pathlib import Path
from typing import Any

Tailcut = Callable[..., Any]


def test_json_has_the_promised_keys(tailcut: Tailcut, packed: Path) -> None:
    outcome = tailcut("inspect", packed, "--json")
    assert outcome.code == 0
    keys = ["version", "model", "file_bytes", "dense_bytes", "compression_ratio", "num_parameters", "num_truncated"]
    assert list(outcome.json)[:11] == [*keys, "num_kept", "bytes_by_kind", "tensors", "other_tensors"]
    assert outcome.json["model"] == "lenet300"
    assert outcome.json["file_bytes"] == packed.stat().st_size
    assert outcome.json["num_parameters"] == 266_200
    assert outcome.json["num_kept"] == 150
    assert outcome.json["other_tensors"] == []
    tensor = outcome.json["tensors"][0]
    assert {key: tensor[key] for key in ("name", "shape", "axes", "order_weights", "num_kept", "dtype")} == {
        "name": "fc1.weight",
        "shape": [300, 784],
        "axes": [0, 1],
        "order_weights": [1, 1],
        "num_kept": 50,
        "dtype": "float16",
    }


def test_a_table_is_shown(tailcut: Tailcut, packed: Path) -> None:
    outcome = tailcut("inspect", packed)
    assert outcome.code == 0
    assert "fc1.weight" in outcome.out
    assert "300 x 784" in outcome.out


def test_no_file_and_no_tailcut_file_fail(tailcut: Tailcut, tmp_path: Path) -> None:
    outcome = tailcut("inspect", tmp_path / "none.tailcut")
    assert outcome.code == 1
    assert "none.tailcut" in outcome.err
    (tmp_path / "text.tailcut").write_text("hello, I am a text and no network")
    outcome = tailcut("inspect", tmp_path / "text.tailcut", "--json")
    assert outcome.code == 1
    assert outcome.json["error"]["type"] == "NotTailcutFileError"
    assert outcome.err.count("\n") == 1
