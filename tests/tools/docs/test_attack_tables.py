import json
from pathlib import Path

import pytest
from tools.docs.attack_tables import attack_tables, read_report


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    content = {
        "data": "cifar10",
        "split": "test",
        "num_images": 1000,
        "method": "fgsm",
        "epsilons": [0.0, 0.05],
        "steps": 1,
        "step_sizes": [0.0, 0.05],
        "curves": [{"source": "one", "accuracies": [0.9, 0.25]}, {"source": "two", "accuracies": [0.8, 0.5]}],
        "seconds": 3.0,
    }
    (tmp_path / "fgsm.json").write_text(json.dumps(content))
    return tmp_path


def test_each_network_has_a_column_and_each_epsilon_a_row(folder: Path) -> None:
    text = attack_tables(folder)
    assert "| 0.05 | 0.05 | 25.00 % | 50.00 % |" in text
    assert "first 1,000 test images" in text


def test_the_paper_s_figures_stand_beside(folder: Path) -> None:
    (folder / "fgsm.json").rename(folder / "small-fgsm.json")
    text = attack_tables(folder, "small", {"fgsm": {0: (93.96, 94.1), 0.05: (61.85, 66.52)}})
    assert "| `one` | `two` | the paper, before | the paper, pruned |" in text
    assert "| 0.05 | 0.05 | 25.00 % | 50.00 % | 61.85 % | 66.52 % |" in text


def test_what_was_not_run_says_so(folder: Path) -> None:
    assert "**PGD**: not run." in attack_tables(folder)


def test_a_report_comes_back(folder: Path) -> None:
    assert read_report(folder / "fgsm.json").curves[1].accuracies == [0.8, 0.5]
