import dataclasses
import json
import math
import os
from pathlib import Path
from typing import Any

import pytest
from tests.example_result import RESULT

import tailcut
from tailcut.errors import ArgumentError, DataError
from tailcut.runs import Run, packed_network, read_result, tailcut_version


def test_a_result_survives_its_file(tmp_path: Path) -> None:
    run = Run.create(tmp_path / "runs" / "a")
    run.write_result(RESULT)
    assert run.read_result() == RESULT
    assert json.loads(run.result.read_text()) == dataclasses.asdict(RESULT)


@pytest.mark.parametrize("number", [math.nan, math.inf])
def test_a_figure_that_is_no_number_does_not_lose_the_result(number: float, tmp_path: Path) -> None:
    run = Run.create(tmp_path / "a")
    metrics = {"elbo": number, "fid": 93.5}
    run.write_result(dataclasses.replace(RESULT, metrics=metrics, validation=metrics))
    assert json.loads(run.result.read_text(), parse_constant=pytest.fail)["metrics"] == {"elbo": None, "fid": 93.5}
    result = run.read_result()
    assert dataclasses.replace(result, metrics={}, validation={}) == dataclasses.replace(
        RESULT, metrics={}, validation={}
    )
    for figures in (result.metrics, result.validation):
        assert math.isnan(figures["elbo"])
        assert figures["fid"] == 93.5
    assert str(result).splitlines()[2].split() == ["test", "elbo", "nan"]


def test_a_command_of_bytes_that_are_no_utf8_survives_its_file(tmp_path: Path) -> None:
    run = Run.create(tmp_path / "a")
    result = dataclasses.replace(RESULT, command=os.fsdecode(b"tailcut train a --out caf\xe9"), name="Füße")
    run.write_result(result)
    assert "Füße" in run.result.read_text(encoding="utf-8")
    assert run.read_result() == result


def test_a_result_is_shown_beside_the_paper() -> None:
    lines = str(RESULT).splitlines()
    assert lines[0].split() == ["lenet5-776", "here", "paper"]
    own = str(dataclasses.replace(RESULT, paper={})).splitlines()
    assert own[0].split() == ["lenet5-776", "here"]
    assert own[2].split() == ["test", "accuracy", "98.26", "%"]
    assert lines[2].split() == ["test", "accuracy", "98.26", "%", "97.52", "%"]


def test_a_folder_with_a_run_is_taken_only_to_resume(tmp_path: Path) -> None:
    run = Run.create(tmp_path / "a")
    assert not run.exists()
    assert Run.create(tmp_path / "a") == run  # nothing there yet but empty folders
    run.recipe.write_text("")
    run.last_checkpoint.touch()
    assert run.exists()
    with pytest.raises(ArgumentError, match=r"holds a run already.*--resume"):
        Run.create(tmp_path / "a")
    run.start.touch()
    assert Run.create(tmp_path / "a", resume=True) == run
    assert run.recipe.exists()
    assert run.start.exists()


def test_a_run_without_a_finished_epoch_is_begun_anew(tmp_path: Path) -> None:
    run = Run.create(tmp_path / "a")
    for path in (run.recipe, run.start):
        path.touch()
    with pytest.raises(ArgumentError, match=r"has not finished an epoch; begin it anew with --resume, or choose anoth"):
        Run.create(tmp_path / "a")
    assert run.start.exists()
    Run.create(tmp_path / "a", resume=True)
    assert run.recipe.exists()  # until the new one is written: it may be the user's own
    assert not run.start.exists()


def test_what_an_attempt_left_before_its_recipe_is_removed(tmp_path: Path) -> None:
    run = Run.create(tmp_path / "a")
    run.start.touch()
    Run.create(tmp_path / "a")
    assert not run.start.exists()


