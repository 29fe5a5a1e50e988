import json
import logging
import shlex
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tailcut.cli import main
from tailcut.data import open_dataset
from tailcut.errors import ArgumentError, RecipeError, TrainingError
from tailcut.evaluation import evaluate
from tailcut.format import load
from tailcut.runs import Result, Run
from tailcut.runtime.devices import Devices
from tailcut.training.batches import batches as batches_of_an_epoch
from tailcut.training.experiments import sweep as experiments_sweep
from tailcut.training.experiments.definition import Experiment, Trial, load_experiment, trials_of
from tailcut.training.experiments.sweep import (
    Results,
    SweepReport,
    choose_variants,
    find_results,
    make_report,
    missing_trials,
    train_trials,
)
from tailcut.training.recipe.toml_files import parse_recipe
from tailcut.training.train import train
from tailcut.training.trainer import base

pytestmark = pytest.mark.usefixtures("one_thread")

EXPERIMENT = """
question = "Does a start help?"
recipe = "small.toml"
seeds = [0, 1]
paper_source = "a paper"

[set]
"training.epochs" = 2
"data.batch_size" = 256

[[variant]]
name = "dense"
set = { "regularization" = "", "schedule" = "" }

[[variant]]
name = "cut"
set = { "start.file" = "variant:dense", "regularization.initialization" = "model", "training.epochs" = 0 }
paper = 0.5

[[variant]]
name = "fresh"
"""


@pytest.fixture
def experiment(tmp_path: Path, recipe_text: str) -> Experiment:
    (tmp_path / "small.toml").write_text(recipe_text)
    (tmp_path / "starts.toml").write_text(EXPERIMENT)
    return load_experiment(tmp_path / "starts.toml")


Sweep = Callable[..., SweepReport]


@pytest.fixture
def sweep(experiment: Experiment, tmp_path: Path) -> Sweep:
    """Trains what is missing in a folder, and gives the table."""

    def run(runs: str = "runs", only: list[str] | None = None, records: Path | None = None) -> SweepReport:
        chosen, trials = choose_variants(experiment, only), trials_of(experiment, tmp_path / runs)
        train_trials(missing_trials(trials, chosen, find_results(trials, records)))
        return make_report(chosen, trials, find_results(trials, records))

    return run


def names(trials: list[Trial]) -> list[str]:
    return [trial.run.path.name for trial in trials]


def result_of(trial: Trial, accuracy: float, *, num_kept: int = 1200, file_bytes: int = 2000) -> Result:
    return Result(
        name=trial.recipe.name,
        command="",
        recipe=trial.recipe.model_dump(mode="json", exclude_none=True),
        seed=trial.seed,
        epochs=2,
        device="cpu",
        num_devices=1,
        num_threads=1,
        seconds=1800.0,
        versions={},
        split_sizes={"test": 355},
        metrics={"accuracy": accuracy},
        validation={},
        num_kept=num_kept,
        num_parameters=266_610,
        num_other=410,
        file_bytes=file_bytes,
    )


def test_variants_are_trained_and_measured(sweep: Sweep, tmp_path: Path, experiment: Experiment) -> None:
    report = sweep()
    assert [row.variant for row in report.rows] == ["dense", "cut", "fresh"]
    dense, cut, fresh = report.rows
    folder = tmp_path / "runs" / "starts"
    assert sorted(path.name for path in folder.iterdir()) == sorted(names(trials_of(experiment, tmp_path / "runs")))

    test = open_dataset("digits", "test")
    for row in report.rows:
        models = [load(folder / f"{row.variant}-{seed}" / "model.tailcut") for seed in (0, 1)]
        values = [evaluate(model, test)["accuracy"] for model in models]
        assert row.values == tuple(values)
        assert row.mean == pytest.approx(np.mean(values))
        assert row.spread == pytest.approx(np.std(values, ddof=1))
        assert row.seeds == (0, 1)
    assert (dense.num_kept, cut.num_kept, fresh.num_kept) == (None, 1200, 1200)
    assert (dense.epochs, cut.epochs, fresh.epochs) == (2, 0, 2)
    assert (dense.paper, cut.paper) == (None, 0.5)
    assert dense.mean is not None
    assert cut.mean is not None
    assert dense.mean > cut.mean

    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    assert sweep() == report
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


