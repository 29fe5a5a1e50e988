"""Functions and products in integers: torch's own are the oracle, C and Python give the same bits."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.export_c.integers import check_same
from tests.export_c.networks import enliven, lively
from torch import Tensor, nn
from torch.nn import functional

import tailcut
from tailcut.errors import StructureError
from tailcut.export_c import IntegerNetwork
from tailcut.export_c.integer.arithmetic import saturated
from tailcut.export_c.integer.bounds import Bound
from tailcut.export_c.integer.functions import FUNCTIONS, MOST_NUMBERS, TOLERANCE, integer_function
from tailcut.export_c.program.program import Operation

MODULES: dict[str, nn.Module] = {
    "sigmoid": nn.Sigmoid(),
    "tanh": nn.Tanh(),
    "silu": nn.SiLU(),
    "hardswish": nn.Hardswish(),
    "hardsigmoid": nn.Hardsigmoid(),
    "gelu": nn.GELU(),
    "gelu by tanh": nn.GELU("tanh"),
    "elu": nn.ELU(),
    "elu of a large alpha": nn.ELU(5.0),
    "elu of alpha 0": nn.ELU(0.0),
    "selu": nn.SELU(),
    "celu": nn.CELU(3.0),
    "softplus": nn.Softplus(),
    "steep softplus": nn.Softplus(8.0),
    "log sigmoid": nn.LogSigmoid(),
    "mish": nn.Mish(),
}


class Gate(nn.Module):
    """Squeeze and excitation: channels times numbers from 0 to 1 that depend on all places."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.squeeze, self.excite = nn.Conv2d(channels, 3, 1), nn.Conv2d(3, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Maps to maps of the same shape."""
        gates = functional.silu(self.squeeze(x.mean((2, 3), keepdim=True)))
        return x * torch.sigmoid(self.excite(gates))


