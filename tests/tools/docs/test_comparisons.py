"""One recipe against another, from records made here."""

import json
from pathlib import Path

import pytest
from tests.tools.docs.test_recipe_tables import record
from tools.docs.comparisons import accuracies, answers, scores_compared

from tailcut.format.zoo import zoo_folder
from tailcut.runs import read_result

RGB, DCT = "imagenette-resnet18-rgb112", "imagenette-resnet18-dct24"


def write(folder: Path, name: str, values: list[float]) -> None:
    for seed, value in enumerate(values):
        record(folder, f"frequency-inputs/{name}", seed, {"accuracy": value})


def rows(table: str) -> list[str]:
    return table.splitlines()[2:]


def test_without_records_nothing_is_claimed(tmp_path: Path) -> None:
    write(tmp_path, RGB, [0.7])
    first, second, *_ = rows(answers(tmp_path))
    assert first == f"| **`{RGB}`** | 70.00 % | 1 |  |  |"
    assert second == f"| `{DCT}` | not run |  |  |  |"


@pytest.mark.parametrize(
    ("ours", "theirs", "cells"),
    [
        ([0.70, 0.71, 0.72], [0.69, 0.70, 0.71], "71.00 ± 1.00 % | 3 | +1.00 | 0.29"),
        ([0.60, 0.61], [0.70, 0.71], "60.50 ± 0.71 % | 2 | -10.00 | 0.005"),
        ([0.7], [0.6], "70.00 % | 1 | +10.00 | "),
        ([0.1, 0.1], [0.7, 0.71], "10.00 ± 0.00 % | 2 | -60.50 | 0.005"),
        ([0.1, 0.1], [0.1, 0.1], "10.00 ± 0.00 % | 2 | +0.00 | "),
        ([0.1, 0.101, 0.1], [0.7, 0.701, 0.7], "10.03 ± 0.06 % | 3 | -60.00 | < 0.001"),
    ],
)
def test_what_the_seeds_say(ours: list[float], theirs: list[float], cells: str, tmp_path: Path) -> None:
    write(tmp_path, DCT, ours)
    write(tmp_path, RGB, theirs)
    assert rows(answers(tmp_path))[1] == f"| `{DCT}` | {cells} |"


def test_scores_are_compared_by_their_seeds(tmp_path: Path) -> None:
    folder = tmp_path / "cfdp-baselines"
    folder.mkdir()
    any_result = read_result(zoo_folder() / "lenet5-776.json").to_dict()
    for seed, value in enumerate([0.7, 0.72]):
        for name, accuracy in (("spectral", value), ("l1", value + 0.01)):
            content = json.dumps({**any_result, "metrics": {"accuracy": accuracy}})
            (folder / f"{name}-untuned-{seed}.json").write_text(content)
    _, second, third, *_ = rows(scores_compared(tmp_path))
    assert second == "| `l1-untuned` | 72.00 ± 1.41 % | 2 | +1.00 | 0.55 |"
    assert third == "| `l2-untuned` | not run |  |  |  |"


def test_a_variant_has_its_own_seeds_only(tmp_path: Path) -> None:
    any_result = read_result(zoo_folder() / "lenet5-776.json").to_dict()
    for stem, accuracy in (("l1-0", 0.7), ("l1-10", 0.6), ("l1-47-0", 0.1), ("l1-untuned-0", 0.2)):
        content = json.dumps({**any_result, "metrics": {"accuracy": accuracy}})
        (tmp_path / f"{stem}.json").write_text(content)
    assert accuracies(tmp_path, "l1") == [0.7, 0.6]
    assert accuracies(tmp_path, "l1-47") == [0.1]
