import dataclasses
import json
from collections.abc import Mapping

import pytest

from tailcut.errors import ArgumentError
from tailcut.format import fingerprint, load
from tailcut.format.zoo import zoo_folder
from tailcut.reports import Wanted, make_table, table_of
from tailcut.runs import Result, read_result

PAPER = Wanted(
    "frequency-regularization/lenet5-776", "lenet5-776", "IEEE Access 2023, Table 1, v2", {"accuracy": 0.9752}, 776
)
KEYS = {"name", "metric", "paper", "ours", "comparable", "why_not", "lower_is_better", "num_kept", "file_bytes"}
KEYS |= {"epochs", "seed", "device", "hours"}
OTHER = Wanted("frequency-pruning/slim", "slim")


@pytest.fixture
def result() -> Result:
    return read_result(zoo_folder() / "lenet5-776.json")


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


def test_a_pruned_network_is_compared_with_its_parent(result: Result) -> None:
    pruned = {"model": {"name": "resnet20"}, "pruning": {"rates": 0.5}}
    slim = dataclasses.replace(result, recipe=pruned, num_parameters=100_000, file_bytes=400_000)
    (row,) = make_table("table1", [PAPER], {"lenet5-776": [slim]}).rows
    assert row.compression_ratio == pytest.approx(4 * 269_722 / 400_000, abs=0.01)


def test_a_row_that_goes_on_from_another_network_says_so(result: Result) -> None:
    later = dataclasses.replace(result, recipe=result.recipe | {"start": {"file": "zoo:lenet5-7668"}})
    assert make_table("table1", [PAPER], {"lenet5-776": [result]}).rows[0].start is None
    report = make_table("table1", [PAPER], {"lenet5-776": [later]})
    assert report.rows[0].start == "zoo:lenet5-7668"
    assert str(report).endswith("on top come the epochs and hours of the start, zoo:lenet5-7668: lenet5-776")


def test_a_start_that_was_trained_again_since_is_reported(result: Result) -> None:
    recipe = result.recipe | {"start": {"file": "zoo:lenet5-7668"}}
    later = dataclasses.replace(result, recipe=recipe, start_fingerprint="0" * 64)
    report = make_table("table1", [PAPER], {"lenet5-776": [later]})
    assert report.rows[0].start_is_older is True
    assert str(report).endswith("went on from an earlier network than is there now, zoo:lenet5-7668: lenet5-776")
    now = dataclasses.replace(later, start_fingerprint=fingerprint(load("zoo:lenet5-7668")))
    report = make_table("table1", [PAPER], {"lenet5-776": [now]})
    assert report.rows[0].start_is_older is False
    assert "an earlier network" not in str(report)


def test_figures_are_those_of_the_result(result: Result) -> None:
    report = make_table("table1", [PAPER], {"lenet5-776": [result]})
    (row,) = json.loads(report.to_json())["rows"]
    assert set(row) >= KEYS
    assert row["ours"] == result.metrics["accuracy"]
    assert (row["num_kept"], row["file_bytes"], row["seed"], row["device"]) == (776, result.file_bytes, 0, "cpu")
    assert row["compression_ratio"] == pytest.approx(4 * result.num_parameters / result.file_bytes, abs=0.01)
    assert row["hours"] == pytest.approx(result.seconds / 3600, abs=1e-4)
    assert row["lower_is_better"] is False
    difference = f"{100 * (result.metrics['accuracy'] - 0.9752):+.2f}"
    assert difference in str(report)
    assert difference in report.to_markdown()


def seeds(result: Result, accuracies: Mapping[int, float]) -> list[Result]:
    return [dataclasses.replace(result, seed=seed, metrics={"accuracy": value}) for seed, value in accuracies.items()]


def test_each_run_has_a_row_and_all_have_a_mean(result: Result) -> None:
    report = make_table("table1", [PAPER], {"lenet5-776": seeds(result, {0: 0.97, 1: 0.99, 2: 0.98})})
    assert [row.seed for row in report.rows] == [0, 1, 2]
    lines = [[cell.strip() for cell in line.split("|")[1:-1]] for line in report.to_markdown().splitlines()]
    assert [line[0] for line in lines[2:]] == [*["lenet5-776"] * 3, "mean of 3 seeds"]
    assert lines[-1][:5] == ["mean of 3 seeds", "accuracy", "97.52 %", "98.00 ± 1.00 %", "+0.48"]
    assert set(lines[-1][5:]) == {""}
    assert " ".join(str(report).splitlines()[-1].split()) == "mean of 3 seeds accuracy 97.52 % 98.00 ± 1.00 % +0.48"


