import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tailcut.errors import DataNotFoundError

Tailcut = Callable[..., Any]


def test_the_first_table_is_there_without_training(tailcut: Tailcut, tmp_path: Path) -> None:
    shown = tailcut("reproduce", "table1", "--show", "--runs", str(tmp_path), "--markdown", str(tmp_path / "t.md"))
    assert shown.code == 0
    assert "lenet5-776" in shown.out
    assert "not run" not in shown.out
    assert (tmp_path / "t.md").read_text().startswith("| recipe | metric |")


@pytest.mark.parametrize("table", ["lfd", "cfdp"])
def test_rows_that_were_not_run_have_no_figures(table: str, tailcut: Tailcut, tmp_path: Path) -> None:
    shown = tailcut("reproduce", table, "--show", "--runs", str(tmp_path), "--json")
    rows = json.loads(shown.out)["rows"]
    assert rows
    assert {row["ours"] for row in rows} == {None}
    assert all(0 < row["paper"] < 1 for row in rows if row["comparable"])


def test_what_is_missing_is_trained_and_what_has_no_data_says_so(
    tailcut: Tailcut, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tailcut.training import loop

    trained = []

    def train(recipe: Any, out: Path, **settings: Any) -> None:
        trained.append((recipe.name, Path(out).name, settings["resume"]))
        raise DataNotFoundError("CIFAR-10 lies nowhere")

    monkeypatch.setattr(loop, "train", train)
    shown = tailcut("reproduce", "cfdp", "--only", "resnet56", "--runs", str(tmp_path / "runs"))
    assert shown.code == 0
    assert trained == [("resnet56", "resnet56", True)]
    assert "not run" in shown.out
    assert "CIFAR-10 lies nowhere" in shown.err


@pytest.mark.parametrize(
    ("words", "message"), [(["table9"], "unknown table"), (["cfdp", "--only", "nothing"], "no recipe 'nothing'")]
)
def test_bad_usage(words: list[str], message: str, tailcut: Tailcut) -> None:
    shown = tailcut("reproduce", *words, "--show")
    assert shown.code == 2
    assert message in shown.err
