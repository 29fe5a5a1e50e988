"""Weights as rows that are multiplied with what a layer reads, against the layers themselves."""

import warnings
from collections.abc import Callable

import pytest
import torch
from conformance.torch_networks import Conv1D
from torch import Tensor, nn
from torch.nn import utils
from torch.nn.utils import parametrizations, parametrize

from tailcut.compression.layer_inputs.multiplications import multiplications
from tailcut.compression.layer_inputs.weight_inputs import listening_before


def test_rows_of_gpt_2_s_linear_layer_are_its_columns() -> None:
    model = nn.Sequential(Conv1D(3, 2), nn.Linear(3, 4))
    turned, usual = multiplications(model).values()
    assert (turned.is_turned, usual.is_turned) == (True, False)
    assert (turned.is_plain, usual.is_plain) == (True, True)
    assert (turned.rows.shape, usual.rows.shape) == ((3, 2), (4, 3))
    turned.set_rows(torch.arange(6.0).reshape(3, 2))
    assert model[0].get_parameter("weight").tolist() == [[0, 2, 4], [1, 3, 5]]
    seen: list[str] = []
    with listening_before(model, {"0.weight", "1.weight"}, lambda name, x: seen.append(f"{name} {tuple(x.shape)}")):
        model(torch.rand(5, 2))
    assert seen == ["0.weight (5, 2)", "1.weight (5, 3)"]


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_each_place_of_a_transposed_kernel_has_rows_of_its_own(memory_format: torch.memory_format) -> None:
    layer = nn.ConvTranspose2d(5, 3, 2, 2, bias=False).to(memory_format=memory_format)  # type: ignore[call-overload]
    (found,) = multiplications(nn.Sequential(layer)).values()
    assert (found.is_turned, found.is_plain, found.groups, found.convolution) == (True, True, 1, None)
    x = torch.rand(4, 5, 7, 6)
    products = found.inputs(x) @ found.rows.T  # (4, 7, 6, 3 * 2 * 2)
    expected = layer(x).unfold(2, 2, 2).unfold(3, 2, 2).permute(0, 2, 3, 1, 4, 5).flatten(3)
    torch.testing.assert_close(products, expected)
    torch.testing.assert_close(found.inputs(x[0]), found.inputs(x)[0])
    found.set_rows(2 * found.rows)
    torch.testing.assert_close(found.inputs(x) @ found.rows.T, 2 * products)


def old_weight_norm(layer: nn.Module) -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        return utils.weight_norm(layer)


def old_spectral_norm(layer: nn.Module) -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        return utils.spectral_norm(layer)


NORMS: dict[str, tuple[Callable[[nn.Module], nn.Module], str]] = {
    "weight_norm": (parametrizations.weight_norm, "parametrizations.weight.original1"),
    "spectral_norm": (parametrizations.spectral_norm, "parametrizations.weight.original"),
    "weight_norm, a hook": (old_weight_norm, "weight_v"),
    "spectral_norm, a hook": (old_spectral_norm, "weight_orig"),
}


@pytest.mark.parametrize("name", NORMS)
@pytest.mark.parametrize("make", [lambda: nn.Linear(5, 4), lambda: nn.Conv2d(5, 4, 3)])
def test_rows_under_a_norm_are_those_of_the_weight_but_for_a_factor(make: Callable[[], nn.Module], name: str) -> None:
    torch.manual_seed(0)
    norm, own = NORMS[name]
    model = nn.Sequential(norm(make())).eval()
    model(torch.rand(2, 5, *(6, 6) if hasattr(model[0], "kernel_size") else ()))
    ((stored, found),) = multiplications(model).items()
    assert stored == f"0.{own}"
    assert stored in dict(model.named_parameters())
    assert not found.is_plain
    weight = model[0].weight
    assert isinstance(weight, Tensor)
    rows, factors = found.rows.flatten(1), weight.detach().flatten(1) / found.rows.flatten(1)
    torch.testing.assert_close(factors, factors[:, :1].expand_as(rows), rtol=1e-4, atol=1e-6)
    seen: list[str] = []
    with listening_before(model, {stored}, lambda name, _: seen.append(name)):
        model(torch.rand(2, 5, *(6, 6) if hasattr(model[0], "kernel_size") else ()))
    assert seen == [stored]


def test_other_parametrizations_are_left_alone() -> None:
    class Doubled(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return 2 * x

    def stored(layer: nn.Module) -> list[str]:
        return list(multiplications(nn.Sequential(layer)))

    twice = parametrizations.weight_norm(nn.Linear(5, 4))
    parametrize.register_parametrization(twice, "weight", Doubled())
    by_inputs = parametrizations.weight_norm(nn.ConvTranspose2d(5, 4, 3))
    for layer in (twice, by_inputs, parametrizations.weight_norm(nn.Linear(5, 4), dim=1)):
        assert stored(layer) == ["0.weight"]
    by_outputs = parametrizations.weight_norm(nn.ConvTranspose2d(5, 4, 3), dim=1)
    assert stored(by_outputs) == ["0.parametrizations.weight.original1"]
