from collections.abc import Callable
from pathlib import Path
from typing import Any

Tailcut = Callable[..., Any]


def test_a_missing_packet_is_one_error(tailcut: Tailcut, packed: Path, tmp_path: Path) -> None:
    tailcut("split", packed, "--packet", "64", "-o", tmp_path)
    sorted(tmp_path.glob("*.packet"))[1].unlink()
    outcome = tailcut("join", tmp_path, "-o", tmp_path / "joined.tailcut")
    assert outcome.code == 1
    assert "packets are missing: 1 (numbered from 0)" in outcome.err
