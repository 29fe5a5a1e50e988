from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Tailcut = Callable[..., Any]


def test_qr(tailcut: Tailcut, packed: Path, tmp_path: Path) -> None:
    pytest.importorskip("segno", reason="needs the extra qr")
    outcome = tailcut("qr", packed, "-o", tmp_path / "code.png", "--json")
    assert outcome.code == 0
    assert outcome.json["num_codes"] == 1
    assert (tmp_path / "code.png").read_bytes()[:4] == b"\x89PNG"
