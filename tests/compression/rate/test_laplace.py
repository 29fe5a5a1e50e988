"""The bits of a discretised Laplace distribution, against SciPy's."""

import pytest
import torch
from scipy import stats

from tailcut.compression.rate.laplace import laplace_bits


def scale_of(mean: float) -> float:
    """The scale whose rounded numbers have that mean magnitude, found by bisection."""
    low, high = 1e-3, 1e4
    for _ in range(200):
        middle = (low * high) ** 0.5
        numbers = torch.arange(1, 20000).double()
        masses = torch.from_numpy(
            stats.laplace.cdf(numbers + 0.5, scale=middle) - stats.laplace.cdf(numbers - 0.5, scale=middle)
        )
        low, high = (middle, high) if 2 * float((numbers * masses).sum()) < mean else (low, middle)
    return low


@pytest.mark.parametrize("mean", [0.05, 0.4, 3.0, 200.0])
def test_whole_numbers_have_the_probabilities_of_the_distribution(mean: float) -> None:
    numbers, scale = torch.tensor([0.0, 1.0, -1.0, 2.0, 7.0]).double(), scale_of(mean)
    cdf = stats.laplace.cdf
    masses = cdf(numbers.abs() + 0.5, scale=scale) - cdf(numbers.abs() - 0.5, scale=scale)
    wanted = -torch.from_numpy(masses).log2()
    is_measurable = torch.from_numpy(masses) > 1e-12  # SciPy's differences of probabilities near 1 are 0 beyond
    found = laplace_bits(numbers, torch.full_like(numbers, mean))
    torch.testing.assert_close(found[is_measurable], wanted[is_measurable], rtol=1e-4, atol=1e-6)


def test_probabilities_sum_to_one() -> None:
    numbers = torch.arange(-3000, 3001).double()
    bits = laplace_bits(numbers, torch.full_like(numbers, 25.0))
    assert float((2**-bits).sum()) == pytest.approx(1.0, abs=1e-9)


def test_it_has_gradients_on_both_sides_of_one_half_and_goes_on_there() -> None:
    values = torch.tensor([-2.3, -0.6, -0.2, 0.3, 0.7, 5.5]).double().requires_grad_()
    means = torch.full_like(values, 0.8).detach()
    assert torch.autograd.gradcheck(lambda x: laplace_bits(x, means), [values])
    edge = torch.tensor([0.5 - 1e-9, 0.5 + 1e-9]).double()
    below, above = laplace_bits(edge, torch.full_like(edge, 0.8)).tolist()
    assert below == pytest.approx(above, abs=1e-7)


def test_large_means_keep_their_digits() -> None:
    """One more octave costs one more bit, far out too."""
    means = torch.tensor([1e5, 2e5]).double()
    low, high = laplace_bits(means, means).tolist()
    assert high - low == pytest.approx(1.0, abs=1e-4)


@pytest.mark.parametrize("mean", [2.0**-5, 0.4, 30.0, 1e4, 1e6])
def test_float32_has_its_digits_at_any_mean(mean: float) -> None:
    values = torch.cat([torch.linspace(-1, 1, 101), torch.linspace(-5 * mean, 5 * mean, 101)]).double()
    means, exact = torch.full_like(values, mean), values.clone().requires_grad_()
    short = values.float().requires_grad_()
    found, wanted = laplace_bits(short, means.float()), laplace_bits(exact, means)
    torch.testing.assert_close(found.double(), wanted, rtol=1e-5, atol=2e-5)
    found.sum().backward()
    wanted.sum().backward()
    assert short.grad is not None
    assert exact.grad is not None
    torch.testing.assert_close(short.grad.double(), exact.grad, rtol=1e-4, atol=1e-6)
