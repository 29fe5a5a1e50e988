import dataclasses
import json
from pathlib import Path

import pytest

import tailcut
from tailcut.errors import ArgumentError, DataError
from tailcut.runs import Result, Run, packed_network, read_result, tailcut_version

RESULT = Result(
    name="lenet5-776",
    command="tailcut train lenet5-776 --out runs/a",
    recipe={"data": {"name": "mnist"}},
    seed=0,
    epochs=30,
    device="cpu",
    num_devices=1,
    num_threads=2,
    seconds=812.5,
    versions={"tailcut": "0.1.0"},
    split_sizes={"train": 55000, "validation": 5000, "test": 10000},
    metrics={"accuracy": 0.9826},
    validation={"accuracy": 0.9874},
    num_kept=776,
    num_parameters=430500,
    num_other=0,
    file_bytes=1599,
    paper={"source": "Table 1", "metrics": {"accuracy": 0.9752}},
)


def test_a_result_survives_its_file(tmp_path: Path) -> None:
    run = Run.create(tmp_path / "runs" / "a")
    run.write_result(RESULT)
    assert run.read_result() == RESULT
    assert json.loads(run.result.read_text()) == dataclasses.asdict(RESULT)


def test_a_result_is_shown_beside_the_paper() -> None:
    lines = str(RESULT).splitlines()
    assert lines[0].split() == ["lenet5-776", "here", "paper"]
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
    assert not run.exists()
    assert not run.start.exists()


def test_what_an_attempt_left_before_its_recipe_is_removed(tmp_path: Path) -> None:
    run = Run.create(tmp_path / "a")
    run.start.touch()
    Run.create(tmp_path / "a")
    assert not run.start.exists()


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


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "no JSON"),
        ("[]", "expected a JSON object, found list"),
        ("{}", "lacks"),
        (json.dumps({**dataclasses.asdict(RESULT), "colour": "red"}), "unknown colour"),
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
