from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.fft import dct, idct
from torch import nn

import tailcut
from tailcut.errors import ArgumentError, StructureError
from tailcut.weights import initialize_norms, kept_counts, norm_counts, regularize, truncate_norms


def network(channels: int = 24) -> nn.Sequential:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, channels, 3),
        nn.BatchNorm2d(channels),
        nn.ReLU(),
        nn.Conv2d(channels, 4, 1),
        nn.BatchNorm2d(4),
        nn.GroupNorm(1, 4),
    )
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_()
        model[1].get_buffer("running_var").uniform_(0.5, 2)
    return model.eval()


def norm(model: nn.Sequential, place: int) -> nn.BatchNorm2d:
    module = model[place]
    assert isinstance(module, nn.BatchNorm2d)
    return module


def smoothed(values: torch.Tensor, num_kept: int) -> np.ndarray:
    """The nearest vector with so many DCT coefficients, by SciPy."""
    spectrum = dct(values.detach().numpy(), norm="ortho")
    spectrum[num_kept:] = 0
    return np.asarray(idct(spectrum, norm="ortho"))


@pytest.mark.parametrize("truncated_first", [True, False])
def test_gains_and_shifts_become_the_first_coefficients(truncated_first: bool, tmp_path: Path) -> None:
    model = network()
    if truncated_first:
        regularize(model, num_kept={"0.weight": 50}, warn=False)
    gains, shifts = smoothed(norm(model, 1).weight, 5), smoothed(norm(model, 1).bias, 5)
    assert truncate_norms(model, 5) == ["1.weight", "1.bias"]  # the others have no more than 5
    np.testing.assert_allclose(norm(model, 1).weight.detach().numpy(), gains, atol=1e-5)
    np.testing.assert_allclose(norm(model, 1).bias.detach().numpy(), shifts, atol=1e-5)
    assert norm_counts(model) == {"1.weight": 5, "1.bias": 5}
    weights = {"0.weight": 50} if truncated_first else {}
    assert kept_counts(model) == weights | norm_counts(model)

    inputs = torch.randn(2, 3, 9, 9)
    expected = model(inputs)
    tailcut.save(model, tmp_path / "a.tailcut")
    again = tailcut.load(tmp_path / "a.tailcut", into=network())
    assert torch.equal(again(inputs), expected)
    torch.testing.assert_close(tailcut.to_dense(model)(inputs), expected)
    torch.testing.assert_close(tailcut.fuse(model)(inputs), expected, atol=1e-4, rtol=1e-4)


def test_one_coefficient_is_one_number_for_all_channels() -> None:
    model = network()
    means = [float(part.detach().mean()) for part in (norm(model, 1).weight, norm(model, 1).bias)]
    truncate_norms(model, 1)
    for part, mean in zip((norm(model, 1).weight, norm(model, 1).bias), means, strict=True):
        torch.testing.assert_close(part, torch.full((24,), mean))


def test_none_are_ones_and_zeros_that_are_not_trained() -> None:
    model = network()
    assert truncate_norms(model, 0) == ["1.weight", "1.bias", "4.weight", "4.bias"]
    assert torch.equal(norm(model, 1).weight, torch.ones(24))
    assert torch.equal(norm(model, 4).bias, torch.zeros(4))
    assert not any(part.requires_grad for place in (1, 4) for part in model[place].parameters())
    assert all(part.requires_grad for part in model[5].parameters())  # no batch norm
    assert norm_counts(model) == {}


def test_a_network_trains_with_them() -> None:
    model = network().train()
    truncate_norms(model, 5)
    before = {name: vector.detach().clone() for name, vector in model.named_parameters()}
    model(torch.randn(8, 3, 9, 9)).square().mean().backward()
    torch.optim.SGD(model.parameters(), lr=0.1).step()
    changed = {name for name, vector in model.named_parameters() if not torch.equal(vector, before[name])}
    assert {"1.parametrizations.weight.original", "1.parametrizations.bias.original"} <= changed


def test_inspect_counts_them_apart(tmp_path: Path) -> None:
    model = tailcut.load("zoo:resnet18-2688")
    tailcut.save(model, tmp_path / "whole.tailcut", dtype="quantized", step=0.1)
    truncate_norms(model, 16)
    tailcut.save(model, tmp_path / "a.tailcut", dtype="quantized", step=0.1)
    whole, report = tailcut.inspect(tmp_path / "whole.tailcut"), tailcut.inspect(tmp_path / "a.tailcut")
    assert (whole.num_kept, whole.num_kept_norms) == (2688, 0)
    assert (report.num_kept, report.num_kept_norms) == (2688 + 40 * 16, 40 * 16)
    assert "of these         640 for gains and shifts of batch norm" in str(report)
    assert report.bytes_by_kind["coefficients"] == pytest.approx(whole.bytes_by_kind["coefficients"], rel=0.02)
    assert report.bytes_by_kind["batch norm"] < whole.bytes_by_kind["batch norm"] / 3
    assert sum(report.bytes_by_kind.values()) == report.file_bytes


@pytest.mark.parametrize("num_kept", [-1, True, 2.0, None])
def test_wrong_counts_are_refused(num_kept: object) -> None:
    model = network()
    with pytest.raises(ArgumentError, match="whole number from 0"):
        truncate_norms(model, num_kept)  # type: ignore[arg-type]


def test_networks_without_or_with_them_already_are_refused() -> None:
    with pytest.raises(StructureError, match="has none"):
        truncate_norms(nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3, affine=False)), 2)
    model = network()
    truncate_norms(model, 5)
    with pytest.raises(StructureError, match="already"):
        truncate_norms(model, 3)


def test_norms_without_numbers_yet_are_left_out() -> None:
    model = nn.Sequential(network(), nn.LazyBatchNorm2d())
    assert truncate_norms(model, 4) == ["0.1.weight", "0.1.bias"]


def test_norms_without_numbers_yet_do_not_stop_the_others_halfway() -> None:
    model = nn.Sequential(network(), nn.LazyBatchNorm2d())
    before = norm(model[0], 1).weight.clone()  # type: ignore[arg-type]
    with pytest.raises(StructureError, match=r"1\.(weight|bias) cannot be fixed: "):
        truncate_norms(model, 0)
    assert torch.equal(norm(model[0], 1).weight, before)  # type: ignore[arg-type]
    assert norm(model[0], 1).weight.requires_grad  # type: ignore[arg-type]


def test_a_fused_network_is_seen_through() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8))
    fused = tailcut.fuse(model)
    assert initialize_norms(fused) == ["1"]
    assert truncate_norms(fused, 2) == ["1.weight", "1.bias"]
    assert norm_counts(fused) == norm_counts(model) == {"1.weight": 2, "1.bias": 2}
    with pytest.raises(StructureError, match="are coefficients already"):
        truncate_norms(fused, 2)
