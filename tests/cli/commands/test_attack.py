import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tailcut.cli.parser import numbers
from tailcut.tasks.attack import ATTACKS, EPSILONS, AttackPlan

Tailcut = Callable[..., Any]


def test_json_has_exactly_the_promised_keys(tailcut: Tailcut, packed: Path, tmp_path: Path) -> None:
    words = ["--data", "digits", "--epsilon", "0,0.1", "--num-images", 20, "--json"]
    outcome = tailcut("attack", packed, shutil.copy(packed, tmp_path / "other.tailcut"), *words)
    assert outcome.code == 0
    assert list(outcome.json) == [
        "data",
        "split",
        "num_images",
        "method",
        "epsilons",
        "steps",
        "step_sizes",
        "curves",
        "seconds",
    ]
    assert outcome.json["epsilons"] == outcome.json["step_sizes"] == [0, 0.1]
    assert [list(curve) for curve in outcome.json["curves"]] == [["source", "accuracies"]] * 2
    assert outcome.json["curves"][0]["accuracies"] == outcome.json["curves"][1]["accuracies"]


def test_what_cannot_be_told_apart_or_drawn_is_refused(tailcut: Tailcut, packed: Path, tmp_path: Path) -> None:
    refused = tailcut("attack", packed, packed, "--data", "digits")
    assert (refused.code, f"{packed} is given twice" in refused.err) == (2, True)
    refused = tailcut("attack", packed, "--data", "digits", "-o", tmp_path / "curves.jpg")
    assert (refused.code, "expected a name that ends in .png, got" in refused.err) == (2, True)


def test_pgd_and_its_image(tailcut: Tailcut, packed: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    words = ["--data", "digits", "--split", "train", "--method", "pgd", "--steps", 2, "--step-size", 0.05, "--seed", 3]
    more = ["--num-images", 10, "--batch-size", 5, "--epsilon", "0.1", "--device", "cpu", "-o", tmp_path / "c.png"]
    outcome = tailcut("attack", packed, *words, *more)
    assert outcome.code == 0
    assert "pgd, 2 steps: accuracy on 10 images of digits, train[0:10]" in outcome.out
    assert (tmp_path / "c.png").is_file()


def test_the_default_is_the_paper_s_table(tailcut: Tailcut, packed: Path) -> None:
    outcome = tailcut("attack", packed, "--data", "digits", "--num-images", 5, "--json")
    assert outcome.json["epsilons"] == list(EPSILONS)
    assert numbers("0,0.05,0.3") == (0, 0.05, 0.3)
    assert set(ATTACKS) == {"fgsm", "pgd"}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--steps", "3"], "FGSM has one step"),
        (["--epsilon", "a,b"], "expected numbers such as 0.25,0.5, got"),
        (["--epsilon", "8"], "epsilon must be 0 to 1"),
        (["--method", "cw"], "invalid choice"),
        (["--num-images", "0"], "--num-images must be 1 to 355, the images of digits, split test, got 0"),
    ],
)
def test_bad_usage(words: list[str], message: str, tailcut: Tailcut, packed: Path) -> None:
    outcome = tailcut("attack", packed, "--data", "digits", *words)
    assert outcome.code == 2
    assert message in outcome.err


def test_every_option_of_attack_arrives(
    tailcut: Tailcut, packed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[Any] = []
    monkeypatch.setattr("tailcut.tasks.attack.attack_files", lambda *words, **settings: given.append((words, settings)))
    words = [
        "--split",
        "train",
        "--data-root",
        tmp_path,
        "--download",
        "--batch-size",
        7,
        "--seed",
        3,
        "--method",
        "pgd",
    ]
    more = ["--epsilon", "0.1,0.2", "--steps", 4, "--step-size", 0.05, "--num-images", 9, "--device", "cpu"]
    assert tailcut("attack", packed, "--data", "digits", *words, *more, "-o", tmp_path / "a.png").code == 0
    assert given == [
        (
            ([str(packed)], "digits", "train"),
            {
                "plan": AttackPlan("pgd", (0.1, 0.2), 4, 0.05, 3),
                "num_images": 9,
                "out": str(tmp_path / "a.png"),
                "roots": [str(tmp_path)],
                "download": True,
                "batch_size": 7,
                "device": "cpu",
            },
        )
    ]
