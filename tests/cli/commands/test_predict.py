from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from tailcut.format import save
from tailcut.structure import create_model

Tailcut = Callable[..., Any]


def test_classes_are_a_table_and_json(tailcut: Tailcut, packed: Path, image: Path, tmp_path: Path) -> None:
    outcome = tailcut("predict", packed, image)
    assert outcome.code == 0
    assert outcome.out.splitlines()[0].split() == ["image", "class", "probability"]
    outcome = tailcut("predict", packed, image, "-o", tmp_path / "out", "--json", "--invert")
    assert outcome.json["task"] == "classification"
    assert outcome.json["predictions"][0]["image"] == str(image)
    assert (tmp_path / "out" / "predictions.json").is_file()


def test_masks_are_images(tailcut: Tailcut, image: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    save(create_model("unet", widths=(2, 4)), tmp_path / "unet.tailcut")
    outcome = tailcut("predict", tmp_path / "unet.tailcut", image, "-o", tmp_path / "masks", "--json")
    assert outcome.code == 0
    assert outcome.json["predictions"][0]["mask"] == str(tmp_path / "masks" / "digit.png")
    assert (tmp_path / "masks" / "digit.png").is_file()
    outcome = tailcut("predict", tmp_path / "unet.tailcut", image)
    assert outcome.code == 2
    assert "-o DIR" in outcome.err


def test_a_level_of_a_progressive_file(tailcut: Tailcut, levels: Path, part: Path, image: Path, tmp_path: Path) -> None:
    shown = tailcut("predict", levels, image, "--level", 1, "--json").json
    assert shown["predictions"] == tailcut("predict", part, image, "--json").json["predictions"]
    assert shown["predictions"] != tailcut("predict", levels, image, "--json").json["predictions"]
    assert shown["source"] == f"{levels}, level 1"
    torch.manual_seed(0)
    save(create_model("vae", hidden=8), tmp_path / "vae.tailcut")
    refused = tailcut("predict", tmp_path / "vae.tailcut", "-o", tmp_path / "out", "--level", 2)
    assert (refused.code, "no levels" in refused.err) == (2, True)


def test_a_missing_image_fails(tailcut: Tailcut, packed: Path, tmp_path: Path) -> None:
    outcome = tailcut("predict", packed, tmp_path / "none.png")
    assert outcome.code == 1
    assert "none.png" in outcome.err


def test_a_network_that_makes_images_needs_none(tailcut: Tailcut, image: Path, tmp_path: Path) -> None:
    save(create_model("vae", hidden=8), tmp_path / "vae.tailcut")
    outcome = tailcut("predict", tmp_path / "vae.tailcut", "-o", tmp_path / "out", "--num-samples", 9, "--json")
    assert outcome.code == 0
    assert outcome.json["out"] == str(tmp_path / "out" / "samples.png")
    assert (outcome.json["num_samples"], outcome.json["seed"]) == (9, 0)
    first = (tmp_path / "out" / "samples.png").read_bytes()
    tailcut("predict", tmp_path / "vae.tailcut", "-o", tmp_path / "out", "--num-samples", 9, "--seed", 1)
    assert (tmp_path / "out" / "samples.png").read_bytes() != first
    for words, message in (((), "-o DIR"), ((image, "-o", tmp_path), "leave out IMAGE")):
        outcome = tailcut("predict", tmp_path / "vae.tailcut", *words)
        assert outcome.code == 2
        assert message in outcome.err
    outcome = tailcut("predict", tmp_path / "vae.tailcut", "-o", tmp_path / "out", "--seed", 99999999999999999999999)
    assert outcome.code == 2
    assert "expected a whole number of 0 to 9223372036854775807" in outcome.err


def test_other_networks_need_images_and_take_no_seed(tailcut: Tailcut, packed: Path, image: Path) -> None:
    for words, message in (((), "name at least one image"), ((image, "--seed", 1), "this network makes none")):
        outcome = tailcut("predict", packed, *words)
        assert outcome.code == 2
        assert message in outcome.err


@pytest.mark.parametrize(
    ("task", "place", "words", "expected"),
    [
        (
            "prediction",
            "predict.predict_file",
            ["--invert", "--dense"],
            {"invert": True, "dense": True, "max_input_pixels": 99, "level": 2, "device": "cpu"},
        ),
        (
            "detection",
            "predict_detection.predict_objects_file",
            ["--least-score", "0.2"],
            {"least_score": 0.2, "max_input_pixels": 99, "level": 2, "device": "cpu"},
        ),
    ],
)
def test_every_option_of_predict_arrives(
    task: str,
    place: str,
    words: list[str],
    expected: dict[str, Any],
    tailcut: Tailcut,
    packed: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    given: list[Any] = []
    monkeypatch.setattr("tailcut.evaluation.files.task_of_file", lambda *_: task)
    monkeypatch.setattr(f"tailcut.tasks.prediction.{place}", lambda *args, **settings: given.append((args, settings)))
    more = ["--max-input-pixels", 99, "--level", 2, "--device", "cpu", "-o", "there"]
    assert tailcut("predict", packed, "a.png", "b.png", *words, *more).code == 0
    assert given == [((str(packed), ["a.png", "b.png"], "there"), expected)]