@pytest.mark.parametrize("name", ["start.tailcut", "metrics.jsonl"])
@pytest.mark.parametrize("resume", [False, True])
def test_files_that_no_training_made_are_kept(name: str, resume: bool, tmp_path: Path) -> None:
    (tmp_path / name).write_text("mine")
    with pytest.raises(ArgumentError, match=f"{name} is not of a training, which would write over it; move it away"):
        Run.create(tmp_path, resume=resume)
    assert (tmp_path / name).read_text() == "mine"
    assert [path.name for path in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize("name", ["checkpoints/last.pt", "checkpoints/previous.pt", "model.tailcut", "result.json"])
@pytest.mark.parametrize("resume", [False, True])
def test_a_run_that_lost_its_recipe_is_refused(name: str, resume: bool, tmp_path: Path) -> None:
    run = Run.create(tmp_path / "a")
    (run.path / name).touch()
    run.start.touch()
    with pytest.raises(ArgumentError, match=r"recipe\.toml is lost.*put recipe\.toml back, or choose another folder"):
        Run.create(tmp_path / "a", resume=resume)
    assert run.has_finished_epochs()
    assert run.start.exists()


def test_a_file_is_no_run_folder(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("")
    with pytest.raises(ArgumentError, match="is a file"):
        Run.create(tmp_path / "a")


def test_a_run_is_locked_by_one_at_a_time(tmp_path: Path) -> None:
    run = Run(tmp_path / "runs" / "a")
    message = "another training runs in .*a; wait until it ends, stop it, or choose another folder"
    with run.locked():
        with pytest.raises(ArgumentError, match=message), Run(run.path).locked():
            pass
        assert not run.exists()
        assert not run.has_finished_epochs()
        assert list(run.path.iterdir()) == []  # the lock is no file that somebody may delete
    with run.locked():
        pass
    (tmp_path / "b").touch()
    with pytest.raises(ArgumentError, match="is a file"), Run(tmp_path / "b").locked():
        pass


def test_all_names_lie_in_the_folder(tmp_path: Path) -> None:
    run = Run(tmp_path)
    names = [
        run.recipe,
        run.start,
        run.metrics,
        run.last_checkpoint,
        run.previous_checkpoint,
        run.model,
        run.result,
        run.curves,
        run.log,
    ]
    assert [path.relative_to(tmp_path).as_posix() for path in names] == [
        "recipe.toml",
        "start.tailcut",
        "metrics.jsonl",
        "checkpoints/last.pt",
        "checkpoints/previous.pt",
        "model.tailcut",
        "result.json",
        "curves.png",
        "log.txt",
    ]


def test_metrics_are_read_line_by_line(tmp_path: Path) -> None:
    run = Run(tmp_path)
    assert run.read_metrics() == []
    run.metrics.write_text('{"epoch": 1}\n{"epoch": 2}\n')
    assert run.read_metrics() == [{"epoch": 1}, {"epoch": 2}]
    run.metrics.write_text('{"epoch": 1}\n{"epo')
    with pytest.raises(DataError, match="line 2"):
        run.read_metrics()
    run.metrics.write_bytes(b"\xff\xfe")
    with pytest.raises(DataError, match=r"cannot read the metrics .*metrics\.jsonl: .*utf-8"):
        run.read_metrics()


DAMAGE: list[tuple[dict[str, Any], str]] = [
    ({"recipe": {"data": None}}, "recipe: data must be a table, found None"),
    ({"recipe": {"start": 5}}, "recipe: start must be a table, found 5"),
    ({"recipe": {"training": 3}}, "recipe: training must be a table, found 3"),
    ({"recipe": {"data": {"name": 5}}}, "recipe, data: name must be"),
    ({"recipe": {"pruning": {"rates": 0.5}}}, "recipe: it has a table pruning, but no model.name"),
    ({"metrics": {"accuracy": 10**400}}, "metrics must be"),
    ({"colour": "red"}, "unknown colour"),
    ({"file_bytes": 0}, r"result\.json: file_bytes must be at least 1, found 0"),
    ({"file_bytes": 1.5}, r"result\.json: file_bytes must be a whole number, found 1\.5"),
    ({"num_kept": True}, "num_kept must be a whole number, found true"),
    ({"seconds": "x"}, r'result\.json: seconds must be a number, found "x"'),
    ({"seconds": math.nan}, "seconds must be a number, found null"),
    ({"name": 1}, "name must be a text, found 1"),
    ({"recipe": None}, "recipe must be an object, found null"),
    ({"metrics": [1]}, r"metrics must be an object of numbers, found \[1\]"),
    ({"metrics": {"accuracy": "high"}}, r'metrics must be an object of numbers, found {"accuracy": "high"}'),
    ({"validation": None}, "validation must be an object of numbers, found null"),
    ({"split_sizes": {"test": 0.5}}, "split_sizes must be an object of whole numbers"),
    ({"versions": {"torch": 2}}, "versions must be an object of texts"),
    ({"paper": {"metrics": [1]}}, r"result\.json, paper: metrics must be an object of numbers, found \[1\]"),
]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ({"loss": "abc"}, r'metrics\.jsonl, line 2: loss must be a number or null, found "abc"'),
        ({"metrics": [1]}, r"line 2: metrics must be an object of numbers, found \[1\]"),
        ({"metrics": {"accuracy": "high"}}, "line 2: metrics must be an object of numbers"),
        ({"epoch": None}, "line 2: epoch must be a whole number, found null"),
        ({"num_kept": 0.5}, "line 2: num_kept must be a whole number"),
        ({"split": 1}, "line 2: split must be a text"),
    ],
)
def test_metrics_of_another_kind_are_refused(line: dict[str, Any], message: str, tmp_path: Path) -> None:
    run = Run(tmp_path)
    run.metrics.write_text(f'{{"epoch": 1, "loss": 2, "of_the_future": [1]}}\n{json.dumps(line)}\n')
    with pytest.raises(DataError, match=message):
        run.read_metrics()


