"""Weights fitted to the inputs that rounding has spoiled, against least squares."""

import copy
from collections.abc import Callable

import numpy as np
import pytest
import torch
from conformance.torch_networks import Conv1D
from torch import Tensor, nn
from torch.nn import functional

from tailcut.compression.post_training.correction import CoarseStepError, Original, write_numbers
from tailcut.compression.post_training.refit import RIDGE, Refit
from tailcut.compression.sensitivity.moments import DAMPING
from tailcut.model_inputs import ModelInputs, loader_inputs


def half(_: str, values: Tensor) -> Tensor:
    """Round to multiples of a half."""
    return torch.round(2 * values) / 2


def exact(_: str, values: Tensor) -> Tensor:
    return values


@pytest.mark.parametrize("bias", [False, True])
def test_the_fit_is_ridge_regression(bias: bool) -> None:
    torch.manual_seed(0)
    first, second = nn.Linear(6, 5, bias=False), nn.Linear(5, 3, bias=bias)
    model = nn.Sequential(first, second).eval()
    x = torch.randn(400, 6) + 0.5
    spoiled = first.weight.detach() + 0.2 * torch.randn(5, 6)
    weight = second.weight.detach().clone()
    rounded = {"0.weight": spoiled.reshape(-1), "1.weight": half("", weight.reshape(-1))}
    moved = Original(model, [ModelInputs((x,))], Refit(model, ["1.weight"])).corrected(rounded, exact)

    wanted, found = (functional.linear(x, weight).detach() for weight in (first.weight, spoiled))
    if bias:  # takes the means away
        wanted, found = wanted - wanted.mean(0), found - found.mean(0)
    ridge = max(DAMPING, RIDGE * 5 / 400) * float(found.square().mean())
    left = np.concatenate([found.numpy() / 20, np.sqrt(ridge) * np.eye(5)])  # 20 is the root of 400
    right = np.concatenate([(wanted @ weight.T).numpy() / 20, np.sqrt(ridge) * weight.T.numpy()])
    expected = np.linalg.lstsq(left, right, rcond=None)[0].T
    np.testing.assert_allclose(moved.get_parameter("1.weight").detach().numpy(), expected, atol=1e-5)
    assert torch.equal(moved.get_parameter("0.weight"), first.weight)  # to be rounded by whoever writes the file
    assert torch.equal(second.weight, weight)


def convolutions() -> nn.Sequential:
    torch.manual_seed(0)
    layers: list[nn.Module] = []
    for width in (3, 8, 8):
        layers += [nn.Conv2d(width, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU()]
    model = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4))
    for _ in range(40):
        model(torch.randn(16, 3, 9, 9) + 1)
    return model.eval()


def test_a_rounded_network_is_closer_with_fitted_weights() -> None:
    model, inputs = convolutions(), [torch.randn(64, 3, 9, 9) + 1 for _ in range(4)]
    names = [name for name, value in model.named_parameters() if value.ndim > 1]

    def coarse(name: str, values: Tensor) -> Tensor:
        step = 0.8 * float(model.get_parameter(name).detach().std())
        return torch.round(values / step) * step

    def numbers(network: nn.Module) -> dict[str, Tensor]:
        return {name: coarse(name, network.get_parameter(name).detach().reshape(-1)) for name in names}

    x = torch.randn(200, 3, 9, 9) + 1  # others
    errors = []
    for refit in (Refit(model, names), None):
        moved = Original(model, list(loader_inputs(inputs)), refit).corrected(numbers(model), coarse)
        write_numbers(moved, numbers(moved))
        with torch.no_grad():
            errors.append(float((moved(x) - model(x)).square().mean()))
    assert errors[0] < 0.8 * errors[1]


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.third = (nn.Linear(4, 4) for _ in range(3))
        self.second.weight = self.third.weight

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.third(self.second(self.first(x)))
        return result


class Twice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.second(self.second(self.first(x)))
        return result


class Squared(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return functional.linear(x, self.weight.square(), self.bias)


class Growing(nn.Module):
    """Passes on as many rows as its first layer lets through."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        result: Tensor = self.second(x[x[:, 0] > 0])
        return result


class Nothing(nn.Module):
    """Passes on no rows."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.second(self.first(x)[:0])
        return result


def squared() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 4), Squared(4, 4))


@pytest.mark.parametrize("make", [Tied, Twice, squared, Growing, Nothing])
def test_what_no_regression_fits_is_left(make: Callable[[], nn.Module]) -> None:
    torch.manual_seed(0)
    model = make().eval()
    names = [name for name, value in model.named_parameters() if value.ndim > 1]
    before = copy.deepcopy(model.state_dict())
    spoiled = {names[0]: torch.randn(16)}
    original = Original(model, [ModelInputs((torch.randn(64, 4),))], Refit(model, names[1:]))
    moved = original.corrected(spoiled, half)
    for name in names:
        assert torch.equal(moved.get_parameter(name), before[name])
    assert all(bool(value.isfinite().all()) for value in moved.parameters())


