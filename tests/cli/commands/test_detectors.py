"""`train`, `evaluate` and `predict` with detectors."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tests.torchvision_operators  # noqa: F401
import torch
from tests.small_coco import TINY, write_coco

from tailcut.data import image_file_size
from tailcut.format import save
from tailcut.inputs.detection.detectors import faster_rcnn, mask_rcnn

Tailcut = Callable[..., Any]

RECIPE = f"""
[model]
name = "faster_rcnn"
arguments = {json.dumps({**TINY, "score_threshold": 0.0}).replace('": ', '" = ')}

[data]
name = "coco"
train_split = "train2017"
test_split = "val2017"
batch_size = 2

[optimizer]
lr = 0.003

[training]
epochs = 1

[detection]
"""


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return write_coco(tmp_path / "data", "train2017", "val2017")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    save(faster_rcnn(**{**TINY, "score_threshold": 0.0}), tmp_path / "small.tailcut")
    return tmp_path / "small.tailcut"


def test_a_detector_from_recipe_to_drawing(tailcut: Tailcut, root: Path, tmp_path: Path) -> None:
    (tmp_path / "small.toml").write_text(RECIPE)
    run = tmp_path / "run"
    outcome = tailcut(
        "train", tmp_path / "small.toml", "--out", run, "--data-root", root, "--accelerator", "cpu", "--json"
    )
    assert outcome.code == 0, outcome.err
    assert outcome.json["name"] == "small"
    trained = outcome.json["metrics"]
    assert {"box_AP", "box_AP50"} <= set(trained)

    file = run / "model.tailcut"
    outcome = tailcut("evaluate", file, "--data", "coco", "--data-root", root, "--device", "cpu", "--json")
    assert outcome.code == 0, outcome.err
    assert outcome.json["metrics"] == pytest.approx(trained)

    image = root / "coco" / "val2017" / "1.png"
    outcome = tailcut("predict", file, image, "-o", tmp_path / "out", "--least-score", 0, "--device", "cpu", "--json")
    assert outcome.code == 0, outcome.err
    (prediction,) = outcome.json["predictions"]
    assert prediction["objects"]
    assert image_file_size(prediction["drawing"]) == image_file_size(image)
    outcome = tailcut("predict", file, image, "--least-score", 0, "--device", "cpu")
    assert outcome.out.splitlines()[0].split()[:3] == ["image", "object", "probability"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["predict", "FILE", "IMAGE", "--invert"], "--invert is for digits"),
        (["predict", "FILE", "IMAGE", "--least-score", "7"], "the least score must be 0 to 1, got 7"),
        (["predict", "zoo:lenet5-776", "IMAGE", "--least-score", "0.5"], "--least-score is for detectors"),
        (["evaluate", "FILE", "--data", "digits"], "holds a detector, which is measured on objects"),
        (["evaluate", "FILE", "--data", "coco", "--batch-size", "4"], "--batch-size must be 1, got 4"),
        (["evaluate", "zoo:lenet5-776", "--data", "coco"], "which only a detector finds"),
    ],
)
def test_bad_usage(words: list[str], message: str, tailcut: Tailcut, file: Path, root: Path) -> None:
    names = {"FILE": str(file), "IMAGE": str(root / "coco" / "val2017" / "1.png")}
    roots = ["--data-root", str(root)] if words[0] == "evaluate" else []
    outcome = tailcut(*(names.get(word, word) for word in words), *roots, "--device", "cpu")
    assert outcome.code == 2, outcome.err
    assert message in outcome.err


@pytest.mark.parametrize("build", [faster_rcnn, mask_rcnn])
def test_a_pruned_detector_draws_and_its_weights_are_exported(build: Any, tailcut: Tailcut, tmp_path: Path) -> None:
    torch.manual_seed(0)
    save(build(**{**TINY, "score_threshold": 0.0}), tmp_path / "a.tailcut")
    slim, image = tmp_path / "b.tailcut", write_coco(tmp_path / "data", "val2017") / "coco" / "val2017" / "1.png"
    words = ("prune", tmp_path / "a.tailcut", "--method", "l1", "--rates", 0.3, "-o", slim, "--device", "cpu")
    assert tailcut(*words).code == 0
    outcome = tailcut("predict", slim, image, "-o", tmp_path / "out", "--least-score", 0, "--device", "cpu", "--json")
    assert outcome.code == 0, outcome.err
    (prediction,) = outcome.json["predictions"]
    assert prediction["objects"]
    assert image_file_size(prediction["drawing"]) == image_file_size(image)
    assert tailcut("export", slim, "--to", "safetensors", "-o", tmp_path / "c.safetensors").code == 0


@pytest.mark.parametrize("to", ["onnx", "c", "html"])
def test_programs_of_a_detector_are_refused_in_one_line(to: str, tailcut: Tailcut, file: Path, tmp_path: Path) -> None:
    outcome = tailcut("export", file, "--to", to, "-o", tmp_path / "out")
    assert outcome.code == 1
    assert len(outcome.err.strip().splitlines()) == 1
    assert "a detector finds as many objects as there are" in outcome.err
    assert not (tmp_path / "out").exists()


def test_a_recipe_without_the_section_is_told_to_have_one(tailcut: Tailcut, root: Path, tmp_path: Path) -> None:
    (tmp_path / "small.toml").write_text(RECIPE.replace("[detection]", ""))
    words = ("train", tmp_path / "small.toml", "--out", tmp_path / "run", "--data-root", root, "--accelerator", "cpu")
    outcome = tailcut(*words)
    assert outcome.code == 2
    assert "a recipe for a detector needs a [detection] section (it may be empty)" in outcome.err
