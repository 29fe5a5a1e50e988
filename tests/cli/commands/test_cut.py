from collections.abc import Callable
from pathlib import Path
from typing import Any

Tailcut = Callable[..., Any]


def test_levels_are_packed_listed_and_cut(tailcut: Tailcut, packed: Path, tmp_path: Path) -> None:
    whole, part = tmp_path / "whole.tailcut", tmp_path / "part.tailcut"
    assert tailcut("pack", packed, "--levels", "0.25,0.5", "-o", whole).code == 0
    levels = tailcut("inspect", whole, "--json").json["levels"]
    assert [level["level"] for level in levels] == [1, 2, 3]
    outcome = tailcut("cut", whole, "--level", "2", "-o", part, "--json")
    assert (outcome.code, outcome.json["num_levels"]) == (0, 3)
    assert part.stat().st_size == outcome.json["file_bytes"] == levels[1]["file_bytes"]
    assert whole.read_bytes().startswith(part.read_bytes())
    assert tailcut("inspect", part, "--json").json["num_kept"] == levels[1]["num_kept"]
    part.write_bytes(whole.read_bytes()[:-1])
    torn = tailcut("inspect", part)
    assert (torn.code, torn.out) == (1, "")
    assert "take what is whole by tailcut cut --level, or in Python by load(path, level=" in torn.err


def test_statistics_of_levels_are_advised_by_options(tailcut: Tailcut, tmp_path: Path) -> None:
    out = tmp_path / "a.tailcut"
    warned = tailcut("pack", "zoo:resnet18-2688", "--levels", "0.5", "-o", out)
    assert warned.code == 0
    assert "spoils the smaller ones: tailcut compress --levels measures them" in warned.err


def test_bad_levels(tailcut: Tailcut, packed: Path, tmp_path: Path) -> None:
    out = tmp_path / "a.tailcut"
    refused = tailcut("cut", packed, "--level", "2", "-o", out)
    assert (refused.code, out.exists()) == (2, False)
    assert "no levels" in refused.err
    assert tailcut("pack", packed, "--levels", "a,b", "-o", out).code == 2
    assert "levels must rise" in tailcut("pack", packed, "--levels", "0.5,0.2", "-o", out).err
    assert "leave out --model" in tailcut("pack", packed, "--model", "lenet5", "-o", out).err
