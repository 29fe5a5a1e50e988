from pathlib import Path

import pytest
import torch
from tests.format.conversion.published import NETWORKS, filled

from tailcut.errors import ArgumentError
from tailcut.format import inspect, load
from tailcut.structure import create_model
from tailcut.tasks.convert import convert_file
from tailcut.weights import kept_counts


def frereg_file(folder: Path) -> Path:
    """LeNet-5 as Frequency Regularization publishes networks: two sparse coefficients in each weight."""
    model = create_model("lenet5", bias=False)
    tensors = {}
    for name, parameter in model.named_parameters():
        coefficients = torch.zeros(parameter.shape)
        coefficients.view(-1)[:2] = 0.5
        tensors[name] = coefficients.to_sparse()
    torch.save(tensors, folder / "lenet.pt")
    return folder / "lenet.pt"


def test_coefficients_stay_coefficients(tmp_path: Path) -> None:
    out = tmp_path / "a.tailcut"
    report = convert_file(
        frereg_file(tmp_path), out, project="frereg", model="lenet5", arguments={"bias": False}, dtype="float16"
    )
    assert report.file_bytes == out.stat().st_size
    assert set(kept_counts(load(out)).values()) == {2}
    assert {entry.dtype for entry in inspect(out).tensors} == {"float16"}


def test_a_network_is_found_by_its_names(tmp_path: Path) -> None:
    network = NETWORKS["resnet56"]
    torch.save({"state_dict": filled(network.shapes(network.rates))}, tmp_path / "best.pth.tar")
    convert_file(tmp_path / "best.pth.tar", tmp_path / "a.tailcut", project="hrank")
    assert inspect(tmp_path / "a.tailcut").model == "resnet56"


def test_what_does_not_fit_the_project_is_refused(tmp_path: Path) -> None:
    source = frereg_file(tmp_path)
    with pytest.raises(ArgumentError, match="needs --model"):
        convert_file(source, tmp_path / "a.tailcut", project="frereg")
    with pytest.raises(ArgumentError, match="--statistics is for --from dctnet"):
        convert_file(source, tmp_path / "a.tailcut", project="frereg", model="lenet5", statistics="mean.py")
    assert not (tmp_path / "a.tailcut").exists()
