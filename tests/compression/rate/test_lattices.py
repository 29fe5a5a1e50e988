"""The flat vector of trained numbers: transforms, offsets and expected magnitudes, against loops and the coder."""

import math
from itertools import product

import pytest
import torch
from scipy import fft
from torch import nn

import tailcut
from tailcut.compression.rate.lattices import Lattices, TrainedTensor, trained_tensors
from tailcut.format.network.tensors import network_tensors
from tailcut.format.quantized import Layout
from tailcut.format.quantized.coder import LEAST_MEAN
from tailcut.format.quantized.values import KERNEL_DCT, NONE, coded
from tailcut.structure import record_of


def trained_of(model: nn.Module) -> list[TrainedTensor]:
    return trained_tensors(network_tensors(model, [edit.current(model) for edit in record_of(model).edits]))


def network() -> nn.Sequential:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(2, 6, 3), nn.BatchNorm2d(6), nn.Flatten(), nn.Linear(24, 3))
    tailcut.regularize(model, num_kept=20, include=["3.weight"], warn=False)
    model[3].bias.requires_grad_(False)
    return model


def test_it_has_what_wants_a_gradient_coefficients_first() -> None:
    found = trained_of(network())
    assert [tensor.name for tensor in found] == ["3.weight", "0.weight", "0.bias", "1.weight", "1.bias"]
    assert [tensor.count for tensor in found] == [20, 108, 6, 6, 6]
    assert [tensor.transform for tensor in found] == [NONE, KERNEL_DCT, NONE, NONE, NONE]


def test_kernels_are_their_dct_and_back() -> None:
    model = network()
    kernel = next(tensor for tensor in trained_of(model) if tensor.name == "0.weight")
    weight = model.get_parameter("0.weight").detach()
    numbers = kernel.numbers(weight)
    wanted = fft.dctn(weight.numpy(), axes=(2, 3), norm="ortho").reshape(-1)
    torch.testing.assert_close(numbers, torch.from_numpy(wanted))
    torch.testing.assert_close(kernel.values(numbers), weight)


def test_behind_the_kept_coefficients_all_is_zero() -> None:
    model = network()
    schedule = tailcut.TailTruncation(model, num_kept=5, num_steps=1)
    schedule.step()
    vector = trained_of(model)[0]
    assert vector.count == 5
    assert vector.parameter.shape == (20,)
    assert vector.values(torch.ones(5)).tolist() == [1.0] * 5 + [0.0] * 15


@pytest.mark.parametrize("values", [[1.0, 1.1, 0.9, 1.05, 0.7, 1.3], [0.1, -0.2, 0.05, 0.3, -0.1, 0.0]])
def test_gains_lie_around_one_and_the_file_takes_it_off(values: list[float]) -> None:
    gains = next(tensor for tensor in trained_of(network()) if tensor.name == "1.weight")
    steps = torch.tensor(values) / 0.125
    wanted = coded(steps.double(), NONE, -24, Layout("weight", (6,), 6)).offset
    assert float(gains.offset(steps)) == wanted


def level(mean: float) -> float:
    return math.log2(mean + LEAST_MEAN)


def test_expected_magnitudes_are_those_of_all_others_nearby() -> None:
    """A plain loop over the coder's rule: the tensor's mean, and three quarters of what each axis says beyond it."""
    model = nn.Linear(4, 3)
    tensors = trained_of(model)
    torch.manual_seed(1)
    sizes = (torch.randn(15) * 3).round().abs()
    found = Lattices(tensors).means(sizes)
    grid = sizes[:12].reshape(3, 4)
    for row, column in product(range(3), range(4)):
        own = float(grid[row, column])
        whole = (float(grid.sum()) - own + 4 * 1.0) / (11 + 4)
        along = [(float(grid[row].sum()) - own, 3), (float(grid[:, column].sum()) - own, 2)]
        apart = sum(level((total + 8 * whole) / (count + 8)) - level(whole) for total, count in along)
        assert float(found[4 * row + column]) == pytest.approx(2 ** (level(whole) + 0.75 * apart))
    bias = sizes[12:]
    huge = torch.zeros(15)
    huge[5] = 2.0**17  # one number alone, beside which the others must not vanish
    exact = Lattices(tensors).means(huge.double())
    torch.testing.assert_close(Lattices(tensors).means(huge).double(), exact, rtol=1e-3, atol=0)
    for place in range(3):
        whole = (float(bias.sum() - bias[place]) + 4) / (2 + 4)
        assert float(found[12 + place]) == pytest.approx(whole + LEAST_MEAN)
