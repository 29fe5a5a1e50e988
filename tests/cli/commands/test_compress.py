"""`tailcut compress`, and quantised files by `tailcut pack`."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from tailcut.cli.commands.compress import percentage_points
from tailcut.cli.parser import num_bytes
from tailcut.format import load, save
from tailcut.structure import create_model

Tailcut = Callable[..., Any]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    save(create_model("lenet5", conv_relu=True), tmp_path / "a.tailcut")
    return tmp_path / "a.tailcut"


@pytest.mark.parametrize(
    ("text", "size"), [("640", 640), ("64KB", 64_000), ("1.5 KiB", 1536), ("2mib", 2 << 20), ("7B", 7), ("1MB", 10**6)]
)
def test_sizes(text: str, size: int) -> None:
    assert num_bytes(text) == size


def test_broken_images_may_be_left_out(tailcut: Tailcut, tmp_path: Path) -> None:
    file = tmp_path / "a.tailcut"
    save(create_model("resnet20", width=4, num_classes=1), file)
    folder = tmp_path / "photos" / "train" / "a"
    folder.mkdir(parents=True)
    for number in range(4):
        Image.new("RGB", (32, 32), (60 * number, 9, 9)).save(folder / f"{number}.png")
    (folder / "broken.png").write_bytes(b"no image")
    data = ["--data", "folder:photos", "--data-root", tmp_path, "--no-test", "--num-gradients", 1]
    words = ["compress", file, *data, "--max-bytes", "9KB", "-o", tmp_path / "small.tailcut"]
    refused = tailcut(*words)
    assert refused.code == 1
    assert "broken.png is no PNG or JPEG image" in refused.err
    outcome = tailcut(*words, "--on-error", "skip")
    assert outcome.code == 0, outcome.err
    assert "left out 1 image" in outcome.err
    assert (tmp_path / "small.tailcut").stat().st_size <= 9_000


@pytest.mark.parametrize("drop", ["200", "-0.5", "nan"])
def test_a_drop_is_a_part_of_the_metric(drop: str, tailcut: Tailcut, file: Path, tmp_path: Path) -> None:
    out = tmp_path / "small.tailcut"
    refused = tailcut("compress", file, "--data", "digits", f"--max-drop={drop}", "-o", out)
    assert (refused.code, out.exists()) == (2, False)
    assert f"--max-drop must be 0 to 100 percentage points, got {drop}" in refused.err


def test_a_file_of_the_size_that_was_asked_for(tailcut: Tailcut, file: Path, tmp_path: Path) -> None:
    out = tmp_path / "small.tailcut"
    words = ["--data", "digits", "--max-bytes", "20KB", "--num-gradients", 3, "-o", out]
    outcome = tailcut("compress", file, *words, "--json")
    assert outcome.code == 0
    assert list(outcome.json) == [
        *("source", "out", "file_bytes", "dense_bytes", "compression_ratio", "data", "split", "metric", "before"),
        *("after", "settings", "seconds", "num_threads", "device"),
    ]
    assert outcome.json["file_bytes"] == out.stat().st_size <= 20_000
    assert outcome.json["split"] == "test"
    assert outcome.json["device"] in ("cpu", *(torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())))
    assert 0 <= outcome.json["after"] <= 1
    assert load(out)(torch.zeros(1, 1, 28, 28)).shape == (1, 10)
    text = tailcut("compress", file, *words, "--no-test").out
    assert "small.tailcut" in text
    assert "accuracy" not in text


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--max-bytes", "much"], "expected a size such as 640, 64KB or 1.5MiB"),
        ([], "one of the arguments --max-bytes --max-drop --step is required"),
        (["--max-bytes", 9, "--step", 1], "not allowed with argument"),
    ],
)
def test_bad_usage(tailcut: Tailcut, file: Path, tmp_path: Path, words: list[Any], message: str) -> None:
    outcome = tailcut("compress", file, "--data", "digits", "-o", tmp_path / "b.tailcut", *words)
    assert outcome.code == 2
    assert message in outcome.err


def test_a_size_that_cannot_be_had(tailcut: Tailcut, file: Path, tmp_path: Path) -> None:
    words = ["--data", "digits", "-o", tmp_path / "b.tailcut", "--num-gradients", 1]
    outcome = tailcut("compress", file, *words, "--max-bytes", 30)
    assert outcome.code != 0
    assert "the file cannot have 30 bytes: with all numbers rounded away it has" in outcome.err
    assert not (tmp_path / "b.tailcut").exists()


def test_pack_quantises_plain_weights(tailcut: Tailcut, tmp_path: Path) -> None:
    torch.manual_seed(0)
    torch.save(create_model("lenet5").state_dict(), tmp_path / "weights.pt")
    words = ["pack", tmp_path / "weights.pt", "-o", tmp_path / "a.tailcut", "--model", "lenet5", "--dtype", "quantized"]
    assert tailcut(*words, "--max-bytes", "30KB").code == 0
    assert 25_000 < (tmp_path / "a.tailcut").stat().st_size <= 30_000
    report = json.loads(tailcut("inspect", tmp_path / "a.tailcut", "--json").out)
    assert report["version"] == 2


def test_points_may_have_their_sign_and_are_told_from_parts(file: Path, tmp_path: Path, tailcut: Tailcut) -> None:
    assert percentage_points("0.5%") == percentage_points(" 0.5") == 0.5
    common = (
        "compress",
        file,
        "--data",
        "digits",
        "--num-gradients",
        "1",
        "--no-test",
        "-o",
        tmp_path / "small.tailcut",
    )
    found = tailcut(*common, "--max-drop", "0.005")
    assert "--max-drop is in percentage points: 0.005 is 0.005 %, not 0.5 %" in found.err
    assert "percentage points: " not in tailcut(*common, "--max-drop", "0.5%").err
    assert "expected percentage points such as 0.5, got 'half'" in tailcut(*common, "--max-drop", "half").err
