"""From a file to the JSON of its channels' scores."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from tailcut.channels import Scores, score
from tailcut.data import open_dataset
from tailcut.errors import ArgumentError, DataNotFoundError
from tailcut.evaluation.random_batches import random_batches
from tailcut.format import save
from tailcut.structure import create_model
from tailcut.tasks.score import score_file


@pytest.fixture
def file(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    save(create_model("lenet5", conv_relu=True), tmp_path / "a.tailcut")
    return tmp_path / "a.tailcut"


def test_scores_of_a_file(file: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    out, plot = tmp_path / "scores.json", tmp_path / "scores.png"
    report = score_file(file, out, "digits", plot=plot, batch_size=20, num_batches=2, seed=5, device="cpu")
    expected = score(create_from(file), list(random_batches(open_dataset("digits", "train"), 20, 2, 5)))
    found = Scores.load(out)
    assert list(found) == ["conv1", "conv2"]
    for name, values in expected.items():
        torch.testing.assert_close(found[name], values, rtol=1e-6, atol=0)
    assert (report.num_images, report.data, report.split, report.method) == (40, "digits", "train", "spectral")
    assert [layer.num_channels for layer in report.layers] == [20, 50]
    assert report.layers[0].highest == float(found["conv1"].max())
    assert report.settings == found.settings
    with Image.open(plot) as image:
        assert image.format == "PNG"
    assert json.loads(report.to_json())["layers"][1]["name"] == "conv2"
    assert str(report).splitlines()[-1] == f"{out}: scores by spectral, on 40 images of digits, train"


def create_from(file: Path) -> torch.nn.Module:
    from tailcut.format import load

    return load(file)


def test_images_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    save(create_model("resnet20", width=4), tmp_path / "a.tailcut")
    with pytest.raises(ArgumentError, match=r"does not run on an input of shape \(2, 1, 28, 28\): Given groups"):
        score_file(tmp_path / "a.tailcut", tmp_path / "s.json", "digits", batch_size=2, num_batches=1, device="cpu")
    assert not (tmp_path / "s.json").exists()


def test_settings_go_to_score(file: Path, tmp_path: Path) -> None:
    report = score_file(
        file, tmp_path / "s.json", "digits", batch_size=4, num_batches=1, variant="published", components=("spatial",)
    )
    assert report.settings["variant"] == "published"
    assert report.settings["components"] == ["spatial"]
    with pytest.raises(TypeError, match="blocks"):
        score_file(file, tmp_path / "s.json", "digits", blocks=3)


def test_methods_of_weights_need_no_data(file: Path, tmp_path: Path) -> None:
    report = score_file(file, tmp_path / "s.json", method="l2")
    assert (report.data, report.split, report.num_images) == (None, None, 0)
    assert str(report).endswith("s.json: scores by l2")
    assert Scores.load(tmp_path / "s.json").method == "l2"


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({}, ArgumentError, "the method spectral runs the network: name a data set with --data"),
        ({"method": "best"}, ArgumentError, "method must be one of"),
        ({"data": "nothing"}, ArgumentError, "unknown data set 'nothing'"),
        ({"data": "digits", "num_batches": 0}, ArgumentError, "num_batches must be an integer of at least 1"),
        ({"data": "digits", "batch_size": 0}, ArgumentError, "must be at least 1"),
        ({"data": "cifar10", "roots": ["nowhere"]}, DataNotFoundError, "cifar-10-batches-bin"),
        ({"method": "l1", "device": "toaster"}, ArgumentError, "no device 'toaster'"),
    ],
)
def test_bad_requests_write_nothing(
    arguments: dict[str, Any],
    error: type[Exception],
    message: str,
    file: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from tailcut.data import roots

    monkeypatch.delenv("TAILCUT_DATA", raising=False)
    monkeypatch.setattr(roots, "cache_root", lambda: tmp_path / "cache")
    with pytest.raises(error) as caught:
        score_file(file, tmp_path / "out.json", **arguments)
    assert message in str(caught.value)
    assert not (tmp_path / "out.json").exists()


@pytest.mark.parametrize("files", [("nowhere/out.json", None), ("out.json", "nowhere/plot.png")])
def test_files_that_cannot_be_written_are_told_first(files: tuple[str, str | None], tmp_path: Path) -> None:
    out, plot = (None if name is None else tmp_path / name for name in files)
    with pytest.raises(ArgumentError, match=r"the folder .*nowhere does not exist"):
        score_file(tmp_path / "no network yet", out or "", method="l1", plot=plot)
