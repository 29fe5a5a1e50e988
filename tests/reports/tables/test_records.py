import dataclasses
from pathlib import Path

import pytest

from tailcut.errors import ArgumentError, DataError
from tailcut.format.zoo import zoo_folder
from tailcut.reports.tables.records import experiment_records, find_results, read_records, read_runs, records_folder
from tailcut.runs import Result, Run, read_result

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def result() -> Result:
    return read_result(zoo_folder() / "lenet5-776.json")


def put(folder: Path, name: str, result: Result) -> None:
    Run.create(folder / name).write_result(result)


def record(path: Path, result: Result) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    run = Run(path.parent)
    run.write_result(result)
    run.result.rename(path)


def test_an_experiment_has_the_records_of_the_repository() -> None:
    folder = experiment_records("fr-corner")
    assert folder == ROOT / "docs" / "results" / "experiments" / "fr-corner"
    assert experiment_records("one-of-mine") is None


def test_the_records_are_those_of_the_repository() -> None:
    """What ships is every record that the repository has, and among them those of all networks of the zoo."""
    results = ROOT / "docs" / "results"
    files = [
        path for part in ("combined", "frequency-*", "training-for-bytes") for path in results.glob(f"{part}/*.json")
    ]
    ours = read_records(records_folder())
    assert len(ours) == len(files)
    assert {result.name for result in ours} == {read_result(path).name for path in files}
    for path in zoo_folder().glob("*.json"):
        assert read_result(path) in ours


def test_records_are_told_by_their_place(result: Result, tmp_path: Path) -> None:
    """Files of other shapes lie beside the folders of records, and are not taken for damaged ones."""
    record(tmp_path / "frequency-inputs" / "a-1.json", dataclasses.replace(result, name="a", seed=1))
    record(tmp_path / "frequency-inputs" / "a-0.json", dataclasses.replace(result, name="a", seed=0))
    record(tmp_path / "frequency-pruning" / "Z.json", dataclasses.replace(result, name="Z", seed=9))
    (tmp_path / "bench-transplant.json").write_text("{}")
    (tmp_path / "published-unet").mkdir()
    (tmp_path / "published-unet" / "inspect.json").write_text("{}")
    assert [(found.name, found.seed) for found in read_records(tmp_path)] == [("Z", 9), ("a", 0), ("a", 1)]
    assert read_records(tmp_path / "nowhere") == []


def test_a_damaged_record_is_named(tmp_path: Path) -> None:
    (tmp_path / "frequency-inputs").mkdir()
    (tmp_path / "frequency-inputs" / "bad.json").write_text("{}")
    with pytest.raises(DataError, match=r"bad\.json"):
        read_records(tmp_path)


def test_finished_runs_by_name_and_seed(result: Result, tmp_path: Path) -> None:
    for seed in (10, 2, 0):
        put(tmp_path, f"seed{seed}", dataclasses.replace(result, seed=seed))
    Run.create(tmp_path / "begun")
    (tmp_path / "notes.txt").write_text("")
    assert [found.seed for found in read_runs(tmp_path)] == [0, 2, 10]
    assert read_runs(tmp_path / "nowhere") == []


def test_runs_come_before_records(result: Result, tmp_path: Path) -> None:
    recorded = find_results(tmp_path / "nowhere")["lenet5-776"]
    assert recorded[0] == result
    assert [one.seed for one in recorded] == [0, 1, 2]
    put(tmp_path, "mine", dataclasses.replace(result, metrics={"accuracy": 0.5}))
    found = find_results(tmp_path)
    assert [one.metrics for one in found["lenet5-776"]] == [{"accuracy": 0.5}]
    assert found["lenet300-2816"][0] == read_result(zoo_folder() / "lenet300-2816.json")
    assert [one.seed for one in found["lenet300-2816"]] == [0, 1, 2]


def test_records_can_be_left_out(tmp_path: Path) -> None:
    assert find_results(tmp_path / "nowhere", records=False) == {}


def test_a_damaged_result_is_named_and_left_out(
    result: Result, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    Run.create(tmp_path / "bad").result.write_text("{")
    put(tmp_path, "good", result)
    assert find_results(tmp_path, records=False) == {result.name: [result]}
    assert "bad/result.json is no JSON" in caplog.text


def test_a_result_of_other_data_leaves_its_place_to_the_record(
    result: Result, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    put(tmp_path, "mine", dataclasses.replace(result, metrics={"accuracy": 0.5}))
    measured = {"lenet5-776": ("mnist", "train")}
    found = find_results(tmp_path, measured=measured)["lenet5-776"]
    assert found == find_results(tmp_path / "nowhere")["lenet5-776"]
    assert found[0] == result
    assert (
        "mine/result.json is of mnist, split test; the figures of lenet5-776 are of mnist, split train" in caplog.text
    )
    for agreed in ({"lenet5-776": ("mnist", "test")}, {"another": ("mnist", "train")}):
        assert find_results(tmp_path, measured=agreed)["lenet5-776"][0].metrics == {"accuracy": 0.5}


def test_a_file_in_place_of_the_runs_is_refused(tmp_path: Path) -> None:
    (tmp_path / "runs").write_text("")
    with pytest.raises(ArgumentError, match="folder of run folders"):
        find_results(tmp_path / "runs")
