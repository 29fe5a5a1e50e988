import json
import math
from pathlib import Path

import pytest
import torch
from torch import nn

from tailcut.errors import ArgumentError, FormatError
from tailcut.format import load, resolve, save
from tailcut.reports.comparison import ComparisonReport, compare, largest_difference
from tailcut.reports.networks import example_input
from tailcut.structure import create_model, register_model
from tailcut.weights import regularize, to_dense


@pytest.fixture(scope="module")
def zoo() -> ComparisonReport:
    return compare("zoo:lenet5-776", "zoo:lenet5-7668")


def test_networks_are_told_side_by_side(zoo: ComparisonReport) -> None:
    first, second = zoo.networks
    assert (first.source, second.source) == ("zoo:lenet5-776", "zoo:lenet5-7668")
    assert (first.num_kept, second.num_kept) == (776, 7668)
    assert first.num_parameters == second.num_parameters == 430_500
    assert first.edits == second.edits == ("regularize",)
    assert first.dtypes == ("float16",)
    assert first.arguments == {"bias": False, "convolutional": True, "conv_relu": True}


def test_weights_are_compared_number_by_number(zoo: ComparisonReport) -> None:
    one, other = (to_dense(load(name)).state_dict() for name in ("zoo:lenet5-776", "zoo:lenet5-7668"))
    assert zoo.same_structure
    assert [tensor.name for tensor in zoo.tensors] == list(one)
    for tensor in zoo.tensors:
        difference = (one[tensor.name] - other[tensor.name]).abs().max()
        assert tensor.shape == (tuple(one[tensor.name].shape),) * 2
        assert tensor.largest_difference == pytest.approx(float(difference), rel=1e-6)
        assert tensor.relative_difference == pytest.approx(float(difference / one[tensor.name].abs().max()), rel=1e-6)
    sizes = [tensor.bytes[0] for tensor in zoo.tensors]
    assert sum(size for size in sizes if size) < zoo.networks[0].file_bytes


def test_corners_and_counts_are_given(zoo: ComparisonReport) -> None:
    by_name = {tensor.name: tensor for tensor in zoo.tensors}
    assert by_name["conv2.weight"].corner == ((11, 12, 4, 4), (25, 20, 5, 5))
    assert by_name["fc1.weight"].num_kept == (280, 3668)


def test_outputs_are_those_of_one_input(zoo: ComparisonReport) -> None:
    models = [load(name) for name in ("zoo:lenet5-776", "zoo:lenet5-7668")]
    example = example_input(models[0])
    assert example is not None
    with torch.no_grad():
        one, other = (model(example) for model in models)
    assert zoo.outputs is not None
    assert zoo.outputs.input_shape == (1, 1, 28, 28)
    assert zoo.outputs.largest_difference == pytest.approx(float((one - other).abs().max()), rel=1e-4)
    assert zoo.outputs.relative_difference == pytest.approx(
        float((one - other).abs().max() / one.abs().max()), rel=1e-4
    )


def test_people_and_machines_get_the_same(zoo: ComparisonReport) -> None:
    text = str(zoo)
    assert "structure: the same" in text
    assert "11 x 12 x 4 x 4 | 25 x 20 x 5 x 5" in text
    assert "120 | 500" in text
    values = json.loads(zoo.to_json())
    assert values["tensors"][0]["num_kept"] == [120, 500]
    assert values["why_not"] == []


def test_a_network_equals_itself() -> None:
    report = compare("zoo:lenet300-2816", "zoo:lenet300-2816")
    assert report.same_structure
    assert {tensor.largest_difference for tensor in report.tensors} == {0.0}
    assert report.outputs is not None
    assert report.outputs.largest_difference == 0


def test_different_structures_are_compared_as_far_as_they_can_be() -> None:
    report = compare("zoo:lenet5-776", "zoo:lenet5-ref")
    assert not report.same_structure
    by_name = {tensor.name: tensor for tensor in report.tensors}
    assert by_name["conv1.weight"].largest_difference is not None
    assert by_name["fc1.weight"].shape == ((500, 50, 4, 4), (500, 800))
    assert by_name["fc1.weight"].largest_difference is None
    assert by_name["conv1.bias"].shape == (None, (20,))
    assert by_name["conv1.bias"].bytes[0] is None
    assert report.outputs is not None
    assert "structure: different" in str(report)


