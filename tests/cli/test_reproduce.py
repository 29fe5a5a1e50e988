import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tailcut.errors import DataNotFoundError
from tailcut.format.zoo import zoo_folder

ROOT = Path(__file__).resolve().parents[2]
Tailcut = Callable[..., Any]


def test_the_first_table_is_there_without_training(tailcut: Tailcut, tmp_path: Path) -> None:
    shown = tailcut("reproduce", "table1", "--show", "--runs", str(tmp_path), "--markdown", str(tmp_path / "t.md"))
    assert shown.code == 0
    assert "lenet5-776" in shown.out
    assert "not run" not in shown.out
    assert (tmp_path / "t.md").read_text().startswith("| recipe | metric |")


@pytest.mark.parametrize("table", ["lfd", "cfdp"])
def test_rows_that_were_not_run_have_no_figures(table: str, tailcut: Tailcut, tmp_path: Path) -> None:
    shown = tailcut("reproduce", table, "--show", "--runs", str(tmp_path), "--no-records", "--json")
    rows = json.loads(shown.out)["rows"]
    assert rows
    assert {row["ours"] for row in rows} == {None}
    assert all(0 < row["paper"] < 1 for row in rows if row["comparable"])


@pytest.mark.parametrize("table", ["lfd", "cfdp"])
def test_committed_records_are_shown(table: str, tailcut: Tailcut, tmp_path: Path) -> None:
    """Each record of the repository is a row, with its own figure."""
    shown = tailcut("reproduce", table, "--show", "--runs", str(tmp_path), "--json")
    rows = json.loads(shown.out)["rows"]
    folder = {"lfd": "frequency-inputs", "cfdp": "frequency-pruning"}[table]
    records = [json.loads(path.read_text()) for path in (ROOT / "docs" / "results" / folder).glob("*.json")]
    expected = [
        (one["name"], one["seed"], metric, value) for one in records for metric, value in one["metrics"].items()
    ]
    ours = [(row["name"], row["seed"], row["metric"], row["ours"]) for row in rows if row["ours"] is not None]
    assert sorted(ours) == sorted(expected)


def test_several_seeds_have_rows_and_a_mean(tailcut: Tailcut, tmp_path: Path) -> None:
    result = json.loads((zoo_folder() / "lenet5-776.json").read_text())
    for seed, accuracy in ((0, 0.98), (1, 0.99)):
        (tmp_path / f"run{seed}").mkdir()
        changed = result | {"seed": seed, "metrics": {"accuracy": accuracy}}
        (tmp_path / f"run{seed}" / "result.json").write_text(json.dumps(changed))
    words = ("reproduce", "table1", "--show", "--only", "lenet5-776", "--runs", str(tmp_path))
    report = json.loads(tailcut(*words, "--json").out)
    assert [row["seed"] for row in report["rows"]] == [0, 1]
    assert report["means"][0]["mean"] == pytest.approx(0.985)
    assert "98.50 ± 0.71 %" in tailcut(*words).out


def test_what_is_missing_is_trained_and_what_has_no_data_says_so(
    tailcut: Tailcut, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tailcut.training import trainers

    trained = []

    def train(recipe: Any, out: Path, **settings: Any) -> None:
        trained.append((recipe.name, Path(out).name, settings["resume"]))
        raise DataNotFoundError("CIFAR-10 lies nowhere")

    monkeypatch.setattr(trainers, "train", train)
    shown = tailcut("reproduce", "cfdp", "--only", "resnet56", "--no-records", "--runs", str(tmp_path / "runs"))
    assert shown.code == 0
    assert trained == [("resnet56", "resnet56", True)]
    assert "not run" in shown.out
    assert "CIFAR-10 lies nowhere" in shown.err


def test_a_row_waits_for_the_one_it_starts_from(
    tailcut: Tailcut, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tailcut.training import trainers

    trained = []
    record = json.loads((zoo_folder() / "lenet5-776.json").read_text())

    def train(recipe: Any, out: Path, **settings: Any) -> None:
        trained.append(recipe.name)
        out.mkdir(parents=True)
        (out / "result.json").write_text(json.dumps(record | {"name": recipe.name}))

    monkeypatch.setattr(trainers, "train", train)
    words = ("reproduce", "cfdp", "--only", "vgg16-bn", "--no-records", "--runs", str(tmp_path))
    assert tailcut(*words).code == 0
    assert trained == ["vgg16-bn-scratch", "vgg16-bn"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["table9"], "unknown table"),
        (["cfdp", "--only", "nothing"], "no recipe 'nothing'"),
        (["table1", "--only", "resnet56"], "resnet56 is a row of cfdp, not of table1"),
        (["table1", "--only", "digits"], "digits is a row of no table"),
    ],
)
def test_bad_usage(words: list[str], message: str, tailcut: Tailcut) -> None:
    shown = tailcut("reproduce", *words, "--show")
    assert shown.code == 2
    assert message in shown.err
