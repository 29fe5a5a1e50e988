"""The generated parts of the pages: up to date, and rows as the records have them."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from tests.example_result import RESULT

from tailcut.runs import Result
from tools.docs import build_tables

ROOT = Path(__file__).resolve().parents[3]


def result(
    network: str, num_kept: int, accuracy: float, *, name: str = "a", num_other: int = 0, file_bytes: int = 1500
) -> Result:
    recipe = {"model": {"name": network}, "pack": {"dtype": "float16", "other_dtype": "float16"}}
    return replace(
        RESULT,
        name=name,
        command=f"tailcut train {name}",
        recipe=recipe,
        seed=7,
        seconds=7200.0,
        versions={"torch": "2.0"},
        metrics={"accuracy": accuracy},
        validation={"accuracy": 0.5},
        num_kept=num_kept,
        num_other=num_other,
        file_bytes=file_bytes,
        paper={},
    )


def row_with(table: str, text: str) -> str:
    (row,) = [line for line in table.splitlines() if text in line]
    return row


def test_pages_are_up_to_date() -> None:
    stale = [page.name for page, text in build_tables.build(ROOT).items() if page.read_text(encoding="utf-8") != text]
    assert stale == [], "run: python -m tools.docs.build_tables"


def test_building_twice_changes_nothing() -> None:
    text = "a\n<!-- x:begin -->\nold\n<!-- x:end -->\nb\n"
    once = build_tables.replace_block(text, "x", "new")
    assert once == "a\n<!-- x:begin -->\n\nnew\n\n<!-- x:end -->\nb\n"
    assert build_tables.replace_block(once, "x", "new") == once


def test_missing_marks_are_an_error() -> None:
    with pytest.raises(ValueError, match="expected <!-- x:begin -->"):
        build_tables.replace_block("no marks", "x", "new")


def test_rows_without_a_run_say_so() -> None:
    table = build_tables.table1([])
    assert table.count("| Tailcut | not run |") == len(build_tables.PAPER)
    assert build_tables.summary_table([]).count("not run") == len(build_tables.PAPER)
    assert build_tables.runs_table([]) == "No run is committed yet."


def test_a_run_stands_below_the_row_of_the_paper_with_its_count() -> None:
    table = build_tables.table1([result("lenet5", 776, 0.9842, num_other=580)])
    lines = table.splitlines()
    paper = lines.index(row_with(table, "LeNet5-v2"))
    assert lines[paper + 1] == "| **Tailcut** `a` | **98.42 %** | 776 + 580 float16 | 1,500 | 1,148 x |"
    assert table.count("not run") == len(build_tables.PAPER) - 1


def test_a_dense_run_is_the_reference() -> None:
    table = build_tables.table1([result("lenet5", 0, 0.99)])
    lines = table.splitlines()
    assert lines[lines.index(row_with(table, "LeNet5-ref")) + 1].startswith("| **Tailcut** `a` | **99.00 %** | 430,500")


def test_runs_beyond_the_paper_are_shown() -> None:
    table = build_tables.table1([result("lenet5", 500, 0.97)])
    assert "500 float16" in row_with(table, "**Tailcut** `a`")


def test_paper_rows_have_the_papers_figures() -> None:
    table = build_tables.table1([])
    assert (
        row_with(table, "LeNet5-v2") == "| the paper's LeNet5-v2 | 97.52 % | 776 float16 | 1,552 and shapes | 1,110 x |"
    )
    assert "| 98.42 % |" in table  # DeepCompress
    assert "| 2.84 KB | 606 x |" in row_with(table, "99.0 %")


def test_summary_shows_the_mean_of_several_runs() -> None:
    runs = [result("lenet300", 2816, accuracy) for accuracy in (0.96, 0.975, 0.97)]
    assert "**96.83 ± 0.76 %**" in build_tables.summary_table(runs)


def test_runs_table_tells_how() -> None:
    row = build_tables.runs_table([result("lenet5", 776, 0.984)]).splitlines()[-1]
    assert row == (
        "| `a` | fresh | 30 | 7 | 1 x cpu, 2 threads | 2.0 h | 50.00 % | 98.40 % | 2.0 | `tailcut train a` |"
    )
    run = result("lenet5", 776, 0.984)
    run.recipe["start"] = {"file": "zoo:lenet5-7668"}
    assert build_tables.runs_table([run]).splitlines()[-1].startswith("| `a` | `zoo:lenet5-7668` | 30 |")
    run.start_fingerprint = "0" * 64
    assert "| `zoo:lenet5-7668`, an earlier one | 30 |" in build_tables.runs_table([run])


def test_benchmarks(tmp_path: Path) -> None:
    assert "No benchmark run" in build_tables.bench_tables(tmp_path / "none.json")
    machine = {
        "processor": "P",
        "note": "quiet",
        "num_threads": 1,
        "copy_rate": 5e9,
        "product_rate": 6e10,
        "torch_version": "2",
        "python_version": "3",
    }
    rows = [{"way": "x", "ms": 0.1234, "runs": 1500}, {"way": "y", "ms": None, "runs": 2}]
    topics = {"files": [{"title": "Sizes", "rows": rows, "notes": ["A note."]}]}
    path = tmp_path / "bench.json"
    path.write_text(json.dumps({"machine": machine, "scale": "full", "topics": topics}), encoding="utf-8")
    text = build_tables.bench_tables(path)
    assert "P (quiet), 1 thread, torch 2, Python 3" in text
    assert "| x | 0.123 | 1,500 |" in text
    assert "| y | - | 2 |" in text
    assert text.endswith("A note.")


def test_a_start_that_the_zoo_lacks_is_told() -> None:
    lost, sound = result("lenet5", 776, 0.984, name="lost"), result("lenet5", 776, 0.984, name="sound")
    lost.recipe["start"] = {"file": "zoo:nowhere"}
    sound.recipe["start"] = {"file": "zoo:lenet5-7668"}
    table = build_tables.runs_table([lost, sound])
    assert "| `lost` | `zoo:nowhere`, not in the zoo (see below) |" in table
    assert "| `sound` | `zoo:lenet5-7668` |" in table
    assert table.splitlines()[-1].startswith("**Not in the zoo**: the commands of `lost` cannot be repeated")
