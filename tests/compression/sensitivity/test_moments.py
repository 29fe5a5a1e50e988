"""Second moments of the inputs of layers, against torch's own unfolding."""

from typing import Any

import pytest
import scipy.fft
import torch
from conformance.torch_networks import Conv1D
from torch import nn

from tailcut.compression.sensitivity import moments
from tailcut.compression.sensitivity.moments import input_blocks
from tailcut.model_inputs import loader_inputs
from tailcut.transform import dct


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


@pytest.mark.parametrize(
    "settings", [{}, {"stride": 2, "padding": 1}, {"dilation": 2}, {"padding": 2, "padding_mode": "reflect"}]
)
def test_moments_of_a_convolution(settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(moments, "POSITIONS", 10_000)  # all of them
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(2, 5, 3, bias=False, **settings)).eval()
    x = torch.randn(6, 2, 9, 8) + 1
    padded = x
    if "padding" in settings:
        pad = [settings["padding"]] * 4
        mode = "reflect" if "padding_mode" in settings else "constant"
        padded = nn.functional.pad(x, pad, mode=mode)
    columns = (
        nn.functional.unfold(padded, 3, stride=settings.get("stride", 1), dilation=settings.get("dilation", 1))
        .transpose(1, 2)
        .reshape(-1, 2, 3, 3)
    )
    rows = torch.from_numpy(scipy.fft.dctn(columns.double().numpy(), axes=(2, 3), norm="ortho")).flatten(1)
    wanted = rows.T @ rows / len(rows)
    wanted += moments.DAMPING * wanted.diagonal().mean() * torch.eye(18)
    (block,) = input_blocks(model, list(loader_inputs(x)), {"0.weight"}, generator())
    upper = block.upper.double()
    torch.testing.assert_close(torch.linalg.inv(upper.T @ upper), wanted, rtol=1e-3, atol=1e-4)


def test_moments_around_the_mean_where_a_bias_takes_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(moments, "POSITIONS", 10_000)
    model = nn.Sequential(nn.Linear(4, 3)).eval()
    x = torch.randn(500, 4) + 10
    (block,) = input_blocks(model, list(loader_inputs(x)), {"0.weight"}, generator())
    upper = block.upper.double()
    wanted = torch.cov(x.double().T, correction=0)
    wanted += moments.DAMPING * wanted.diagonal().mean() * torch.eye(4)
    torch.testing.assert_close(torch.linalg.inv(upper.T @ upper), wanted, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("bias", [True, False])
def test_inputs_that_vary_little_far_from_zero(bias: bool) -> None:
    """As the averages that squeeze-and-excitation reads: in float32 their squares have no room for the spread."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 3, bias=bias)).eval()
    x = 300 + torch.arange(6) + 0.01 * torch.randn(64, 6)
    (block,) = input_blocks(model, list(loader_inputs(x.split(8))), {"0.weight"}, generator())
    upper, rows = block.upper.double(), x.double()
    wanted = torch.cov(rows.T, correction=0) if bias else rows.T @ rows / len(rows)
    wanted += moments.DAMPING * wanted.diagonal().mean() * torch.eye(6)
    torch.testing.assert_close(upper, torch.linalg.cholesky(torch.linalg.inv(wanted), upper=True), rtol=1e-3, atol=1e-3)


def test_layers_without_a_block() -> None:
    turned = nn.ConvTranspose2d(4, 4, 3, padding=2, groups=2)
    model = nn.Sequential(turned, nn.Conv2d(4, 4, 1), nn.Flatten(), nn.Linear(36, 2)).eval()
    x = torch.randn(3, 4, 5, 5)
    names = [
        block.names for block in input_blocks(model, list(loader_inputs(x)), {"0.weight", "1.weight"}, generator())
    ]
    assert names == [("1.weight",)]  # not the transposed one in groups, nor one that is not stored whole
    assert not model[1]._forward_pre_hooks


@pytest.mark.parametrize("bias", [True, False])
def test_groups_of_a_convolution_have_the_moments_of_layers_of_their_own(bias: bool) -> None:
    torch.manual_seed(0)
    whole = nn.Conv2d(6, 9, 3, padding=1, groups=3, bias=bias)
    x = torch.randn(6, 6, 4, 4) * torch.tensor([1.0, 1, 5, 5, 0, 0]).reshape(6, 1, 1)  # of the third group nothing
    (block,) = input_blocks(nn.Sequential(whole).eval(), list(loader_inputs(x)), {"0.weight"}, generator())
    assert (block.length, block.upper.shape, block.curvature.shape) == (18, (3, 18, 18), (3, 18))
    parts = nn.Conv2d(2, 3, 3, padding=1, bias=bias)
    for group in range(2):
        own = list(loader_inputs(x[:, 2 * group : 2 * group + 2]))
        (one,) = input_blocks(nn.Sequential(parts).eval(), own, {"0.weight"}, generator())
        size = one.curvature.mean()
        torch.testing.assert_close(block.curvature[group], one.curvature / size)
        torch.testing.assert_close(block.upper[group], one.upper * float(size.sqrt()), rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(block.upper[2], torch.eye(18))
    torch.testing.assert_close(block.conditional, (block.upper.double().diagonal(dim1=1, dim2=2) ** -2).mean(0))


@pytest.mark.parametrize("padding", [(0, 2), (3, 0), "same", "valid"])
@pytest.mark.parametrize("mode", ["zeros", "reflect"])
def test_rows_are_what_the_weights_are_multiplied_with(
    padding: Any, mode: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(moments, "POSITIONS", 10_000)
    torch.manual_seed(0)
    layer = nn.Conv2d(2, 5, (3, 5), padding=padding, padding_mode=mode, bias=False)
    x = torch.randn(2, 2, 6, 8)
    rows = moments.input_rows(layer, x, 10_000, torch.Generator())
    assert rows is not None
    y = layer(x)
    found = (rows @ dct(layer.weight, (2, 3)).flatten(1).T).reshape(2, *y.shape[2:], 5).permute(0, 3, 1, 2)
    torch.testing.assert_close(found, y, rtol=1e-4, atol=1e-5)


def test_a_turned_weight_has_the_block_of_a_linear_layer() -> None:
    usual, turned = nn.Sequential(nn.Linear(4, 3)).eval(), nn.Sequential(Conv1D(3, 4)).eval()
    x = list(loader_inputs(torch.randn(50, 4)))
    (one,), (other,) = (input_blocks(model, x, {"0.weight"}, generator()) for model in (usual, turned))
    assert (one.is_turned, other.is_turned) == (False, True)
    assert torch.equal(one.upper, other.upper)


def test_a_transposed_convolution_has_the_block_of_its_input_s_channels() -> None:
    layers = nn.ConvTranspose2d(4, 3, 2, 2), nn.ConvTranspose2d(4, 4, 2, groups=2)
    x = torch.randn(5, 4, 3, 3)
    loader = list(loader_inputs(x))
    (found,) = input_blocks(nn.Sequential(layers[0]).eval(), loader, {"0.weight"}, generator())
    (same,) = input_blocks(nn.Sequential(nn.Conv2d(4, 7, 1)).eval(), loader, {"0.weight"}, generator())
    assert found.is_turned
    torch.testing.assert_close(found.upper, same.upper)
    assert list(input_blocks(nn.Sequential(layers[1]).eval(), loader, {"0.weight"}, generator())) == []
