import json
from pathlib import Path
from typing import Any

import onnx
import pytest
import safetensors
import safetensors.torch
import torch

from tailcut.errors import ArgumentError
from tailcut.format import load, save
from tailcut.structure import create_model, set_class_names
from tailcut.tasks.export import export_file, unpack
from tailcut.weights import regularize, to_dense


@pytest.mark.parametrize("to", ["safetensors", "torch"])
def test_dense_weights(to: Any, tmp_path: Path) -> None:
    out = tmp_path / "weights"
    export_file("zoo:lenet5-776", out, to=to)
    found = torch.load(out, weights_only=True) if to == "torch" else safetensors.torch.load_file(out)
    expected = to_dense(load("zoo:lenet5-776")).state_dict()
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], value) for name, value in expected.items())


def test_onnx_with_sizes_that_are_fixed(tmp_path: Path) -> None:
    for dynamic, batch in (("none", "1"), ("batch", "batch")):
        export_file("zoo:lenet5-776", tmp_path / "a.onnx", to="onnx", dynamic=dynamic)  # type: ignore[arg-type]
        (given,) = onnx.load(tmp_path / "a.onnx").graph.input
        size = given.type.tensor_type.shape.dim[0]
        assert (size.dim_param or str(size.dim_value)) == batch


def test_c_of_another_size(tmp_path: Path) -> None:
    export_file("zoo:unet-759-float16", tmp_path / "unet", to="c", image_size=(32, 48))
    assert "32" in (tmp_path / "unet" / "model.h").read_text()
    assert (tmp_path / "unet" / "model.c").is_file()


def test_a_page_says_the_bytes_of_its_level(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = create_model("lenet300")
    regularize(model, num_kept=64)
    save(model, tmp_path / "levels.tailcut", levels=(0.5,))
    reports = [
        export_file(tmp_path / "levels.tailcut", tmp_path / f"{level}.html", to="html", level=level) for level in (1, 2)
    ]
    pages = [(tmp_path / f"{level}.html").read_text() for level in (1, 2)]
    size = (tmp_path / "levels.tailcut").stat().st_size
    assert reports
    assert f"{size:,}" in pages[1]
    assert f"{size:,}" not in pages[0]


def test_a_level_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ArgumentError, match="level"):
        export_file("zoo:lenet5-776", tmp_path / "a.html", to="html", level=3)
    assert not list(tmp_path.iterdir())


def test_unpacked_weights_are_those_of_the_dense_network(tmp_path: Path) -> None:
    model = create_model("lenet5")
    regularize(model, num_kept=50)
    save(model, tmp_path / "a.tailcut")
    report = unpack(tmp_path / "a.tailcut", tmp_path / "dense.safetensors")
    tensors = safetensors.torch.load_file(tmp_path / "dense.safetensors")
    plain = create_model("lenet5")
    plain.load_state_dict(tensors)
    inputs = torch.rand(2, 1, 28, 28)
    assert torch.equal(plain(inputs), to_dense(model)(inputs))
    assert json.loads(report.to_json()) == {
        "source": str(tmp_path / "a.tailcut"),
        "out": str(tmp_path / "dense.safetensors"),
        "num_tensors": 8,
        "num_parameters": 431_080,
        "file_bytes": (tmp_path / "dense.safetensors").stat().st_size,
    }
    assert "431,080 numbers" in str(report)


def test_safetensors_say_the_names_of_the_classes(tmp_path: Path) -> None:
    model = create_model("lenet300")
    set_class_names(model, [f"digit {number}" for number in range(10)])
    save(model, tmp_path / "a.tailcut")
    unpack(tmp_path / "a.tailcut", tmp_path / "a.safetensors")
    with safetensors.safe_open(tmp_path / "a.safetensors", "pt") as file:
        assert json.loads(file.metadata()["class_names"]) == [f"digit {number}" for number in range(10)]