def test_other_inputs_and_outputs_are_named(tmp_path: Path) -> None:
    save(create_model("lenet5"), tmp_path / "lenet.tailcut")
    save(create_model("dcgan_generator", width=2), tmp_path / "generator.tailcut")
    save(create_model("vae", hidden=4), tmp_path / "vae.tailcut")
    report = compare(tmp_path / "lenet.tailcut", tmp_path / "generator.tailcut")
    assert report.outputs is None
    assert report.why_not == (
        "outputs are not compared: the networks take different inputs, 1 x 1 x 28 x 28 and 1 x 100",
    )
    report = compare(tmp_path / "lenet.tailcut", tmp_path / "vae.tailcut")
    assert report.outputs is None
    assert "the outputs have different shapes" in report.why_not[0]


def test_own_classes_are_compared_by_their_files(tmp_path: Path) -> None:
    torch.manual_seed(0)
    for name, num_kept in (("a", 5), ("b", 9)):
        model = nn.Sequential(nn.Linear(8, 8))
        regularize(model, num_kept=num_kept)
        save(model, tmp_path / f"{name}.tailcut")
    report = compare(tmp_path / "a.tailcut", tmp_path / "b.tailcut")
    assert report.same_structure
    weight = next(tensor for tensor in report.tensors if tensor.name == "0.weight")
    assert weight.num_kept == (5, 9)
    assert weight.corner == ((2, 3), (3, 4))
    assert (weight.largest_difference, report.outputs) == (None, None)
    assert len(report.why_not) == 2
    assert "own class" in report.why_not[0]


def test_a_network_of_zeros_has_no_relative_difference(tmp_path: Path) -> None:
    model = create_model("lenet300", bias=False, convolutional=True)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    save(model, tmp_path / "zeros.tailcut")
    report = compare(tmp_path / "zeros.tailcut", "zoo:lenet300-2816")
    assert {tensor.relative_difference for tensor in report.tensors} == {None}
    weights = [tensor for tensor in report.tensors if None not in tensor.shape]
    assert len(weights) == 3
    assert all(tensor.largest_difference for tensor in weights)
    assert "|" in str(report)


def test_a_run_folder_is_its_packed_network(run_folder: Path) -> None:
    report = compare(run_folder, run_folder / "model.tailcut")
    assert report.networks[0].num_kept == 600
    assert {tensor.largest_difference for tensor in report.tensors} == {0.0}


def test_an_unfinished_run_cannot_be_compared(run_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "recipe.toml").write_bytes((run_folder / "recipe.toml").read_bytes())
    with pytest.raises(ArgumentError, match="not finished"):
        compare(tmp_path, "zoo:lenet5-776")


def test_a_damaged_network_of_a_run_is_refused(tmp_path: Path) -> None:
    (tmp_path / "recipe.toml").write_text("")
    (tmp_path / "model.tailcut").write_bytes(resolve("zoo:lenet5-776").read_bytes()[:-20])
    with pytest.raises(FormatError, match=r"model\.tailcut"):
        compare(tmp_path, "zoo:lenet5-776")


def test_a_difference_is_the_largest_of_all_tensors_and_none_if_one_is_not_finite() -> None:
    ones, empty = torch.ones(2), torch.ones(0)
    assert largest_difference([ones, ones, empty], [ones + 1, ones - 3, empty]) == 3
    assert largest_difference([empty], [empty]) == 0
    for value in (math.nan, math.inf):
        assert largest_difference([ones, ones], [ones + 1, ones * value]) is None


def test_whatever_a_network_raises_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError

    monkeypatch.setattr(type(load("zoo:lenet300-2816")), "forward", refuse)
    report = compare("zoo:lenet300-2816", "zoo:lenet300-4238")
    assert report.outputs is None
    assert report.why_not == (
        "outputs are not compared: zoo:lenet300-2816 does not take its example input: AssertionError",
    )


@register_model("gives_little", example_shape=(1, 4))
class Empty(nn.Module):
    """Gives nothing, or zeros alone."""

    def __init__(self, *, count: int = 0) -> None:
        super().__init__()
        self.layer, self.count = nn.Linear(4, 4), count

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(batch, count)."""
        zeros: torch.Tensor = 0 * self.layer(x)[:, : self.count]
        return zeros


@pytest.mark.parametrize("count", [0, 2])
def test_outputs_without_numbers_are_not_called_the_same(count: int, tmp_path: Path) -> None:
    for name in ("a", "b"):
        save(create_model("gives_little", count=count), tmp_path / f"{name}.tailcut")
    report = compare(tmp_path / "a.tailcut", tmp_path / "b.tailcut")
    if count:
        assert "largest difference 0" in str(report)
        assert "relative " not in str(report).splitlines()[-1]
    else:
        assert report.outputs is None
        assert "both networks give nothing for a random input" in str(report)
