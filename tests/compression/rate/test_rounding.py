"""Numbers that are rounded for the length of a block, against SciPy's DCT, and what is left of the block behind it."""

import numpy
import pytest
import torch
from scipy import fft
from tests.compression.rate.test_lattices import network, trained_of
from torch import nn

from tailcut.compression.rate.rounding import RoundedParameters
from tailcut.errors import ArgumentError

STEPS = torch.tensor([0.5, 0.125, 0.25, 1.0, 0.03125])


def state_of(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def test_the_network_has_whole_numbers_of_steps_and_its_own_again() -> None:
    model = network()
    rounding, before = RoundedParameters(trained_of(model)), state_of(model)
    with rounding.kept() as numbers:
        errors, is_used = rounding.round(STEPS)
        kernel = fft.dctn(before["0.weight"].double().numpy(), axes=(2, 3), norm="ortho")
        wanted = fft.idctn(0.125 * numpy.round(kernel / 0.125), axes=(2, 3), norm="ortho")
        torch.testing.assert_close(
            model.get_parameter("0.weight").detach().double(), torch.from_numpy(wanted), rtol=0, atol=1e-6
        )
        torch.testing.assert_close(model.get_parameter("1.weight").detach(), torch.ones(6))
        torch.testing.assert_close(
            torch.cat([*rounding.split(numbers + errors)[3:]]), torch.tensor([1.0] * 6 + [0.0] * 6)
        )
        assert is_used.tolist()[3:] == [1.0, 0.0]  # gains of 1, shifts of 0
        assert model.get_parameter("3.bias").equal(before["3.bias"])  # does not want a gradient
    assert rounding.numbers is None
    assert all(value.equal(before[name]) for name, value in model.state_dict().items())


def test_an_error_in_the_block_leaves_the_network_as_it_was() -> None:
    model = network()
    rounding, before = RoundedParameters(trained_of(model)), state_of(model)

    def interrupted() -> None:
        rounding.round(STEPS)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), rounding.kept():
        interrupted()
    assert all(value.equal(before[name]) for name, value in model.state_dict().items())
    with rounding.kept(), pytest.raises(ArgumentError, match="cannot be nested"), rounding.kept():
        pass


def test_gradients_of_the_block_are_added_to_those_before() -> None:
    model = network()
    trained = trained_of(model)
    rounding = RoundedParameters(trained)
    model[1].bias.grad = torch.full((6,), 2.0)
    with rounding.kept() as numbers:
        assert not torch.cat(rounding.gradients()).any()
        given = torch.arange(len(numbers), dtype=torch.float32)
        rounding.add_gradients(given)
        # Of an orthonormal transform: the gradient of the numbers is the transform of that of the values.
        torch.testing.assert_close(torch.cat(rounding.gradients()), given, rtol=1e-5, atol=1e-4)
    torch.testing.assert_close(model[1].bias.grad, given[-6:] + 2)


def test_sizes_are_root_mean_squares_of_the_numbers() -> None:
    model = network()
    rounding = RoundedParameters(trained_of(model))
    found = rounding.log_sizes()
    wanted = model.get_parameter("0.weight").detach().square().mean().sqrt().log2()
    torch.testing.assert_close(found[1], wanted)
    with rounding.kept():
        rounding.round(8 * STEPS)
        assert rounding.log_sizes().equal(found)  # of what lies behind the rounding


def test_what_a_tensor_has_is_given_to_each_of_its_numbers() -> None:
    rounding = RoundedParameters(trained_of(network()))
    values = torch.arange(5.0, requires_grad=True)
    spread = rounding.spread(values)
    assert [len(part) for part in rounding.split(spread)] == [20, 108, 6, 6, 6]
    assert [part.unique().tolist() for part in rounding.split(spread)] == [[0.0], [1.0], [2.0], [3.0], [4.0]]
    spread.sum().backward()
    assert values.grad is not None
    assert values.grad.tolist() == [20.0, 108.0, 6.0, 6.0, 6.0]


def test_fewer_numbers_than_at_the_start_are_told() -> None:
    rounding = RoundedParameters(trained_of(network()))
    with pytest.raises(ArgumentError, match=r"has 10 numbers to round, and had 146 when RateLoss was made"):
        rounding.split(torch.zeros(10))
    with pytest.raises(RuntimeError, match="no numbers"):
        rounding.round(STEPS)


@pytest.mark.parametrize("to_none", [True, False], ids=["to none", "to zeros"])
def test_gradients_that_are_set_to_zero_in_the_block_are_gone(*, to_none: bool) -> None:
    """Lightning calls `zero_grad` within it, between the forward and the backward."""
    model = network()
    rounding = RoundedParameters(trained_of(model))
    found = []
    for _ in range(3):
        with rounding.kept():
            loss = model(torch.ones(2, 2, 4, 4)).square().sum()
            model.zero_grad(set_to_none=to_none)
            loss.backward()
        found.append(rounding.gradients()[1])
    assert found[0].any()
    assert all(gradient.equal(found[0]) for gradient in found)
    with rounding.kept():
        model(torch.ones(2, 2, 4, 4)).square().sum().backward()
    torch.testing.assert_close(rounding.gradients()[1], 2 * found[0])


@pytest.mark.parametrize("to_none", [True, False], ids=["to none", "to zeros"])
def test_so_are_those_of_numbers_that_the_block_does_not_use(*, to_none: bool) -> None:
    model = network()
    rounding = RoundedParameters(trained_of(model))
    model[1].bias.grad = torch.ones(6)
    with rounding.kept():
        pass
    assert model[1].bias.grad.tolist() == [1.0] * 6
    with rounding.kept() as numbers:
        rounding.gradients()
        rounding.add_gradients(torch.ones_like(numbers))
    assert model[1].bias.grad.tolist() == [2.0] * 6
    with rounding.kept():
        model.zero_grad(set_to_none=to_none)
    assert model[1].bias.grad is None if to_none else model[1].bias.grad.tolist() == [0.0] * 6


def test_what_was_frozen_since_gets_no_gradient() -> None:
    model = network()
    rounding = RoundedParameters(trained_of(model))
    model[0].weight.requires_grad_(False)
    with rounding.kept() as numbers:
        rounding.add_gradients(torch.ones_like(numbers))
    assert model[0].weight.grad is None
    assert model[0].bias.grad is not None
