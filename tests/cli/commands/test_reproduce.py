import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tailcut.errors import DataNotFoundError, DivergedError
from tailcut.format.zoo import zoo_folder
from tailcut.reports.tables.records import find_results
from tailcut.training import train as trainers

ROOT = Path(__file__).resolve().parents[3]
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
    from tailcut.training import train as trainers

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
    from tailcut.training import train as trainers

    trained = []
    record = json.loads((zoo_folder() / "lenet5-776.json").read_text())

    def train(recipe: Any, out: Path, **settings: Any) -> None:
        trained.append(recipe.name)
        out.mkdir(parents=True)
        (out / "result.json").write_text(json.dumps(record | {"name": recipe.name}))

    monkeypatch.setattr(trainers, "train", train)
    words = ("reproduce", "cfdp", "--only", "googlenet", "--no-records", "--runs", str(tmp_path))
    assert tailcut(*words).code == 0
    assert trained == ["googlenet-scratch", "googlenet"]


def put(folder: Path, **changes: Any) -> None:
    """A run of LeNet-5 with 776 coefficients, changed."""
    folder.mkdir(parents=True)
    record = json.loads((zoo_folder() / "lenet5-776.json").read_text())
    (folder / "result.json").write_text(json.dumps(record | changes))


def test_a_training_that_diverges_does_not_end_the_table(
    tailcut: Tailcut, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tailcut.training import train as trainers

    tried = []

    def train(recipe: Any, out: Path, **settings: Any) -> None:
        tried.append(recipe.name)
        if recipe.name == "lenet5-ref":
            raise DivergedError("the loss is nan in epoch 3")
        put(out, name=recipe.name)

    monkeypatch.setattr(trainers, "train", train)
    names = ["lenet5-ref", "lenet5-776"]
    only = [word for name in names for word in ("--only", name)]
    shown = tailcut("reproduce", "table1", *only, "--no-records", "--runs", tmp_path, "--json")
    assert shown.code == 0, shown.err
    assert tried == names
    assert "lenet5-ref: not run: the loss is nan in epoch 3" in shown.err
    assert [row["ours"] is None for row in shown.json["rows"]] == [True, False]


def test_a_result_on_other_data_does_not_stand_in_the_papers_row(tailcut: Tailcut, tmp_path: Path) -> None:
    record = json.loads((zoo_folder() / "lenet5-776.json").read_text())
    words = ["reproduce", "table1", "--show", "--only", "lenet5-776", "--runs", tmp_path, "--json"]
    for name, change in (("other", {"name": "digits"}), ("part", {"test_split": "train"})):
        recipe = record["recipe"] | {"data": record["recipe"]["data"] | change}
        put(tmp_path / name, recipe=recipe, metrics={"accuracy": 0.5})
    shown = tailcut(*words)
    recorded = [one.metrics["accuracy"] for one in find_results(tmp_path / "nowhere")["lenet5-776"]]
    assert [row["ours"] for row in shown.json["rows"]] == recorded
    assert recorded[0] == record["metrics"]["accuracy"]
    assert "other/result.json is of digits, split test; the figures of lenet5-776 are of mnist, split test" in shown.err
    assert "part/result.json is of mnist, split train" in shown.err
    put(tmp_path / "same", metrics={"accuracy": 0.75})
    assert [row["ours"] for row in tailcut(*words).json["rows"]] == [0.75]


def test_a_foreign_result_blocks_no_table(tailcut: Tailcut, tmp_path: Path) -> None:
    (tmp_path / "yolo").mkdir()
    (tmp_path / "yolo" / "result.json").write_text('{"mAP": 0.5}')
    shown = tailcut("reproduce", "table1", "--show", "--runs", str(tmp_path))
    assert shown.code == 0
    assert "lenet5-776" in shown.out
    assert "yolo/result.json is no result of a run" in shown.err


def test_a_folder_that_holds_another_result_is_named(tailcut: Tailcut, tmp_path: Path) -> None:
    put(tmp_path / "lenet5-776", name="mine")
    shown = tailcut("reproduce", "table1", "--only", "lenet5-776", "--no-records", "--runs", str(tmp_path))
    assert shown.code == 0
    assert "lenet5-776: not run: " in shown.err
    assert "lenet5-776/result.json is the result of mine; move that folder away" in shown.err


def test_a_table_that_cannot_be_written_is_noticed_before_any_training(
    tailcut: Tailcut, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tailcut.training import train as trainers

    def train(*_: Any, **settings: Any) -> None:
        pytest.fail("it trained")

    monkeypatch.setattr(trainers, "train", train)
    words = ["reproduce", "cfdp", "--only", "resnet56", "--no-records", "--runs", tmp_path]
    shown = tailcut(*words, "--markdown", tmp_path / "nowhere" / "x.md")
    assert shown.code == 2
    assert "nowhere does not exist; create it first" in shown.err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["table9"], "unknown table"),
        (["cfdp", "--only", "nothing"], "no recipe 'nothing'"),
        (["table1", "--only", "resnet56"], "resnet56 is a row of cfdp, not of table1"),
        (["table1", "--only", "digits"], "digits is a row of no table"),
        (["table5", "--only", "lenet5-776"], "table5 is a benchmark and has no runs: it takes neither --only"),
        (["table5", "--no-records"], "table5 is a benchmark and has no runs"),
    ],
)
def test_bad_usage(words: list[str], message: str, tailcut: Tailcut) -> None:
    shown = tailcut("reproduce", *words, "--show")
    assert shown.code == 2
    assert message in shown.err


def test_data_roots_and_downloads_arrive(tailcut: Tailcut, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trained = []

    def train(recipe: Any, out: Path, **settings: Any) -> None:
        trained.append((recipe.name, settings["resume"], settings["roots"], settings["download"]))
        raise DataNotFoundError("CIFAR-10 lies nowhere")

    monkeypatch.setattr(trainers, "train", train)
    words = ["--no-records", "--runs", tmp_path / "runs", "--data-root", tmp_path, "--download"]
    assert tailcut("reproduce", "cfdp", "--only", "resnet56", *words).code == 0
    assert trained == [("resnet56", True, [str(tmp_path)], True)]


def test_it_says_that_nothing_was_trained(tailcut: Tailcut, tmp_path: Path) -> None:
    run = tailcut("reproduce", "table1", "--only", "lenet5-776", "--runs", str(tmp_path))
    assert "nothing was trained; --no-records trains yours" in run.err
    assert "nothing was trained" not in tailcut("reproduce", "table1", "--show", "--runs", str(tmp_path)).err
    assert not list(tmp_path.iterdir())
