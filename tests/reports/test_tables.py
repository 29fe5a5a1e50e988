import dataclasses
import json
from pathlib import Path

import pytest

from tailcut.errors import ArgumentError, DataError
from tailcut.format.zoo import zoo_folder
from tailcut.reports import Wanted, find_results, make_table, table_of
from tailcut.runs import Result, Run, read_result

PAPER = Wanted(
    "frequency-regularization/lenet5-776", "lenet5-776", "IEEE Access 2023, Table 1, v2", {"accuracy": 0.9752}, 776
)
OTHER = Wanted("frequency-pruning/slim", "slim")


@pytest.fixture
def result() -> Result:
    return read_result(zoo_folder() / "lenet5-776.json")


def put(folder: Path, name: str, result: Result) -> None:
    run = Run.create(folder / name)
    run.write_result(result)


@pytest.mark.parametrize(
    ("recipe", "source", "table"),
    [
        ("frequency-regularization/a", "IEEE Access 2023, Table 3, ResNet18", "table3"),
        ("frequency-regularization/a", "our own", None),
        ("frequency-inputs/a", "", "lfd"),
        ("frequency-pruning/a", "CFDP, table 2", "cfdp"),
        ("demo/digits", "Table 1", None),
    ],
)
def test_a_recipe_is_a_row_of_one_table(recipe: str, source: str, table: str | None) -> None:
    assert table_of(recipe, source) == table


def test_a_row_without_a_run_says_so() -> None:
    report = make_table("table1", [PAPER, OTHER], {})
    (row,) = report.rows
    assert (row.name, row.metric, row.paper, row.ours, row.comparable) == ("lenet5-776", "accuracy", 0.9752, None, True)
    assert "not run" in str(report)
    assert report.to_markdown().count("not run") == 1


def test_figures_are_those_of_the_result(result: Result) -> None:
    report = make_table("table1", [PAPER], {"lenet5-776": [result]})
    (row,) = json.loads(report.to_json())["rows"]
    assert row["ours"] == result.metrics["accuracy"]
    assert (row["num_kept"], row["file_bytes"], row["seed"], row["device"]) == (776, result.file_bytes, 0, "cpu")
    assert row["compression_ratio"] == pytest.approx(4 * result.num_parameters / result.file_bytes, abs=0.01)
    assert row["hours"] == pytest.approx(result.seconds / 3600, abs=1e-4)
    assert row["lower_is_better"] is False
    difference = f"{100 * (result.metrics['accuracy'] - 0.9752):+.2f}"
    assert difference in str(report)
    assert difference in report.to_markdown()


def test_each_run_has_a_row(result: Result, tmp_path: Path) -> None:
    for seed in (0, 1):
        put(tmp_path, f"seed{seed}", dataclasses.replace(result, seed=seed))
    rows = make_table("table1", [PAPER], find_results(tmp_path)).rows
    assert [row.seed for row in rows] == [0, 1]


def test_runs_come_before_the_package(result: Result, tmp_path: Path) -> None:
    assert find_results(tmp_path / "nowhere")["lenet5-776"] == [result]
    put(tmp_path, "mine", dataclasses.replace(result, metrics={"accuracy": 0.5}))
    assert [found.metrics for found in find_results(tmp_path)["lenet5-776"]] == [{"accuracy": 0.5}]


def test_a_row_that_cannot_be_compared_says_why(result: Result) -> None:
    wanted = dataclasses.replace(PAPER, why_not="other pictures")
    report = make_table("table1", [wanted], {"lenet5-776": [result]})
    assert (report.rows[0].comparable, report.rows[0].why_not) == (False, "other pictures")
    assert "other pictures" in str(report)
    assert "+" not in str(report)


def test_rows_beyond_the_paper_have_nothing_to_compare_with(result: Result) -> None:
    (row,) = make_table("cfdp", [OTHER], {"slim": [dataclasses.replace(result, name="slim")]}).rows
    assert (row.paper, row.comparable, row.why_not) == (None, False, "the paper has no such row")


@pytest.mark.parametrize("name", ["table9", "table2"])
def test_a_table_without_rows_is_refused(name: str) -> None:
    with pytest.raises(ArgumentError, match="table1"):
        make_table(name, [PAPER], {})


def test_a_damaged_result_is_named(tmp_path: Path) -> None:
    run = Run.create(tmp_path / "bad")
    run.result.write_text("{")
    with pytest.raises(DataError, match=r"bad.*result.json"):
        find_results(tmp_path)


def test_a_file_in_place_of_the_runs_is_refused(tmp_path: Path) -> None:
    (tmp_path / "runs").write_text("")
    with pytest.raises(ArgumentError, match="folder of run folders"):
        find_results(tmp_path / "runs")