def test_a_rounded_network_that_overflows_is_left() -> None:
    overflowing = {"0.weight": torch.full((16,), 3e38)}
    model = nn.Sequential(nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False)).eval()
    ones = [ModelInputs((torch.ones(8, 4),))]
    moved = Original(model, ones, Refit(model, ["1.weight"])).corrected(overflowing, half)
    assert torch.equal(moved.get_parameter("1.weight"), model.get_parameter("1.weight"))
    with_bias = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4)).eval()  # no bias makes good what is infinite
    with pytest.raises(CoarseStepError, match="no finite numbers at 0: ask for more bytes"):
        Original(with_bias, ones, Refit(with_bias, ["1.weight"])).corrected(overflowing, half)


def test_gpt_2_s_linear_layers_are_fitted_as_torch_s() -> None:
    torch.manual_seed(0)
    usual, turned = nn.Sequential(nn.Linear(6, 5), nn.Linear(5, 3)), nn.Sequential(Conv1D(5, 6), Conv1D(3, 5))
    for one, other in zip(usual, turned, strict=True):
        other.load_state_dict({"weight": one.get_parameter("weight").T, "bias": one.get_parameter("bias")})
    x, found = torch.randn(50, 6), []
    for model in (usual.eval(), turned.eval()):
        numbers = {name: half("", value.detach().reshape(-1)) for name, value in model.named_parameters()}
        moved = Original(model, [ModelInputs((x,))], Refit(model, ["1.weight"])).corrected(numbers, half)
        found.append(moved.get_parameter("1.weight").detach())
    torch.testing.assert_close(found[1].T, found[0])
    assert not torch.equal(found[0], usual[1].get_parameter("weight"))


def test_transposed_convolutions_are_fitted_as_linear_layers_of_each_place() -> None:
    torch.manual_seed(0)
    first, transposed, linear = nn.Conv2d(6, 5, 1), nn.ConvTranspose2d(5, 3, 2, 2, bias=False), nn.Conv2d(5, 12, 1)
    with torch.no_grad():
        linear.weight.copy_(transposed.weight.flatten(1).T[:, :, None, None])
        nn.init.zeros_(linear.bias if linear.bias is not None else torch.empty(0))
    x, found = torch.randn(3, 6, 4, 4), []
    for second in (transposed, linear):
        model = nn.Sequential(copy.deepcopy(first), second, nn.BatchNorm2d(3 if second is transposed else 12)).eval()
        numbers = {"0.weight": half("", model.get_parameter("0.weight").detach().reshape(-1))}
        moved = Original(model, [ModelInputs((x,))], Refit(model, ["1.weight"])).corrected(numbers, exact)
        found.append(moved.get_parameter("1.weight").detach())
    torch.testing.assert_close(found[0].flatten(1).T, found[1].flatten(1))
    assert not torch.allclose(found[0], transposed.weight)


def test_groups_of_a_convolution_are_fitted_as_layers_of_their_own() -> None:
    torch.manual_seed(0)
    first, whole = nn.Conv2d(6, 6, 1, bias=False), nn.Conv2d(6, 9, 3, padding=1, groups=3)
    spoiled = first.weight.detach() + 0.2 * torch.randn(6, 6, 1, 1)
    x, weight = torch.randn(20, 6, 4, 4), whole.weight.detach().clone()
    model = nn.Sequential(first, whole).eval()
    numbers = {"0.weight": spoiled.reshape(-1)}
    moved = Original(model, [ModelInputs((x,))], Refit(model, ["1.weight"])).corrected(numbers, exact)
    found = moved.get_parameter("1.weight").detach()
    for group in range(3):
        own, outputs = copy.deepcopy(first), slice(3 * group, 3 * group + 3)
        part = nn.Conv2d(2, 3, 3, padding=1)
        own.weight.data = own.weight.data[2 * group : 2 * group + 2]
        part.weight.data = weight[outputs].clone()
        alone = nn.Sequential(own, part).eval()
        numbers = {"0.weight": spoiled[2 * group : 2 * group + 2].reshape(-1)}
        fitted = Original(alone, [ModelInputs((x,))], Refit(alone, ["1.weight"])).corrected(numbers, exact)
        torch.testing.assert_close(found[outputs], fitted.get_parameter("1.weight").detach(), rtol=1e-3, atol=1e-4)
    assert not torch.allclose(found, weight)
