"""What experiments found, from records made here."""

import json
from pathlib import Path

import numpy as np
import pytest
from tools.docs.findings import AGAINST, draw_finding, finding, finding_points, with_records

from tailcut.format.zoo import zoo_folder
from tailcut.runs import read_result
from tailcut.training.experiments.definition import load_experiment, shipped_experiments


def write(folder: Path, variant: str, values: list[float]) -> None:
    folder.mkdir(exist_ok=True)
    any_result = read_result(zoo_folder() / "lenet5-776.json").to_dict()
    for seed, value in enumerate(values):
        content = json.dumps({**any_result, "metrics": {"accuracy": value}})
        (folder / f"{variant}-{seed}.json").write_text(content, encoding="utf-8")


@pytest.mark.parametrize("name", AGAINST)
def test_the_row_compared_with_is_one_of_the_experiment(name: str) -> None:
    assert AGAINST[name] in [variant.name for variant in load_experiment(name).variants]


def test_every_experiment_of_two_cores_is_reported() -> None:
    assert set(AGAINST) == {name for name in shipped_experiments() if name.startswith(("fr-", "norms-"))}


def test_variants_are_compared_in_the_order_of_the_experiment(tmp_path: Path) -> None:
    assert finding("fr-corner", tmp_path) == "Not run."
    assert with_records(tmp_path) == []
    write(tmp_path / "fr-corner", "drawn-anywhere", [0.5, 0.52])
    write(tmp_path / "fr-corner", "corner", [0.9, 0.92])
    assert with_records(tmp_path) == ["fr-corner"]
    assert finding_points("fr-corner", tmp_path) == [["corner", [0.9, 0.92]], ["drawn-anywhere", [0.5, 0.52]]]
    _, _, base, line = finding("fr-corner", tmp_path).splitlines()
    assert base == "| **`corner`** | 91.00 ± 1.41 % | 2 |  |  |"
    assert line == "| `drawn-anywhere` | 51.00 ± 1.41 % | 2 | -40.00 | 0.001 |"


def test_an_image_has_a_row_for_each_variant() -> None:
    points = [["corner", [0.9, 0.92]], ["near", [0.87]], ["far", [0.5, 0.54]]]
    (panel,) = draw_finding(points, "corner").axes
    assert [label.get_text() for label in panel.get_yticklabels()] == ["corner", "near", "far"]
    dots = [np.asarray(line.get_xdata()).tolist() for line in panel.lines if line.get_marker() == "o"]
    assert dots == [[90.0, 92.0], [87.0]]
    assert [text.get_text() for text in panel.texts] == ["\N{LEFTWARDS ARROW} 52.0 %"]
    assert 86 < panel.get_xlim()[0] < 87
