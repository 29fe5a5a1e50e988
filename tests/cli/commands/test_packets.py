"""The commands of thin links: a file in packets, put together again, and as QR codes."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Tailcut = Callable[..., Any]


def test_split_and_join(tailcut: Tailcut, packed: Path, tmp_path: Path) -> None:
    outcome = tailcut("split", packed, "--packet-bytes", "64", "-o", tmp_path / "packets", "--json")
    assert outcome.code == 0
    assert outcome.json["packet_bytes"] <= 64
    assert outcome.json["file_bytes"] == packed.stat().st_size
    joined = tailcut("join", tmp_path / "packets", "-o", tmp_path / "joined.tailcut", "--json")
    assert joined.json["num_packets"] == len(outcome.json["files"])
    assert (tmp_path / "joined.tailcut").read_bytes() == packed.read_bytes()


def test_sizes_are_those_of_other_commands(tailcut: Tailcut, packed: Path, tmp_path: Path) -> None:
    sizes = [
        tailcut("split", packed, "--packet-bytes", size, "-o", tmp_path / size, "--json").json["packet_bytes"]
        for size in ("100", "0.1KB", "1KiB")
    ]
    assert sizes[0] == sizes[1] <= 100 < sizes[2] <= 1024


def test_a_missing_packet_is_one_error(tailcut: Tailcut, packed: Path, tmp_path: Path) -> None:
    tailcut("split", packed, "--packet-bytes", "64", "-o", tmp_path)
    sorted(tmp_path.glob("*.packet"))[1].unlink()
    outcome = tailcut("join", tmp_path, "-o", tmp_path / "joined.tailcut")
    assert outcome.code == 1
    assert "packets are missing: 1 (numbered from 0)" in outcome.err


def test_qr(tailcut: Tailcut, packed: Path, tmp_path: Path) -> None:
    pytest.importorskip("segno", reason="needs the extra qr")
    outcome = tailcut("qr", packed, "-o", tmp_path / "code.png", "--json")
    assert outcome.code == 0
    assert outcome.json["num_codes"] == 1
    assert (tmp_path / "code.png").read_bytes()[:4] == b"\x89PNG"
    versions = [
        tailcut("qr", packed, "-o", tmp_path / "code.png", "--error-correction", level, "--json").json["version"]
        for level in ("low", "medium")
    ]
    assert versions[0] < versions[1] == outcome.json["version"]  # with more to restore it from, a larger code
    assert tailcut("qr", packed, "-o", tmp_path / "code.png", "--level", "low").code == 2
