"""One recipe against another, from records made here."""

import json
from pathlib import Path

import pytest
from tests.tools.docs.test_recipe_tables import record
from tools.docs.comparisons import accuracies, comparison, scores_compared

from tailcut.format.zoo import zoo_folder
from tailcut.runs import read_result

RGB, DCT = "imagenette-resnet18-rgb112", "imagenette-resnet18-dct24"


def write(folder: Path, name: str, values: list[float]) -> None:
    for seed, value in enumerate(values):
        record(folder, f"frequency-inputs/{name}", seed, {"accuracy": value})


def test_without_records_nothing_is_claimed(tmp_path: Path) -> None:
    write(tmp_path, RGB, [0.7])
    assert comparison(tmp_path, DCT, RGB) == f"`{DCT}` against `{RGB}`: not run."


@pytest.mark.parametrize(
    ("ours", "theirs", "ending"),
    [
        (
            [0.70, 0.71, 0.72],
            [0.69, 0.70, 0.71],
            f"`{DCT}` (71.00 ± 1.00 %, 3 seeds) is 1.00 points more accurate than `{RGB}` (70.00 ± 1.00 %, 3 seeds); "
            "a difference like this comes by chance with p = 0.29 (Welch's t-test), so it may be chance.",
        ),
        (
            [0.60, 0.61],
            [0.70, 0.71],
            f"`{DCT}` (60.50 ± 0.71 %, 2 seeds) is 10.00 points less accurate than `{RGB}` (70.50 ± 0.71 %, 2 seeds); "
            "a difference like this comes by chance with p < 0.01 (Welch's t-test), so it is hardly chance.",
        ),
        (
            [0.7],
            [0.6],
            f"`{DCT}` (70.00 %, 1 seed) is 10.00 points more accurate than `{RGB}` (60.00 %, 1 seed); "
            "one seed cannot tell whether that is chance.",
        ),
        (
            [0.1, 0.1],
            [0.7, 0.71],
            f"`{DCT}` (10.00 ± 0.00 %, 2 seeds) is 60.50 points less accurate than `{RGB}` (70.50 ± 0.71 %, 2 seeds); "
            "a difference like this comes by chance with p < 0.01 (Welch's t-test), so it is hardly chance.",
        ),
        (
            [0.1, 0.1],
            [0.1, 0.1],
            f"`{DCT}` (10.00 ± 0.00 %, 2 seeds) is 0.00 points more accurate than `{RGB}` (10.00 ± 0.00 %, 2 seeds); "
            "the seeds of neither differ.",
        ),
    ],
)
def test_what_the_seeds_say(ours: list[float], theirs: list[float], ending: str, tmp_path: Path) -> None:
    write(tmp_path, DCT, ours)
    write(tmp_path, RGB, theirs)
    assert comparison(tmp_path, DCT, RGB) == ending


def test_scores_are_compared_by_their_seeds(tmp_path: Path) -> None:
    folder = tmp_path / "cfdp-baselines"
    folder.mkdir()
    any_result = read_result(zoo_folder() / "lenet5-776.json").to_dict()
    for seed, value in enumerate([0.7, 0.72]):
        for name, accuracy in (("spectral", value), ("l1", value + 0.01)):
            content = json.dumps({**any_result, "metrics": {"accuracy": accuracy}})
            (folder / f"{name}-untuned-{seed}.json").write_text(content)
    first, second, *_ = scores_compared(tmp_path).splitlines()
    assert "(71.00 ± 1.41 %, 2 seeds) is 1.00 points less accurate than `l1-untuned`" in first
    assert second == "- `spectral-untuned` against `apoz-untuned`: not run."


def test_a_variant_has_its_own_seeds_only(tmp_path: Path) -> None:
    any_result = read_result(zoo_folder() / "lenet5-776.json").to_dict()
    for stem, accuracy in (("l1-0", 0.7), ("l1-10", 0.6), ("l1-47-0", 0.1), ("l1-untuned-0", 0.2)):
        content = json.dumps({**any_result, "metrics": {"accuracy": accuracy}})
        (tmp_path / f"{stem}.json").write_text(content)
    assert accuracies(tmp_path, "l1") == [0.7, 0.6]
    assert accuracies(tmp_path, "l1-47") == [0.1]
