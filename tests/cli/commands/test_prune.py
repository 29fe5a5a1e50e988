from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.small_imagenette import write_images

from tailcut.cli.commands.prune import rates
from tailcut.format import load, save
from tailcut.structure import create_model

Tailcut = Callable[..., Any]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    save(create_model("lenet5", conv_relu=True), tmp_path / "a.tailcut")
    return tmp_path / "a.tailcut"


@pytest.mark.parametrize(
    ("text", "value"),
    [("0.3", 0.3), ("0.1,0.2, 0.3", (0.1, 0.2, 0.3)), ("0.5,", (0.5,)), ("paper", "paper"), ("extended", "extended")],
)
def test_rates(text: str, value: Any) -> None:
    assert rates(text) == value


def test_json_has_exactly_the_promised_keys(tailcut: Tailcut, file: Path, tmp_path: Path) -> None:
    out = tmp_path / "slim.tailcut"
    outcome = tailcut("prune", file, "--method", "l1", "--rates", "0.5", "-o", out, "--json")
    assert outcome.code == 0
    assert list(outcome.json) == [
        "source",
        "out",
        "file_bytes",
        "method",
        "num_images",
        "recalibrated_on",
        "pruning",
    ]
    assert list(outcome.json["pruning"]) == [
        "macs_before",
        "macs_after",
        "num_parameters_before",
        "num_parameters_after",
        "layers",
        "skipped",
        "notes",
    ]
    assert list(outcome.json["pruning"]["layers"][0]) == ["name", "group", "before", "after", "removed"]
    assert outcome.json["file_bytes"] == out.stat().st_size
    slim: Any = load(out)
    assert slim.conv1.out_channels == 10


def test_every_setting_arrives(tailcut: Tailcut, file: Path, tmp_path: Path) -> None:
    scores, out = tmp_path / "scores.json", tmp_path / "slim.tailcut"
    words = ["--data", "digits", "--num-batches", 1, "--batch-size", 4]
    assert tailcut("score", file, *words, "-o", scores).code == 0
    limits = ["--ignore", "conv1", "--min-channels", 9, "--round-to", 8, "--max-rate", 0.7]
    outcome = tailcut("prune", file, "--scores", scores, "--rates", "0.9", *limits, "-o", out, "--dtype", "float16")
    assert outcome.code == 0
    assert "ignored" in outcome.out
    slim: Any = load(out)
    assert (slim.conv1.out_channels, slim.conv2.out_channels) == (20, 16)
    outcome = tailcut("prune", file, *words, "--params-ratio", "0.8", "-o", out, "--json")
    assert outcome.code == 0
    assert (outcome.json["num_images"], outcome.json["recalibrated_on"]) == (4, 0)

    pruning = outcome.json["pruning"]
    assert 0.75 < pruning["num_parameters_after"] / pruning["num_parameters_before"] <= 0.8
    outcome = tailcut("prune", file, "--method", "l2", "--macs-ratio", "0.8", "-o", out)
    assert outcome.code == 0
    assert "MACs" in outcome.out


def test_batch_norm_is_measured_again(tailcut: Tailcut, tmp_path: Path) -> None:
    torch.manual_seed(0)
    save(create_model("resnet20", width=4), tmp_path / "a.tailcut")
    write_images(tmp_path, 16)
    words = [
        "--data",
        "imagenette@32",
        "--data-root",
        tmp_path,
        "--num-batches",
        2,
        "--batch-size",
        8,
        "--rates",
        "0.5",
    ]
    outcome = tailcut("prune", tmp_path / "a.tailcut", *words, "--recalibrate", "-o", tmp_path / "b.tailcut", "--json")
    assert outcome.code == 0
    assert (outcome.json["num_images"], outcome.json["recalibrated_on"]) == (16, 16)
    assert bool((load(tmp_path / "b.tailcut").get_buffer("bn1.running_mean") != 0).all())


def test_a_checkpoint(tailcut: Tailcut, tmp_path: Path) -> None:
    torch.save(create_model("resnet20", width=4, normalize=True).state_dict(), tmp_path / "a.pt")
    words = ["--model", "resnet20", "--set-argument", "width=4", "--set-argument", "normalize=true", "--method", "l1"]
    outcome = tailcut("prune", tmp_path / "a.pt", *words, "--rates", "0.5", "-o", tmp_path / "slim.tailcut")
    assert outcome.code == 0
    assert "layer1.0.conv2  conv1" in outcome.out


def test_bad_usage(tailcut: Tailcut, file: Path, tmp_path: Path) -> None:
    out = ["-o", tmp_path / "slim.tailcut", "--method", "l1"]
    assert tailcut("prune", file, *out).code == 2
    assert tailcut("prune", file, *out, "--rates", "0.5", "--macs-ratio", "0.5").code == 2
    for slip in ("0.5,x", "0.5,,0.5"):
        assert tailcut("prune", file, *out, "--rates", slip).code == 2
    outcome = tailcut("prune", file, *out, "--rates", "best")
    assert outcome.code == 2
    assert "one of paper, extended; got 'best'" in outcome.err
    outcome = tailcut("prune", file, *out, "--rates", "0.5,0.5")
    assert outcome.code == 2
    assert "expected 3 rates" in outcome.err
    outcome = tailcut("prune", file, *out, "--rates", "0.5", "--scores", tmp_path / "scores.json")
    assert outcome.code == 2
    assert "give either --scores or --method l1" in outcome.err
    assert not (tmp_path / "slim.tailcut").exists()


def test_what_removes_nothing_is_warned_of(tailcut: Tailcut, file: Path, tmp_path: Path) -> None:
    words = ["--method", "l1", "-o", tmp_path / "slim.tailcut"]
    outcome = tailcut("prune", file, *words, "--rates", 0.3, "--round-to", 100)
    assert outcome.code == 0
    assert "nothing was removed: conv1, conv2: --round-to 100 lets none go" in outcome.err
    assert "nothing was removed" not in tailcut("prune", file, *words, "--rates", 0).err


def test_scores_that_are_not_there(tailcut: Tailcut, file: Path, tmp_path: Path) -> None:
    words = ["--scores", tmp_path / "none.json", "--rates", 0.3, "-o", tmp_path / "slim.tailcut"]
    outcome = tailcut("prune", file, *words)
    assert outcome.code == 1
    why = "No such file or directory (make them with tailcut score)"
    assert f"cannot read the scores {tmp_path / 'none.json'}: {why}" in outcome.err