def test_metrics_that_are_no_numbers_are_none(tmp_path: Path) -> None:
    run = Run(tmp_path)
    run.metrics.write_text('{"epoch": 1, "metrics": {"elbo": NaN}}\n{"epoch": 2, "metrics": {"elbo": null}}\n')
    assert run.read_metrics() == [{"epoch": number, "metrics": {"elbo": None}} for number in (1, 2)]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "no JSON"),
        ("[]", "expected a JSON object, found list"),
        ("[" * 100_000, "no JSON"),
        ("{}", "lacks"),
        *((json.dumps({**dataclasses.asdict(RESULT), **changes}), message) for changes, message in DAMAGE),
    ],
)
def test_a_damaged_result_is_refused(content: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "result.json").write_text(content)
    with pytest.raises(DataError, match=message):
        read_result(tmp_path / "result.json")


def test_an_unfinished_run_has_no_result(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="has the run finished"):
        Run(tmp_path).read_result()


def test_the_version_is_the_package_s() -> None:
    assert tailcut_version() == tailcut.__version__


def test_a_run_folder_stands_for_its_packed_network(tmp_path: Path) -> None:
    assert packed_network(tmp_path) == tmp_path / "model.tailcut"
    assert packed_network(tmp_path / "other.tailcut") == tmp_path / "other.tailcut"
    assert packed_network("zoo:lenet5-776") == "zoo:lenet5-776"


@pytest.mark.parametrize("path", ["{}/a", "{}/a/", "a", "a/.", "a/b/.."])
def test_a_run_lies_beside_another_however_that_is_written(
    path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    Run.create(tmp_path / "first").model.touch()
    monkeypatch.chdir(tmp_path)
    assert Path(packed_network("run:first", beside=Run(Path(path.format(tmp_path))))).samefile(
        Run(tmp_path / "first").model
    )


def test_a_run_lies_beside_the_folder_that_one_works_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    network = Run.create(tmp_path / "first").model
    network.touch()
    (tmp_path / "a" / "b").mkdir(parents=True)
    for here, path in (("a", "."), ("a/b", "..")):
        monkeypatch.chdir(tmp_path / here)
        assert packed_network("run:first", beside=Run(Path(path))) == network
    with pytest.raises(ArgumentError, match=r"run:other needs the finished run .*other, which holds no model\.tailcut"):
        packed_network("run:other", beside=Run(Path()))