def test_a_run_has_just_its_overrides_and_its_command_gives_it_again(
    sweep: Sweep, tmp_path: Path, recipe_text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    sweep(only=["fresh"])
    run = Run(tmp_path / "runs" / "starts" / "fresh-1")
    changes = ["name=starts/fresh", "training.seed=1", "training.epochs=2", "data.batch_size=256"]
    expected = parse_recipe(recipe_text, source="x", overrides=changes)
    assert parse_recipe(run.recipe.read_text(), source="x") == expected
    assert run.read_result().recipe == expected.model_dump(mode="json", exclude_none=True)

    words = shlex.split(run.read_result().command)
    place = words.index("--out") + 1
    assert words[place] == run.path.as_posix()
    words[place] = str(tmp_path / "again")
    assert main([*words[1:], "--accelerator", "cpu"]) == 0
    assert Run(tmp_path / "again").model.read_bytes() == run.model.read_bytes()


def test_an_interrupted_sweep_resumes(sweep: Sweep, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sweep("whole")
    begun = []

    def batches(*args: Any, **settings: Any) -> Iterator[Any]:
        begun.append((settings["seed"], settings["epoch"]))
        for number, batch in enumerate(batches_of_an_epoch(*args, **settings)):
            if len(begun) == 4 and number == 1:  # dense-0 is finished, dense-1 in its second epoch
                signal.raise_signal(signal.SIGINT)
            yield batch

    monkeypatch.setattr(base, "batches", batches)
    with pytest.raises(TrainingError, match=r"variant dense, seed 1: interrupted in epoch 2.*resumes by itself"):
        sweep("parts")
    assert begun == [(0, 0), (0, 1), (1, 0), (1, 1)]
    report = sweep("parts")
    assert begun[4:] == [(1, 1), (0, 0), (0, 1), (1, 0), (1, 1)]  # its second epoch; cut has none; fresh
    assert [len(row.seeds) for row in report.rows] == [2, 2, 2]
    for path in sorted((tmp_path / "whole" / "starts").iterdir()):
        assert Run(path).model.read_bytes() == Run(tmp_path / "parts" / "starts" / path.name).model.read_bytes()


def test_ctrl_c_as_a_run_ends_begins_no_other(sweep: Sweep, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    validate, calls = base.Trainer._validate, []

    def interrupted(trainer: base.Trainer) -> Any:
        calls.append(trainer.run.path.name)
        if trainer.epoch == trainer.recipe.training.epochs:
            signal.raise_signal(signal.SIGTERM)
        return validate(trainer)

    monkeypatch.setattr(base.Trainer, "_validate", interrupted)
    with pytest.raises(TrainingError, match=r"dense, seed 0: interrupted after epoch 2; .*resumes by itself"):
        sweep("runs")
    assert set(calls) == {"dense-0"}


def test_what_a_variant_needs_is_trained_first(experiment: Experiment, tmp_path: Path) -> None:
    trials = trials_of(experiment, tmp_path)
    assert names(missing_trials(trials, experiment, {})) == [
        *("dense-0", "dense-1", "cut-0", "cut-1", "fresh-0", "fresh-1")
    ]
    only = choose_variants(experiment, ["cut"])
    assert names(missing_trials(trials, only, {})) == ["dense-0", "cut-0", "dense-1", "cut-1"]
    done = {(trial.variant, trial.seed): result_of(trial, 0.5) for trial in trials if trial.variant == "dense"}
    assert names(missing_trials(trials, only, done)) == ["dense-0", "cut-0", "dense-1", "cut-1"]  # records: no network
    run = Run.create(trials[1].run.path)
    run.write_result(result_of(trials[1], 0.5))
    assert names(missing_trials(trials, only, done)) == ["dense-0", "cut-0", "cut-1"]
    stale = result_of(trials[1], 0.5)
    stale.recipe["optimizer"]["lr"] = 0.5
    run.write_result(stale)
    assert names(missing_trials(trials, only, done)) == ["dense-0", "cut-0", "dense-1", "cut-1"]


def test_records_count_as_finished_runs(experiment: Experiment, tmp_path: Path, sweep: Sweep) -> None:
    trials = trials_of(experiment, "elsewhere")  # where they were trained
    (tmp_path / "records").mkdir()
    for trial, accuracy in zip(trials, (0.9, 0.8, 0.4, 0.6, 0.7, 0.7), strict=True):
        text = json.dumps(result_of(trial, accuracy).to_dict())
        (tmp_path / "records" / f"{trial.variant}-{trial.seed}.json").write_text(text)
    report = sweep(records=tmp_path / "records")
    assert not (tmp_path / "runs").exists()
    assert [row.values for row in report.rows] == [(0.9, 0.8), (0.4, 0.6), (0.7, 0.7)]


def test_a_result_of_other_settings_does_not_count(
    experiment: Experiment, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    trials = trials_of(experiment, tmp_path / "runs")
    result = result_of(trials[4], 0.9)
    result.recipe["optimizer"]["lr"] = 0.5
    Run.create(trials[4].run.path).write_result(result)
    with caplog.at_level(logging.WARNING):
        assert find_results(trials) == {}
    assert "fresh-0" in caplog.text
    assert "optimizer.lr: 0.5 and 0.02" in caplog.text
    result.recipe["of_the_future"] = 1
    Run(trials[4].run.path).write_result(result)
    assert find_results(trials) == {}


def test_a_begun_run_of_other_settings_is_refused(sweep: Sweep, tmp_path: Path, recipe_text: str) -> None:
    other = parse_recipe(recipe_text, source="x", overrides=["training.epochs=0"])
    train(other, tmp_path / "runs" / "starts" / "dense-0")
    with pytest.raises(RecipeError, match=r"begun with another recipe .*: give that file, or the same --set again"):
        sweep()


def test_a_table_has_mean_spread_and_what_was_not_run(experiment: Experiment, tmp_path: Path) -> None:
    trials = trials_of(experiment, tmp_path)
    results: Results = {
        ("dense", 0): result_of(trials[0], 0.90, num_kept=0, file_bytes=1_000_000),
        ("fresh", 0): result_of(trials[4], 0.95, file_bytes=2001),
        ("fresh", 1): result_of(trials[5], 0.97, file_bytes=2004),
    }
    report = make_report(experiment, trials, results)
    dense, cut, fresh = report.rows
    assert (dense.mean, dense.spread, dense.seeds, dense.num_kept) == (0.90, None, (0,), None)
    assert (cut.metric, cut.mean, cut.values, cut.epochs, cut.hours) == ("accuracy", None, (), 0, None)
    assert fresh.mean == pytest.approx(0.96)
    assert fresh.spread == pytest.approx(0.02 / 2**0.5)
    assert (fresh.num_kept, fresh.file_bytes, fresh.num_parameters, fresh.hours) == (1200, 2002, 266_610, 0.5)
    lines = report.to_markdown().splitlines()
    assert lines[0] == "| variant | metric | paper | ours | runs | kept | parameters | bytes | epochs | hours |"
    assert lines[2:] == [
        "| dense | accuracy |  | 90.00 % | 1 of 2 |  | 266,610 | 1,000,000 | 2 | 0.50 |",
        "| cut | accuracy | 50.00 % | not run |  |  |  |  | 0 |  |",
        "| fresh | accuracy |  | 96.00 ± 1.41 % | 2 of 2 | 1,200 | 266,610 | 2,002 | 2 | 0.50 |",
    ]
    assert str(report).splitlines()[0] == "Does a start help?"
    assert str(report).splitlines()[-1] == "the paper's figures: a paper"
    assert json.loads(report.to_json())["rows"][2]["values"] == [0.95, 0.97]


def test_without_figures_of_the_paper_there_is_no_column_for_them(experiment: Experiment, tmp_path: Path) -> None:
    plain = experiment.model_copy(update={"paper_source": ""})
    report = make_report(plain, trials_of(plain, tmp_path), {})
    assert "paper" not in str(report)
    assert [(row.metric, row.mean) for row in report.rows] == [(None, None)] * 3
    assert report.to_markdown().count("not run") == 3


def test_missing_data_leave_rows_not_run(
    experiment: Experiment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.delenv("TAILCUT_DATA", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    (tmp_path / "small.toml").write_text((tmp_path / "small.toml").read_text().replace('"digits"', '"mnist"'))
    trials = trials_of(experiment, tmp_path / "runs")
    train_trials([trials[0], trials[4]], roots=tmp_path)
    assert caplog.text.count("not run") == 2
    assert "variant fresh, seed 0: not run: MNIST" in caplog.text


def test_bad_words_are_refused(experiment: Experiment, tmp_path: Path) -> None:
    with pytest.raises(ArgumentError, match="starts has no variant 'denser'; it has dense, cut, fresh"):
        choose_variants(experiment, ["denser"])
    with pytest.raises(ArgumentError, match="there is no folder"):
        find_results(trials_of(experiment, tmp_path), tmp_path / "nowhere")


def test_a_variant_that_diverges_leaves_the_others_their_turn(
    sweep: Sweep, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    plain = '"optimizer.name" = "sgd", "regularization" = "", "schedule" = ""'
    (tmp_path / "starts.toml").write_text(f"""
question = "How high may the rate be?"
recipe = "small.toml"
set = {{ "training.epochs" = 1 }}
variant = [
    {{ name = "hot", set = {{ {plain}, "optimizer.lr" = 1e38 }} }},
    {{ name = "tuned", set = {{ {plain}, "start.file" = "variant:hot" }} }},
    {{ name = "cold", set = {{ {plain} }} }},
]
""")
    experiment = load_experiment(tmp_path / "starts.toml")
    trials = trials_of(experiment, tmp_path / "runs")
    train_trials(trials)
    assert "variant hot, seed 0: not run: the loss is nan in epoch 1" in caplog.text
    assert "variant tuned, seed 0: not run: it needs variant hot" in caplog.text
    rows = make_report(experiment, trials, find_results(trials)).rows
    assert [(row.variant, row.seeds) for row in rows] == [("hot", ()), ("tuned", ()), ("cold", (0,))]


def test_a_start_that_lies_nowhere_leaves_a_row_not_run(
    experiment: Experiment, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "small.toml").write_text((tmp_path / "small.toml").read_text() + '[start]\nfile = "data:nowhere.th"\n')
    trials = trials_of(experiment, tmp_path / "runs")
    train_trials([trials[4]], roots=tmp_path)
    assert "variant fresh, seed 0: not run: start.file: nowhere.th" in caplog.text


def test_a_stale_run_does_not_hide_a_record(experiment: Experiment, tmp_path: Path) -> None:
    trial = trials_of(experiment, tmp_path / "runs")[4]
    record = result_of(trial, 0.9)
    (tmp_path / "fresh-0.json").write_text(json.dumps(record.to_dict()))
    assert find_results([trial], tmp_path) == {("fresh", 0): record}
    stale = result_of(trial, 0.1)
    stale.recipe["optimizer"]["lr"] = 0.5
    Run.create(trial.run.path).write_result(stale)
    assert find_results([trial], tmp_path) == {("fresh", 0): record}


def test_the_command_of_a_run_counts_its_devices(
    experiment: Experiment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commands = []
    monkeypatch.setattr(experiments_sweep, "train", lambda *args, command, **settings: commands.append(command))
    trials = trials_of(experiment, tmp_path / "runs")[4:5]
    train_trials(trials, devices=Devices("cpu", devices=4, num_nodes=2))
    train_trials(trials)
    assert commands[0].endswith(" --devices 4 --num-nodes 2")
    assert commands[0].removesuffix(" --devices 4 --num-nodes 2") == commands[1]
