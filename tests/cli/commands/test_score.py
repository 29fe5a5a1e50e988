from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from tailcut.channels import Scores
from tailcut.format import save
from tailcut.structure import create_model

Tailcut = Callable[..., Any]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    save(create_model("lenet5", conv_relu=True), tmp_path / "a.tailcut")
    return tmp_path / "a.tailcut"


def test_json_has_exactly_the_promised_keys(tailcut: Tailcut, file: Path, tmp_path: Path) -> None:
    words = ["--data", "digits", "--num-batches", 2, "--batch-size", 8, "-o", tmp_path / "s.json", "--json"]
    outcome = tailcut("score", file, *words)
    assert outcome.code == 0
    assert list(outcome.json) == [
        "source",
        "data",
        "split",
        "method",
        "settings",
        "num_images",
        "out",
        "plot",
        "layers",
        "skipped",
    ]
    assert outcome.json["num_images"] == 16
    assert list(outcome.json["layers"][0]) == ["name", "num_channels", "lowest", "median", "highest"]
    assert list(Scores.load(tmp_path / "s.json")) == ["conv1", "conv2"]


def test_every_setting_arrives(tailcut: Tailcut, file: Path, tmp_path: Path) -> None:
    out = tmp_path / "s.json"
    words = ["--data", "digits", "--num-batches", 1, "--batch-size", 2, "-o", out, "--variant", "published"]
    formula = ["--block-size", "whole", "--sigma", "none", "--spatial-weight", "0.5", "--components", "dist,spatial"]
    assert tailcut("score", file, *words, *formula).code == 0
    assert Scores.load(out).settings == {
        "variant": "published",
        "block_size": "whole",
        "gaussian_sigma": None,
        "spatial_weight": 0.5,
        "components": ["dist", "spatial"],
    }
    assert tailcut("score", file, *words, *formula[:2], "--sigma", "off", *formula[4:]).code == 0
    assert Scores.load(out).settings["gaussian_sigma"] is None
    assert tailcut("score", file, *words, "--block-size", "8", "--sigma", "2.5").code == 0
    settings = Scores.load(out).settings
    assert (settings["block_size"], settings["gaussian_sigma"]) == (8, 2.5)


def test_a_checkpoint_and_a_plot(tailcut: Tailcut, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    torch.save(create_model("lenet5", bias=False).state_dict(), tmp_path / "a.pt")
    words = ["--model", "lenet5", "--set-argument", "bias=false", "--method", "l1", "-o", tmp_path / "s.json"]
    outcome = tailcut("score", tmp_path / "a.pt", *words, "--plot", tmp_path / "s.png")
    assert outcome.code == 0
    assert outcome.out.splitlines()[0].split() == ["layer", "channels", "lowest", "median", "highest"]
    assert (tmp_path / "s.png").stat().st_size > 1000


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "the method spectral runs the network"),
        (["--data", "nothing"], "unknown data set 'nothing'"),
        (["--method", "best"], "invalid choice: 'best'"),
        (["--block-size", "big"], "--block-size"),
        (["--components", "phase"], "expected some of spectral,dist,spatial"),
        (["--method", "l1", "--model", "lenet5"], "names its model itself"),
    ],
)
def test_bad_usage(words: list[str], message: str, tailcut: Tailcut, file: Path, tmp_path: Path) -> None:
    outcome = tailcut("score", file, "-o", tmp_path / "s.json", *words)
    assert outcome.code == 2
    assert message in outcome.err


def test_options_of_another_method_are_refused(tailcut: Tailcut, file: Path, tmp_path: Path) -> None:
    outcome = tailcut("score", file, "--method", "l1", "--variant", "published", "-o", tmp_path / "s.json")
    assert outcome.code == 2
    assert "the method l1 has no variant" in outcome.err
    assert not (tmp_path / "s.json").exists()