class Mixed(nn.Module):
    """Functions of sums, sums of functions, products of both, one map read in several ways."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.layer, self.norm = nn.Conv2d(channels, channels, 3, padding=1), nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        """Maps to maps with twice the channels."""
        one = functional.silu(x)
        two = functional.gelu(self.norm(self.layer(one)) + one) * torch.tanh(one)
        return torch.cat([two, one + torch.sigmoid(one) * one.square()], 1)


def made(*middle: nn.Module, channels: int = 6) -> nn.Module:
    layers = (nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6), *middle, nn.Conv2d(channels, 4, 3, stride=2))
    return lively(nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten()))


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    **{name: partial(made, module) for name, module in MODULES.items()},
    "gates": lambda: made(nn.SiLU(), Gate(6), nn.Hardswish()),
    "halves that gate halves": lambda: made(nn.GLU(1), nn.MaxPool2d(2), nn.Tanh(), channels=3),
    "mixed": lambda: made(Mixed(6), channels=12),
    "behind an average": lambda: made(nn.AvgPool2d(2), nn.SiLU(), nn.Sigmoid()),
    "behind an enlargement": lambda: made(nn.Upsample(scale_factor=2, mode="bilinear"), nn.GELU()),
}


@pytest.mark.parametrize("num_kept", [None, 20], ids=["dense", "truncated"])
@pytest.mark.parametrize("name", NETWORKS)
def test_networks_are_close_to_floats_and_the_same_in_c(name: str, num_kept: int | None, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = NETWORKS[name]()
    if num_kept:
        tailcut.regularize(model, num_kept=num_kept)
        model = enliven(model)
    images = 3 * torch.randn(5, 3, 11, 9)
    check_same(model, tmp_path, example_input=images[:1])
    with torch.no_grad():
        wanted = tailcut.to_dense(model).eval()(images) if num_kept else model(images)
    found = IntegerNetwork(model)(images)
    assert isinstance(found, torch.Tensor)
    assert (found - wanted).abs().max() < 0.004 * wanted.abs().max()


def test_small_numbers_beside_large_ones_keep_their_bits() -> None:
    """A sigmoid of large numbers is multiplied with all its bits: products have exponents of their own."""

    class Product(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.sigmoid(1000 * x[:, :1]) * x[:, 1:]

    x = torch.linspace(-1, 1, 64).reshape(1, 1, 8, 8).repeat(1, 2, 1, 1)
    found = IntegerNetwork(Product().eval())(x)
    assert isinstance(found, torch.Tensor)
    assert (found - Product()(x)).abs().max() < 1e-4


@pytest.mark.parametrize("kind", sorted(FUNCTIONS))
@pytest.mark.parametrize("parameters", [(1.0, 1.0), (0.3, 0.3), (7.0, 7.0)])
def test_tables_follow_their_functions(kind: Operation, parameters: tuple[float, float]) -> None:
    low, high = (parameters[0], 20.0) if kind == Operation.SOFTPLUS else parameters
    function = integer_function(kind, low, high)
    assert len(function.values) <= MOST_NUMBERS
    x = torch.linspace(-40, 40, 4001, dtype=torch.float64)
    rows = torch.round(x * 2**9).long()
    formulas: dict[Operation, Callable[[Tensor], Tensor]] = {
        Operation.SIGMOID: torch.sigmoid,
        Operation.TANH: torch.tanh,
        Operation.SILU: functional.silu,
        Operation.HARDSWISH: functional.hardswish,
        Operation.GELU: functional.gelu,
        Operation.GELU_TANH: lambda x: functional.gelu(x, approximate="tanh"),
        Operation.ELU: lambda x: torch.where(x < 0, low * (torch.exp(high * x) - 1), x),
        Operation.SOFTPLUS: lambda x: functional.softplus(x, low, high),
        Operation.MISH: functional.mish,
    }
    wanted = formulas[kind](rows.double() / 2**9)
    found = function.of(rows.numpy(), np.asarray(-9), np.asarray(-9), 15)
    largest = max(1.0, 1 / low, abs(low) if kind == Operation.ELU else 0.0, 1 / high)
    assert np.abs(found / 2**9 - wanted.numpy()).max() < 2.0**-9 + 2 * TOLERANCE * largest


@given(power=st.integers(-60, 60), value=st.integers(-(1 << 30), 1 << 30), bits=st.integers(0, 30))
def test_saturated_numbers_are_within_the_bound(power: int, value: int, bits: int) -> None:
    most = 1 << bits
    exact = value * 2**power if power >= 0 else (2 * value + 2**-power) // (2 * 2**-power)
    if power >= 0 or power >= -30:
        assert int(saturated(np.asarray(value), power, most)) == max(-most, min(most, exact))


def test_products_of_bounds_are_bounds() -> None:
    random = np.random.default_rng(0)
    one, two = (Bound(random.integers(0, 1 << 31, 500), random.integers(-40, 40, 500)) for _ in range(2))
    product = one.times(two)
    exact = np.ldexp(one.most.astype(float), one.exponent) * np.ldexp(two.most.astype(float), two.exponent)
    found = np.ldexp(product.most.astype(float), product.exponent)
    assert (product.most < 1 << 31).all()
    assert (found >= exact).all()
    assert (found <= exact * (1 + 2.0**-12)).mean() > 0.99


def test_a_table_is_written_once_for_all_that_read_it(tmp_path: Path) -> None:
    model = made(nn.SiLU(), nn.Conv2d(6, 6, 1), nn.SiLU(), nn.Conv2d(6, 6, 1), nn.Tanh())
    check_same(model, tmp_path, example_input=torch.rand(1, 3, 9, 9))
    lines = (tmp_path / "model.c").read_text(encoding="utf-8").splitlines()
    begin = next(place for place, line in enumerate(lines) if "tailcut_integer_function functions[" in line)
    assert [line.split()[1] for line in lines[begin + 1 : begin + 3]] == ["silu", "tanh"]
    assert lines[begin + 3] == "};"


def test_functions_that_no_table_follows() -> None:
    for kind, low, high in ((Operation.SOFTPLUS, 1.0, 1.0), (Operation.ELU, float("inf"), 1.0)):
        with pytest.raises(StructureError, match=r"jumps|too large"):
            integer_function(kind, low, high)


def test_products_whose_factors_are_large_in_other_channels(tmp_path: Path) -> None:
    """What is large in one factor alone is times nearly 0, so that little room is left for rounding."""

    class Crossed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two = nn.Conv2d(1, 2, 1), nn.Conv2d(1, 2, 1)
            with torch.no_grad():
                for layer, large in ((self.one, 0), (self.two, 1)):
                    layer.weight.fill_(1e-4)
                    layer.weight[large] = 1000.0
                    layer.bias = nn.Parameter(torch.tensor([1e-5, -1e-5]))

        def forward(self, x: Tensor) -> Tensor:
            one, two = self.one(x), self.two(x)
            made: Tensor = torch.tanh(one) * two + two * one
            return made

    check_same(Crossed().eval(), tmp_path, example_input=torch.rand(1, 1, 6, 5))