def test_means_stand_behind_their_own_rows(result: Result) -> None:
    other = dataclasses.replace(PAPER, recipe="frequency-regularization/vgg16", name="vgg16")
    runs = seeds(result, {0: 0.9, 1: 0.8})
    both = {"lenet5-776": runs, "vgg16": [dataclasses.replace(run, name="vgg16") for run in runs[:1]]}
    report = make_table("table1", [PAPER, other], both)
    names = [line.split("|")[1].strip() for line in report.to_markdown().splitlines()[2:]]
    assert names == ["lenet5-776", "lenet5-776", "mean of 2 seeds", "vgg16"]


def test_json_has_a_row_for_each_run_and_the_means_beside(result: Result) -> None:
    report = json.loads(make_table("table1", [PAPER], {"lenet5-776": seeds(result, {0: 0.97, 1: 0.99})}).to_json())
    assert set(report["rows"][0]) >= KEYS
    assert [row["ours"] for row in report["rows"]] == [0.97, 0.99]
    (mean,) = report["means"]
    assert (mean["name"], mean["metric"], mean["seeds"]) == ("lenet5-776", "accuracy", [0, 1])
    assert mean["mean"] == pytest.approx(0.98)


def test_a_row_that_cannot_be_compared_says_why(result: Result) -> None:
    wanted = dataclasses.replace(PAPER, why_not="other images")
    report = make_table("table1", [wanted], {"lenet5-776": [result]})
    assert (report.rows[0].comparable, report.rows[0].why_not) == (False, "other images")
    assert "other images" in str(report)
    assert "+" not in str(report)


def test_a_remark_on_one_metric_of_a_row_names_it(result: Result) -> None:
    both = dataclasses.replace(result, metrics={"accuracy": 0.9752, "top5_accuracy": 0.99})
    report = str(make_table("table1", [PAPER], {"lenet5-776": [both]}))
    assert "the paper has no such row: lenet5-776 (top5_accuracy)" in report
    alone = dataclasses.replace(result, metrics={"top5_accuracy": 0.99})
    assert (
        "the paper has no such row: lenet5-776\n" in str(make_table("table1", [PAPER], {"lenet5-776": [alone]})) + "\n"
    )


def test_rows_beyond_the_paper_have_nothing_to_compare_with(result: Result) -> None:
    (row,) = make_table("cfdp", [OTHER], {"slim": [dataclasses.replace(result, name="slim")]}).rows
    assert (row.paper, row.comparable, row.why_not) == (None, False, "the paper has no such row")


@pytest.mark.parametrize("name", ["table9", "table2"])
def test_a_table_without_rows_is_refused(name: str) -> None:
    with pytest.raises(ArgumentError, match="table1"):
        make_table(name, [PAPER], {})


def test_reasons_are_told_once_and_detectors_by_their_own_metric() -> None:
    detectors = [
        Wanted(f"frequency-inputs/{name}", name, "a table", why_not="its figures are lost", measured="box_AP")
        for name in ("one", "two")
    ]
    report = make_table("lfd", detectors, {})
    assert [row.metric for row in report.rows] == ["box_AP", "box_AP"]
    assert str(report).count("its figures are lost") == 1
    assert "one, two" in str(report)


def test_rows_stand_as_in_the_papers_tables() -> None:
    counts = {"b-ref": None, "b-30": 30, "a-ref": None, "a-500": 500, "a-1000": 1000, "a-500-float16": 500}
    wanted = [
        Wanted(f"frequency-regularization/{name}", name, "IEEE Access 2023, Table 2", num_kept=count)
        for name, count in counts.items()
    ]
    rows = make_table("table2", wanted, {}).rows
    assert [row.name for row in rows] == ["a-ref", "a-1000", "a-500", "a-500-float16", "b-ref", "b-30"]
