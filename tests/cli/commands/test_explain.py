import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tailcut.format import save
from tailcut.structure import create_model

Tailcut = Callable[..., Any]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    save(create_model("lenet5", conv_relu=True), tmp_path / "a.tailcut")
    return tmp_path / "a.tailcut"


def test_json_has_exactly_the_promised_keys(tailcut: Tailcut, file: Path, image: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    words = ["--image", image, "-o", tmp_path / "cam.png", "--json"]
    other = shutil.copy(file, tmp_path / "b.tailcut")
    outcome = tailcut("explain", file, other, *words, "--layer", "conv1", "--class", 7)
    assert outcome.code == 0
    assert list(outcome.json) == ["image", "class_number", "class_name", "out", "explanations"]
    assert outcome.json["class_number"] == 7
    assert [list(item) for item in outcome.json["explanations"]] == [
        ["source", "layer", "best_class_number", "best_class_name", "probability", "focus"]
    ] * 2
    assert outcome.json["explanations"][0]["layer"] == "conv1"
    assert (tmp_path / "cam.png").is_file()


def test_a_table_is_shown(tailcut: Tailcut, file: Path, image: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    outcome = tailcut("explain", file, "--image", image, "-o", tmp_path / "cam.png", "--device", "cpu")
    assert outcome.code == 0
    assert outcome.out.splitlines()[2].split()[:2] == [str(file), "conv2"]


def test_a_file_is_shown_once(tailcut: Tailcut, file: Path, image: Path, tmp_path: Path) -> None:
    refused = tailcut("explain", file, file, "--image", image, "-o", tmp_path / "cam.png")
    assert (refused.code, f"{file} is given twice" in refused.err) == (2, True)


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["--layer", "conv9"], 2, "there is no 2-D convolution 'conv9'"),
        (["--class", "10"], 2, "classes 0 to 9, got 10"),
        (["--image", "nothing.png"], 1, "nothing.png"),
        (["-o", "cam.jpg"], 2, "expected a name that ends in .png, got cam.jpg"),
    ],
)
def test_failures_say_what_is_wrong(
    words: list[str], code: int, message: str, tailcut: Tailcut, file: Path, image: Path, tmp_path: Path
) -> None:
    outcome = tailcut("explain", file, "--image", image, "-o", tmp_path / "cam.png", *words)
    assert outcome.code == code
    assert message in outcome.err
    assert not (tmp_path / "cam.png").exists()
