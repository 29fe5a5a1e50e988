from collections.abc import Callable
from pathlib import Path
from typing import Any

Tailcut = Callable[..., Any]


def test_split_and_join(tailcut: Tailcut, packed: Path, tmp_path: Path) -> None:
    outcome = tailcut("split", packed, "--packet", "64", "-o", tmp_path / "packets", "--json")
    assert outcome.code == 0
    assert outcome.json["packet_bytes"] <= 64
    assert outcome.json["file_bytes"] == packed.stat().st_size
    joined = tailcut("join", tmp_path / "packets", "-o", tmp_path / "joined.tailcut", "--json")
    assert joined.json["num_packets"] == len(outcome.json["files"])
    assert (tmp_path / "joined.tailcut").read_bytes() == packed.read_bytes()
