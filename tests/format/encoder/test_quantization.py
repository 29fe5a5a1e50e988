"""The writer of quantised files: steps, sizes, transforms, error feedback."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import tailcut
from tailcut.errors import ArgumentError
from tailcut.format.container.streams import layout_of_other
from tailcut.format.encoder.quantization import _cheapest, completed, default_sensitivity
from tailcut.format.encoder.row_steps import rounded_with_feedback
from tailcut.format.encoder.sensitivity import Block, Sensitivity, block_of
from tailcut.format.network.tensors import NetworkTensors, current_tensors, network_tensors
from tailcut.format.quantized import dequantize
from tailcut.format.quantized.values import LOG2, NONE
from tailcut.structure import record_of


def truncated_resnet() -> nn.Module:
    torch.manual_seed(0)
    model = tailcut.create_model("resnet20", width=4)
    with torch.no_grad():
        for _ in range(3):
            model(torch.randn(16, 3, 32, 32))
    tailcut.regularize(model, keep_ratio=0.4)
    return model.eval()


def tensors_of(model: nn.Module) -> NetworkTensors:
    return network_tensors(model, [edit.current(model) for edit in record_of(model).edits])


def test_finer_steps_take_more_bytes_and_are_closer(tmp_path: Path) -> None:
    model, x = truncated_resnet(), torch.randn(8, 3, 32, 32)
    wanted = nn.utils.parameters_to_vector(model.parameters()).detach()
    sizes, errors, distances = [], [], []
    for step in (2.0, 0.5, 0.1, 0.02):
        sizes.append(tailcut.save(model, tmp_path / "a.tailcut", dtype="quantized", step=step).file_bytes)
        found = tailcut.load(tmp_path / "a.tailcut")
        errors.append(float((nn.utils.parameters_to_vector(found.parameters()).detach() - wanted).norm()))
        with torch.no_grad():
            distances.append(float((found(x) - model(x)).norm()))
    assert sizes == sorted(sizes)
    assert errors == sorted(errors, reverse=True)
    assert (distances[0], distances[-1]) == (max(distances), min(distances))
    exact = tailcut.save(model, tmp_path / "b.tailcut").file_bytes
    assert sizes[2] < exact / 4


@pytest.mark.parametrize("max_bytes", [1500, 2500, 5000])
def test_the_size_is_used_up_and_not_passed(max_bytes: int, tmp_path: Path) -> None:
    report = tailcut.save(truncated_resnet(), tmp_path / "a.tailcut", dtype="quantized", max_bytes=max_bytes)
    assert 0.9 * max_bytes < report.file_bytes == (tmp_path / "a.tailcut").stat().st_size <= max_bytes


def test_variances_stay_above_zero(tmp_path: Path) -> None:
    model = truncated_resnet()
    with torch.no_grad():
        model.get_buffer("bn1.running_var")[:2] = torch.tensor([0.0, 1e-9])
    tailcut.save(model, tmp_path / "a.tailcut", dtype="quantized", step=1.0)
    for name, value in tailcut.load(tmp_path / "a.tailcut").named_buffers():
        if name.endswith("running_var"):
            assert float(value.min()) > 0


def test_means_of_channels_without_variance_stay(tmp_path: Path) -> None:
    """A smooth vector of means is cheapest as its DCT, which would move channels whose weights are all 0."""
    norm = nn.BatchNorm2d(64)
    places = torch.arange(64)
    dead = places % 16 == 5
    means = 300 * torch.cos(torch.pi * (2 * places + 1) * 3 / 128)
    mean, variance = norm.get_buffer("running_mean"), norm.get_buffer("running_var")
    mean.copy_(torch.where(dead, torch.zeros(()), means))
    variance.copy_(torch.where(dead, torch.zeros(()), torch.tensor(3e4)))
    model, path = nn.Sequential(norm).eval(), tmp_path / "a.tailcut"
    sensitivity = Sensitivity({"0.running_mean": 1 / 8.0**2, "0.weight": 1e4, "0.bias": 1e4}, {"0.running_var": 1.0})
    tailcut.save(model, path, dtype="quantized", step=1.0, sensitivity=sensitivity)
    loaded = tailcut.load(path, into=nn.Sequential(nn.BatchNorm2d(64)))
    found = loaded.get_buffer("0.running_mean")
    assert bool((found[dead] == 0).all())
    assert float((found - mean).abs().max()) <= 4.1


def test_padding_stays_zero(tmp_path: Path) -> None:
    """Smooth rows are cheapest as their DCT, which would move the one row that is 0: every padded sequence reads it."""
    words = torch.linspace(0, 3, 128)[:, None] + torch.linspace(0, 3, 64)
    model = nn.Sequential(nn.Embedding(128, 64, padding_idx=5))
    weight = model.get_parameter("0.weight")
    for is_padded in (False, True):
        with torch.no_grad():
            weight.copy_(words.sin())
            weight[5] *= not is_padded
        tailcut.save(model, tmp_path / "a.tailcut", dtype="quantized", step=0.3, registered=False)
        (stored,) = tailcut.inspect(tmp_path / "a.tailcut").other_tensors
        assert (stored.transform == "dct") is not is_padded
    found = tailcut.load(tmp_path / "a.tailcut", into=nn.Sequential(nn.Embedding(128, 64))).get_parameter("0.weight")
    assert not bool(found[5].any())
    assert float((found - weight).detach().abs().max()) < 0.3


def test_statistics_behind_few_frequencies_take_few_numbers(tmp_path: Path) -> None:
    """The running mean behind a weight with K frequencies along its outputs has K: the rest is not stored."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 64, 3, bias=False), nn.BatchNorm2d(64))
    tailcut.regularize(model, num_kept=30)
    for _ in range(50):
        model(torch.randn(32, 3, 9, 9) + 1)
    tailcut.save(model, tmp_path / "a.tailcut", dtype="quantized", step=0.02, registered=False)
    stored = {entry.name: entry for entry in tailcut.inspect(tmp_path / "a.tailcut").other_tensors}
    assert stored["1.running_mean"].transform == "dct"
    assert 8 * stored["1.running_mean"].bytes < 3 * 64
    assert 8 * stored["1.weight"].bytes < 3 * 64  # all ones: an offset


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"step": 0.0}, "step must be a number above 0"),
        ({"step": "fine"}, "step must be a number above 0"),
        ({"step": True}, "step must be a number above 0"),
        ({"max_bytes": 0}, "max_bytes must be a whole number"),
        ({"max_bytes": 900.5}, "max_bytes must be a whole number"),
        ({"max_bytes": 60}, "cannot have 60 bytes: with all numbers rounded away it has"),
        ({"step": 0.1, "max_bytes": 900}, "exclude each other"),
        ({"sensitivity": {"conv1.weight": 1.0}}, "must be what tailcut.measure_sensitivity gives, got dict"),
        ({"sensitivity": Sensitivity({"other": 1.0}, {})}, "has no tensor of this network"),
        ({"step": 1e-30}, "too fine"),
    ],
)
def test_mistakes(settings: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(ArgumentError, match=message):
        tailcut.save(truncated_resnet(), tmp_path / "a.tailcut", dtype="quantized", **settings)
    assert not list(tmp_path.iterdir())


def test_sizes_are_for_quantised_files(tmp_path: Path) -> None:
    with pytest.raises(ArgumentError, match='are for dtype="quantized"'):
        tailcut.save(truncated_resnet(), tmp_path / "a.tailcut", dtype="float16", max_bytes=900)


def test_a_size_or_a_step_alone_says_quantized(tmp_path: Path) -> None:
    model = truncated_resnet()
    both: dict[str, dict[str, Any]] = {"size": {"max_bytes": 2500}, "step": {"step": 0.1}}
    for name, settings in both.items():
        tailcut.save(model, tmp_path / "alone", **settings)
        tailcut.save(model, tmp_path / name, dtype="quantized", **settings)
        assert (tmp_path / "alone").read_bytes() == (tmp_path / name).read_bytes()


def test_numbers_that_are_not_finite(tmp_path: Path) -> None:
    model = truncated_resnet()
    with torch.no_grad():
        next(entry.parameter for entry in tensors_of(model).coefficients)[0] = float("nan")
    with pytest.raises(ArgumentError, match=r"conv1\.weight has numbers that are not finite"):
        tailcut.save(model, tmp_path / "a.tailcut", dtype="quantized")


def test_what_was_not_measured_counts_as_the_middle_one() -> None:
    tensors = tensors_of(truncated_resnet())
    usual = default_sensitivity(tensors)
    names = list(usual.curvature)[:3]
    measured = {name: usual.curvature[name] * factor for name, factor in zip(names, (3.0, 5.0, 100.0), strict=True)}
    found = completed(Sensitivity({**measured, names[0]: 0.0, "none of it": 1.0}, {}), tensors)
    assert found.curvature[names[1]] == measured[names[1]]
    assert found.curvature[names[0]] == pytest.approx(100 * usual.curvature[names[0]])


@pytest.mark.parametrize("rows", [1, 6])
def test_feedback_spoils_less_than_rounding_to_the_nearest(rows: int) -> None:
    generator = torch.Generator().manual_seed(0)
    # Inputs of which each resembles the next.
    inputs = torch.randn(4000, 150, generator=generator, dtype=torch.float64).cumsum(1)
    curvature = inputs.T @ inputs / 4000
    values = {"weight": torch.randn(rows * 150, generator=generator, dtype=torch.float64)}
    block = block_of(("weight",), curvature + 0.01 * curvature.diagonal().mean() * torch.eye(150, dtype=torch.float64))
    ones = torch.ones(len(values["weight"]), dtype=torch.float64)
    found = rounded_with_feedback(block, values, {"weight": ones})["weight"]
    assert torch.equal(found, found.round())

    def loss(rounded: torch.Tensor) -> float:
        error = (rounded - values["weight"]).reshape(rows, 150)
        return float((error @ curvature * error).sum())

    assert loss(found) < 0.3 * loss(values["weight"].round())


def test_feedback_by_hand() -> None:
    """Two numbers that only count together: the second makes good the error of the first."""
    upper = torch.tensor([[1.0, -1.0], [0.0, 0.1]])
    values = {"a": torch.tensor([0.4], dtype=torch.float64), "b": torch.tensor([0.4], dtype=torch.float64)}
    one = torch.ones(1, dtype=torch.float64)
    found = rounded_with_feedback(Block(("a", "b"), upper, torch.ones(2)), values, {"a": one, "b": one})
    assert (found["a"].tolist(), found["b"].tolist()) == ([0.0], [1.0])


def test_a_block_of_another_size(tmp_path: Path) -> None:
    model = truncated_resnet()
    sensitivity = default_sensitivity(tensors_of(model))
    block = Block(("conv1.weight",), torch.eye(7), torch.ones(7))
    with pytest.raises(ArgumentError, match=r"measured for 7 numbers of conv1\.weight"):
        tailcut.save(
            model, tmp_path / "a.tailcut", dtype="quantized", sensitivity=replace(sensitivity, blocks=(block,))
        )


def test_rounding_is_the_same_every_time(tmp_path: Path) -> None:
    model = truncated_resnet()
    for name in ("a", "b"):
        tailcut.save(model, tmp_path / name, dtype="quantized", max_bytes=3000)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    again = tailcut.load(tmp_path / "a")
    with torch.no_grad():
        assert np.isfinite(again(torch.zeros(1, 3, 32, 32)).numpy()).all()


def test_upper_factor_of_the_inverse() -> None:
    half = torch.randn(12, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    curvature = half.T @ half + torch.eye(5, dtype=torch.float64)
    upper = block_of(("weight",), curvature).upper.double().numpy()
    assert np.array_equal(upper, np.triu(upper))
    np.testing.assert_allclose(upper.T @ upper, np.linalg.inv(curvature.numpy()), rtol=1e-5, atol=1e-7)


def test_rows_that_are_smooth_are_rounded_in_their_dct(tmp_path: Path) -> None:
    """As of a layer that reads images: at the same error they take fewer bytes; others are left alone."""
    torch.manual_seed(0)
    noise = torch.randn(64, 400)
    smooth = noise.cumsum(1)
    found = {}
    for name, weight in {"noise": noise, "smooth": smooth, "long": torch.randn(8, 5000).cumsum(1)}.items():
        model = nn.Linear(weight.shape[1], len(weight), bias=False)
        model.weight.data.copy_(weight / weight.square().mean().sqrt())
        path = tmp_path / f"{name}.tailcut"
        tailcut.save(model, path, step=0.5)
        loaded = tailcut.load(path, into=nn.Linear(weight.shape[1], len(weight), bias=False))
        (tensor,) = tailcut.inspect(path).other_tensors
        error = float((loaded.weight - model.weight).detach().square().mean().sqrt())
        found[name] = (tensor.transform, 8 * path.stat().st_size / weight.numel(), error)
    assert [found[name][0] for name in ("noise", "smooth", "long")] == ["none", "dct", "none"]
    assert found["smooth"][1] < 0.5 * found["noise"][1]
    assert found["smooth"][2] < 1.05 * found["noise"][2]


def test_a_network_of_zeros_fits_any_sensitivity(tmp_path: Path) -> None:
    model = nn.Linear(4, 4, bias=False)
    nn.init.zeros_(model.weight)
    tailcut.save(model, tmp_path / "a.tailcut", dtype="quantized", sensitivity=Sensitivity({"weight": 0.0}, {}))
    assert not bool(tailcut.load(tmp_path / "a.tailcut", into=nn.Linear(4, 4, bias=False)).weight.any())


def test_of_two_transforms_that_is_taken_which_takes_fewer_bytes(tmp_path: Path) -> None:
    """Numbers of a uniform distribution, as layers begin with, take fewer bits than their DCT, which is normal."""
    torch.manual_seed(0)
    model = nn.Linear(512, 256, bias=False)
    path = tmp_path / "a.tailcut"
    for step in (0.05, 0.5, 1.0):
        tailcut.save(model, path, step=step)
        (tensor,) = tailcut.inspect(path).other_tensors
        assert tensor.transform == "none"
    # Rows of sizes that differ a thousandfold, and columns likewise, are no reason either.
    model.weight.data *= torch.logspace(-3, 0, 256)[:, None] * torch.logspace(0, -3, 512)
    tailcut.save(model, path, step=0.1)
    (tensor,) = tailcut.inspect(path).other_tensors
    assert tensor.transform == "none"


@pytest.mark.parametrize("name", ["zoo:lenet5-776", "dense"])
def test_the_exact_file_is_taken_where_it_has_no_more_bytes_than_are_allowed(name: str, tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(20, 30), nn.ReLU(), nn.Linear(30, 4)) if name == "dense" else tailcut.load(name)
    exact, path = tailcut.save(model, tmp_path / "exact.tailcut"), tmp_path / "a.tailcut"
    content = (tmp_path / "exact.tailcut").read_bytes()
    batches = [torch.rand(8, 20)] if name == "dense" else [torch.rand(8, 1, 28, 28)]
    for max_bytes in (exact.file_bytes, 10**6):
        tailcut.save(model, path, max_bytes=max_bytes)
        assert path.read_bytes() == content
        report = tailcut.compress(model, path, batches, max_bytes=max_bytes, num_gradients=2)
        assert path.read_bytes() == content
        assert report.step == 0
    assert tailcut.save(model, path, max_bytes=exact.file_bytes - 1).file_bytes < exact.file_bytes
    assert path.read_bytes() != content


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_the_exact_file_of_coefficients_of_16_bits_has_these(dtype: torch.dtype, tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
    tailcut.regularize(model, keep_ratio=0.5, warn=False)
    model.to(dtype)
    exact = tailcut.save(model, tmp_path / "exact.tailcut", dtype=dtype)
    tailcut.save(model, tmp_path / "a.tailcut", max_bytes=exact.file_bytes)
    assert (tmp_path / "a.tailcut").read_bytes() == (tmp_path / "exact.tailcut").read_bytes()


def test_running_variances_stay_above_zero() -> None:
    values = torch.tensor([1e-3] * 30 + [4.0, 9.0])
    layout = layout_of_other("n.running_var", (32,), is_integer=False)
    made = _cheapest(values, layout, [(LOG2, 0.5), (NONE, 1.0)], None)
    assert bool((dequantize(made, layout) > 0).all())


def test_zeros_of_a_pruned_weight_do_not_make_its_step_finer() -> None:
    """They are rounded to 0, without an error: the noise of the others is what counts, in proportion to them."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(40, 40), nn.Linear(40, 40))
    dense = default_sensitivity(current_tensors(model)).curvature["0.weight"]
    with torch.no_grad():
        model[0].get_parameter("weight").mul_(torch.rand(40, 40) < 0.1)
    pruned = default_sensitivity(current_tensors(model)).curvature["0.weight"]
    assert pruned == pytest.approx(dense, rel=0.2)


def test_a_weight_of_zeros_has_no_shifts(tmp_path: Path) -> None:
    """Whatever its rows matter: where all is rounded away, the steps are not worth their bits."""
    model = nn.Embedding(400, 8)
    rows = {"weight": torch.logspace(0, 4, 400, dtype=torch.float64)}
    known = Sensitivity({"weight": 1.0}, {}, rows=rows)
    sizes = {}
    for name, step in (("coarse", 1e6), ("fine", 0.1)):
        tailcut.save(model, tmp_path / name, dtype="quantized", step=step, sensitivity=known, registered=False)
        (tensor,) = tailcut.inspect(tmp_path / name).other_tensors
        sizes[name] = tensor.bytes
    assert sizes["coarse"] < 8
    assert sizes["fine"] > 400


def test_rows_that_matter_differently_are_worth_more_than_a_dct(tmp_path: Path) -> None:
    """A DCT spreads the noise over all rows alike, which their steps would not."""
    torch.manual_seed(0)
    model = nn.Embedding(64, 64)
    places = torch.arange(64.0)
    with torch.no_grad():
        model.weight.mul_(0.4).add_(torch.cos(places / 9)[:, None] * torch.cos(places / 7))
    rows = {"weight": torch.logspace(0, 12, 64, 2.0, dtype=torch.float64)}
    found = {}
    for name, known in (("plain", {}), ("rows", rows)):
        sensitivity = Sensitivity({"weight": 1.0}, {}, rows=known)
        tailcut.save(model, tmp_path / name, dtype="quantized", step=0.3, sensitivity=sensitivity, registered=False)
        (tensor,) = tailcut.inspect(tmp_path / name).other_tensors
        found[name] = (tensor.transform, tensor.bytes)
    assert found["plain"][0] == "dct"
    assert found["rows"][0] != "dct"
    assert found["rows"][1] < 0.9 * found["plain"][1]


@pytest.mark.parametrize(
    "make",
    [
        lambda model, path: tailcut.save(model, path, max_bytes=500, registered=False),
        lambda model, path: tailcut.compress(model, path, [torch.rand(16, 8)], max_bytes=500),
        lambda model, _: tailcut.RateLoss(model, target_bytes=500, num_steps=10),
    ],
    ids=["save", "compress", "train"],
)
def test_a_file_that_cannot_be_so_small_names_what_stays_exact(
    make: Callable[[nn.Module, Path], Any], tmp_path: Path
) -> None:
    torch.manual_seed(0)
    model = nn.Linear(8, 3)
    model.register_buffer("mask", torch.rand(40, 40))
    model.register_buffer("count", torch.zeros(2))
    with pytest.raises(ArgumentError, match=r"and what stays exact: mask \(1,600 numbers\)$"):
        make(model, tmp_path / "a.tailcut")
