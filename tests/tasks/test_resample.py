from pathlib import Path
from typing import Any

import pytest
import torch
from tests.format.networks import BARE_UNET, OwnNet, regularized

from tailcut.channels import prune
from tailcut.errors import ArgumentError, StructureError
from tailcut.format import inspect, load, save
from tailcut.structure import create_model, record_of
from tailcut.tasks.resample import resample_file
from tailcut.weights import regularize


def test_the_file_holds_the_other_network(tmp_path: Path) -> None:
    save(regularized("unet", num_kept=12, arguments={"widths": (16, 32), **BARE_UNET}), tmp_path / "a.tailcut")
    report = resample_file(tmp_path / "a.tailcut", tmp_path / "b.tailcut", {"widths": (8, 16)})
    base = record_of(load(tmp_path / "b.tailcut")).base
    assert base is not None
    assert base.arguments == {"widths": (8, 16), **BARE_UNET}
    assert report.num_parameters_before == inspect(tmp_path / "a.tailcut").num_parameters
    assert report.num_parameters_after == inspect(tmp_path / "b.tailcut").num_parameters
    assert [tensor.num_after for tensor in report.resampling.tensors] == [12] * len(report.resampling.tensors)


def test_only_regularised_networks(tmp_path: Path) -> None:
    file, out = tmp_path / "a.tailcut", tmp_path / "b.tailcut"
    save(create_model("resnet20"), file)
    with pytest.raises(StructureError, match="nothing to resample: only truncated weights"):
        resample_file(file, out, {"num_classes": 10})
    model = create_model("lenet5", conv_relu=True)
    prune(model, torch.zeros(1, 1, 28, 28), {"conv1": torch.arange(20.0)}, 0.5)
    regularize(model, num_kept=9)
    save(model, file)
    with pytest.raises(StructureError, match="only regularised networks can be resampled; this one has prune"):
        resample_file(file, out, {"conv_relu": True})
    assert not out.exists()


def test_own_classes_are_sent_to_python(tmp_path: Path) -> None:
    model = OwnNet()
    regularize(model, num_kept=5)
    save(model, tmp_path / "a.tailcut", registered=False)
    with pytest.raises((StructureError, ArgumentError)):
        resample_file(tmp_path / "a.tailcut", tmp_path / "b.tailcut", {})


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (
            {"num_classes": 3},
            StructureError,
            r"from \(1, 3, 4, 4\) to \(1, 2, 4, 4\), with these arguments from .* to \(1, 3, 4, 4\)",
        ),
        ({"in_channels": 1}, StructureError, r"from \(1, 3, 4, 4\) to .* from \(1, 1, 4, 4\)"),
        ({"bilinear": False}, ArgumentError, "no weight of unet changes its shape with bilinear"),
        ({"depth": 3}, ArgumentError, "has no argument 'depth'"),
    ],
)
def test_arguments_that_are_not_channels(
    arguments: dict[str, Any], error: type[Exception], message: str, tmp_path: Path
) -> None:
    model = regularized("unet", num_kept=12, arguments={"widths": (16, 32), **BARE_UNET})
    save(model, tmp_path / "a.tailcut")
    with pytest.raises(error, match=message):
        resample_file(tmp_path / "a.tailcut", tmp_path / "b.tailcut", arguments)
    assert not (tmp_path / "b.tailcut").exists()


def test_networks_with_several_outputs(tmp_path: Path) -> None:
    save(regularized("vae", num_kept=12), tmp_path / "a.tailcut")
    report = resample_file(tmp_path / "a.tailcut", tmp_path / "b.tailcut", {"hidden": 100})
    assert report.num_parameters_after < report.num_parameters_before
