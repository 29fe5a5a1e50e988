from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.format.conversion.published import NETWORKS, filled

from tailcut.format import inspect, load
from tailcut.structure import create_model
from tailcut.weights import kept_counts, truncated_tensors

Tailcut = Callable[..., Any]

FALSE = ("bias", "affine", "running_stats")


def published_file(folder: Path) -> Path:
    """A file like the published one, for a small UNet: sparse coefficients, a few in each weight."""
    model = create_model("unet", widths=(2, 4), bias=False, affine=False, running_stats=False)
    tensors = {}
    for name, parameter in model.named_parameters():
        coefficients = torch.zeros(parameter.shape)
        coefficients[(0,) * parameter.ndim] = 1.5
        tensors[name] = coefficients.to_sparse()
    torch.save(tensors, folder / "small.pt")
    return folder / "small.pt"


def test_a_published_file_is_converted(tailcut: Tailcut, tmp_path: Path) -> None:
    words = ["--from", "frereg", "--model", "unet", "--dtype", "float16", "-o", tmp_path / "unet.tailcut"]
    arguments = ["widths=[2, 4]", "bias=false", "affine=false", "running_stats=false"]
    for argument in arguments:
        words += ["--set-argument", argument]
    outcome = tailcut("convert", published_file(tmp_path), *words, "--json")
    assert outcome.code == 0, outcome.err
    assert outcome.json["file_bytes"] == (tmp_path / "unet.tailcut").stat().st_size
    model = load(tmp_path / "unet.tailcut")
    assert set(kept_counts(model).values()) == {1}
    assert truncated_tensors(model)[0].coefficients().item() == 1.5


def test_a_file_that_does_not_fit_fails(tailcut: Tailcut, tmp_path: Path) -> None:
    outcome = tailcut(
        "convert", published_file(tmp_path), "--from", "frereg", "--model", "unet", "-o", tmp_path / "a.tailcut"
    )
    assert outcome.code == 1
    assert not (tmp_path / "a.tailcut").exists()
    assert outcome.err.startswith("tailcut convert: error: ")


def test_the_name_of_a_project_is_no_file_that_is_read(
    tailcut: Tailcut, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An output may be named like the project, where it exists too."""
    published_file(tmp_path)
    monkeypatch.chdir(tmp_path)
    Path("frereg").touch()
    words = ["--set-argument", "widths=[2, 4]", *(f"--set-argument={name}=false" for name in FALSE)]
    outcome = tailcut("convert", "small.pt", "--from", "frereg", "--model", "unet", *words, "-o", "frereg")
    assert outcome.code == 0, outcome.err
    assert inspect("frereg").num_kept > 0


def test_the_published_network_takes_at_most_1600_bytes(tailcut: Tailcut, carvana_root: Path, tmp_path: Path) -> None:
    source = carvana_root / "carvana" / "published" / "unet_fr.tar.xz"
    out = tmp_path / "unet.tailcut"
    words = ["--from", "frereg", "--model", "unet", "-o", out, "--dtype", "float16", "--json"]
    outcome = tailcut("convert", source, *words)
    assert outcome.code == 0
    assert outcome.json["num_kept"] == 759
    assert out.stat().st_size <= 1600


def test_a_network_of_hrank(tailcut: Tailcut, tmp_path: Path) -> None:
    network = NETWORKS["resnet56"]
    torch.save({"state_dict": filled(network.shapes(network.rates))}, tmp_path / "model_best.pth.tar")
    out = tmp_path / "a.tailcut"
    outcome = tailcut("convert", tmp_path / "model_best.pth.tar", "--from", "cfdp", "-o", out, "--json")
    assert outcome.code == 0, outcome.err
    assert outcome.json["file_bytes"] == out.stat().st_size
    assert load(out)(torch.rand(1, 3, 32, 32)).shape == (1, 10)
    outcome = tailcut("convert", tmp_path / "model_best.pth.tar", "--from", "dctnet", "-o", out)
    assert outcome.code == 1
    assert (
        "is not laid out as the published code for any of mask_rcnn, faster_rcnn, resnet50, mobilenetv2" in outcome.err
    )


def test_frereg_needs_the_model(tailcut: Tailcut, tmp_path: Path) -> None:
    outcome = tailcut("convert", published_file(tmp_path), "--from", "frereg", "-o", tmp_path / "a.tailcut")
    assert outcome.code == 2
    assert "--from frereg needs --model" in outcome.err


def test_a_type_for_coefficients_that_are_none_is_told(tailcut: Tailcut, tmp_path: Path) -> None:
    network = NETWORKS["resnet56"]
    torch.save(filled(network.shapes(network.rates)), tmp_path / "a.pt")
    words = ["convert", tmp_path / "a.pt", "--from", "hrank", "-o", tmp_path / "a.tailcut"]
    expected = "and the network has none: --other-dtype float16 stores its weights so"
    assert expected in tailcut(*words, "--dtype", "float16").err
    assert expected not in tailcut(*words, "--other-dtype", "float16").err
    packed = ["pack", tmp_path / "a.tailcut", "-o", tmp_path / "b.tailcut"]
    assert expected in tailcut(*packed, "--dtype", "float16").err
    assert expected not in tailcut(*packed).err


def test_arguments_of_the_model_arrive(tailcut: Tailcut, tmp_path: Path) -> None:
    network = NETWORKS["resnet56"]
    torch.save({"state_dict": filled(network.shapes(network.rates))}, tmp_path / "model_best.pth.tar")
    words = ["convert", tmp_path / "model_best.pth.tar", "--from", "cfdp", "-o", tmp_path / "a.tailcut"]
    assert tailcut(*words, "--set-argument", "normalize=imagenet", "--other-dtype", "float16").code == 0
    report = inspect(tmp_path / "a.tailcut")
    assert report.arguments["normalize"] == "imagenet"
    assert {entry.dtype for entry in report.other_tensors if entry.kind == "parameter"} == {"float16"}
    refused = tailcut(*words, "--set-argument", "num_classes=7")
    assert (refused.code, "leave it out" in refused.err) == (2, True)


def test_statistics_of_dctnet_arrive(tailcut: Tailcut, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[Any] = []

    def convert(file: str, **settings: Any) -> Any:
        given.append((file, settings))
        return create_model("lenet5")

    monkeypatch.setattr("tailcut.format.conversion.dctnet.convert", convert)
    words = ["--statistics", "mean_std.py", "--set-argument", "channels=24", "-o", tmp_path / "a.tailcut"]
    assert tailcut("convert", "latest.pth", "--from", "dctnet", "--model", "mask_rcnn", *words).code == 0
    assert given == [("latest.pth", {"statistics": "mean_std.py", "model": "mask_rcnn", "arguments": {"channels": 24}})]
