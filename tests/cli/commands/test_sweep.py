import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tailcut.reports import records_folder
from tailcut.runtime.devices import Devices

Tailcut = Callable[..., Any]

EXPERIMENT = """
question = "Which rate?"
recipe = "demo/digits"

[set]
"training.epochs" = 1
"data.batch_size" = 256

[[variant]]
name = "slow"
set = { "optimizer.lr" = 0.001 }

[[variant]]
name = "fast"
"""


@pytest.fixture
def experiment(tmp_path: Path) -> Path:
    (tmp_path / "rates.toml").write_text(EXPERIMENT)
    return tmp_path / "rates.toml"


def test_what_is_missing_is_trained_and_shown(tailcut: Tailcut, experiment: Path, tmp_path: Path) -> None:
    words = ["sweep", experiment, "--runs", tmp_path / "runs", "--accelerator", "cpu"]
    shown = tailcut(*words, "--show")
    assert shown.code == 0, shown.err
    assert shown.out.count("not run") == 2
    assert not (tmp_path / "runs").exists()

    shown = tailcut(*words, "--only", "fast", "--json")
    assert shown.code == 0, shown.err
    (row,) = shown.json["rows"]
    assert (row["variant"], row["seeds"], row["spread"], row["epochs"]) == ("fast", [0], None, 1)
    assert [path.name for path in (tmp_path / "runs" / "rates").iterdir()] == ["fast-0"]
    assert "1 of 1 to train: variant fast, seed 0" in shown.err

    shown = tailcut(*words, "--markdown", tmp_path / "table.md")
    assert shown.code == 0
    assert "1 of 1 to train: variant slow, seed 0" in shown.err
    assert shown.out.startswith("Which rate?")
    table = (tmp_path / "table.md").read_text()
    assert table.startswith("| variant | metric | ours |")
    assert "not run" not in table


def test_every_row_of_an_experiment_of_ours_is_shown(tailcut: Tailcut, tmp_path: Path) -> None:
    shown = tailcut("sweep", "cfdp-vgg16-bn", "--show", "--runs", tmp_path, "--json")
    report = shown.json
    assert report["experiment"] == "cfdp-vgg16-bn"
    rows = {row["variant"]: (row["paper"], row["num_seeds"]) for row in report["rows"]}
    assert rows["parent"] == (0.9396, 1)
    assert rows["all"] == (0.9410, 3)
    assert [rows[f"block-{side}"] for side in (1, 2, 8)] == [(0.9368, 3), (0.9363, 3), (0.9353, 3)]
    assert rows["block-8-untuned"] == (None, 3)


def test_what_comes_with_tailcut_is_shown_and_may_be_left_out(tailcut: Tailcut, tmp_path: Path) -> None:
    words = ("sweep", "fr-schedule", "--show", "--runs", tmp_path, "--json")
    rows, without = tailcut(*words).json["rows"], tailcut(*words, "--no-records").json["rows"]
    assert [row["variant"] for row in rows] == [row["variant"] for row in without]
    assert all(row["seeds"] == [] for row in without)
    assert all(len(row["seeds"]) == row["num_seeds"] for row in rows)
    folder = records_folder() / "experiments" / "fr-schedule"
    for row in rows:
        values = [
            json.loads((folder / f"{row['variant']}-{seed}.json").read_text())["metrics"][row["metric"]]
            for seed in row["seeds"]
        ]
        assert row["values"] == values
    assert tailcut(*words, "--records", folder).json["rows"] == rows
    assert tailcut(*words, "--records", folder, "--no-records").code == 2


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["no-such-thing"], "no experiment of that name"),
        (["cfdp-block-size", "--only", "3"], "cfdp-block-size has no variant '3'"),
        (["cfdp-block-size", "--records", "nowhere"], "there is no folder nowhere"),
    ],
)
def test_bad_usage(words: list[str], message: str, tailcut: Tailcut, tmp_path: Path) -> None:
    shown = tailcut("sweep", *words, "--show", "--runs", tmp_path)
    assert shown.code == 2
    assert message in shown.err


def test_a_table_that_cannot_be_written_ends_it_before_the_training(
    tailcut: Tailcut, experiment: Path, tmp_path: Path
) -> None:
    shown = tailcut("sweep", experiment, "--runs", tmp_path / "runs", "--markdown", tmp_path / "nodir" / "x.md")
    assert shown.code == 2
    assert "does not exist; create it first" in shown.err
    assert not (tmp_path / "runs").exists()


def test_processes_that_no_option_counts_are_refused(
    tailcut: Tailcut, experiment: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    shown = tailcut("sweep", experiment, "--runs", tmp_path / "runs", "--accelerator", "cpu")
    assert shown.code == 2
    assert "torchrun started 2 processes of tailcut sweep" in shown.err
    assert tailcut("sweep", experiment, "--runs", tmp_path / "runs", "--show").code == 0


def test_every_option_of_sweep_arrives(tailcut: Tailcut, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[Any] = []
    monkeypatch.setattr(
        "tailcut.training.experiments.sweep.train_trials", lambda trials, **settings: given.append(settings)
    )
    words = ["--runs", tmp_path / "runs", "--data-root", tmp_path, "--download", "--accelerator", "cpu", "--devices", 2]
    assert tailcut("sweep", "fr-schedule", "--no-records", *words).code == 0
    assert given == [
        {
            "imports": [],
            "roots": [str(tmp_path)],
            "devices": Devices("cpu", 2),
            "download": True,
            "progress": True,
        }
    ]
