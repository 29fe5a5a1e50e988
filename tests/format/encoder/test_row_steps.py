"""Steps that differ along the axes of a weight's rows, against the theory of rates."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from tailcut.errors import ArgumentError
from tailcut.format.encoder.row_steps import (
    MOST_SHIFT,
    Rows,
    RowSteps,
    relative_costs,
    rounded_with_feedback,
    row_steps,
    steps_of_rows,
)
from tailcut.format.encoder.sensitivity import Block, block_of
from tailcut.format.encoder.trellis import rounded_rows
from tailcut.format.quantized import Coded, Layout, decode, encode
from tailcut.format.quantized.coder import DEPENDENT


def independent(curvature: Tensor) -> Block:
    """The block of numbers whose errors do not make each other good."""
    return block_of(("weight",), torch.diag(curvature.double().reshape(-1)))


def separable() -> Tensor:
    """Curvatures of 6 input channels and a kernel of 3 x 2 that are whole powers of a quarter of an octave's square."""
    channels, rows, columns = torch.tensor([0, 3, -5, 8, -2, -4]), torch.tensor([2, 0, -2]), torch.tensor([1, -1])
    quarters = channels[:, None, None] + rows[:, None] + columns
    return torch.exp2(-quarters.double() / 2)


def test_steps_are_in_inverse_proportion_to_the_root_of_the_curvature() -> None:
    curvature = separable()
    steps = row_steps(independent(curvature), (40, 6, 3, 2), 1.0)
    assert {axis: shift.tolist() for axis, shift in steps.shifts.items()} == {
        1: [0, 3, -5, 8, -2, -4],
        2: [2, 0, -2],
        3: [1, -1],
    }
    sizes = steps.sizes((40, 6, 3, 2)).reshape(40, 6, 3, 2)
    costs = curvature * sizes.square()
    # Each number costs what a step of 1 costs on average without shifts, to half an eighth of an octave.
    torch.testing.assert_close(costs, costs[0, 0, 0, 0].expand_as(costs))
    assert float(costs.mean()) == pytest.approx(float(curvature.mean()), rel=2 ** (1 / 8) - 1)


def test_the_same_loss_takes_the_bits_that_theory_says_fewer() -> None:
    """With equal costs it is the geometric mean of the curvatures that counts, not the arithmetic one."""
    generator = torch.Generator().manual_seed(0)
    curvature = separable().reshape(-1)
    block, shape = independent(curvature), (500, 6, 3, 2)
    values = torch.randn(500 * 36, generator=generator, dtype=torch.float64)
    steps = row_steps(block, shape, 0.01 * float(curvature.mean()) ** -0.5)
    sizes = {"even": torch.full_like(values, 0.01 * float(curvature.mean()) ** -0.5), "shifted": steps.sizes(shape)}
    losses, bits = {}, {}
    for name, size in sizes.items():
        whole = rounded_with_feedback(block, {"weight": values}, {"weight": size})["weight"]
        errors = (whole * size - values).reshape(-1, 36)
        losses[name] = float((errors.square() * curvature).mean())
        bits[name] = float(-(size.log2()).mean())  # those of fine steps, but for what all have
    apart = 0.5 * math.log2(losses["shifted"] / losses["even"])
    expected = 0.5 * math.log2(float(curvature.mean()) / float(curvature.log().mean().exp()))
    assert bits["even"] - bits["shifted"] - apart == pytest.approx(expected, abs=0.02)


def test_what_others_make_good_is_rounded_coarsely() -> None:
    """Two inputs that are nearly one: the error of the first is made good by the second."""
    curvature = torch.tensor([[1.0, 0.999, 0.0], [0.999, 1.0, 0.0], [0.0, 0.0, 1.0]], dtype=torch.float64)
    steps = row_steps(block_of(("weight",), curvature), (400, 3), 1.0)
    first, second, third = steps.sizes((400, 3))[:3].log2().tolist()
    assert first - second == pytest.approx(0.5 * -math.log2(1 - 0.999**2), abs=0.13)
    assert second == third


@pytest.mark.parametrize(
    ("shape", "curvature"),
    [
        ((64, 8), torch.ones(8)),
        ((64, 8), torch.exp2(torch.linspace(-0.1, 0.1, 8))),  # hardly any difference
        ((1, 8), torch.exp2(torch.linspace(-1, 1, 8))),  # too few rows to pay for it
        ((5, 1, 1), torch.ones(1)),
    ],
)
def test_shifts_that_save_nothing_are_left_out(shape: tuple[int, ...], curvature: Tensor) -> None:
    steps = row_steps(independent(curvature), shape, 0.5)
    assert steps.shifts == {}
    assert steps.sizes(shape).tolist() == [0.5] * math.prod(shape)


def test_inputs_that_are_always_zero_keep_the_steps_within_those_of_a_file() -> None:
    curvature = torch.tensor([1.0, 1.0, 1e-30, 4.0])
    steps = row_steps(independent(curvature), (100, 4), 2.0**50)
    assert int(np.abs(steps.shifts[1]).max()) == MOST_SHIFT
    sizes = steps.sizes((100, 4))
    assert 2.0**-50 <= float(sizes.min()) <= float(sizes.max()) <= 2.0**50


def test_a_block_of_another_size() -> None:
    with pytest.raises(ArgumentError, match="measured for 4 numbers of weight"):
        row_steps(independent(torch.ones(4)), (3, 5), 1.0)


def test_one_step_has_a_size_for_each_number() -> None:
    assert RowSteps(-8).sizes((2, 3)).tolist() == [0.5] * 6


def test_costs_of_tensors_with_feedback_by_hand() -> None:
    """The last tensor has nobody who makes its errors good; the others are the square root of a thousandth apart."""
    correlated = torch.tensor([[1.0, 0.9995], [0.9995, 1.0]], dtype=torch.float64)
    block = block_of(("a", "b"), correlated)
    costs = relative_costs([block], {"a": 1, "b": 1})
    alone = 1 - 0.9995**2
    assert costs["b"] / costs["a"] == pytest.approx(1 / alone, rel=1e-3)
    assert costs["a"] * costs["b"] == pytest.approx(1.0)


def test_costs_of_no_blocks_and_of_other_sizes() -> None:
    assert relative_costs([], {"a": 3}) == {}
    with pytest.raises(ArgumentError, match="measured for 4 numbers of weight"):
        relative_costs([independent(torch.ones(4))], {"weight": 5})


def test_an_error_is_made_good_by_all_numbers_behind_it() -> None:
    """Also by those of later parts, into which long blocks are cut."""
    torch.manual_seed(0)
    root = torch.randn(300, 100, dtype=torch.float64) + torch.randn(300, 1, dtype=torch.float64)
    block = block_of(("a",), root.T @ root / 300)
    values, step = torch.randn(100, dtype=torch.float64), 0.5
    found = rounded_with_feedback(block, {"a": values}, {"a": torch.full((100,), step, dtype=torch.float64)})["a"]
    rest, upper, wanted = values.clone(), block.upper.double(), []
    for place in range(100):
        wanted.append((rest[place] / step).round())
        error = rest[place] - step * wanted[-1]
        rest[place + 1 :] -= upper[place, place + 1 :] / upper[place, place] * error
    assert torch.equal(found, torch.stack(wanted))


def fine_rows(curvature: Tensor, length: int) -> Rows:
    """Rows whose numbers are large against the steps of these tests."""
    return Rows(curvature, torch.full((len(curvature), length), 1000.0, dtype=torch.float64))


def test_steps_of_rows_do_the_harm_of_one_step() -> None:
    curvature = torch.tensor([1.0, 16.0, 256.0, 1.0], dtype=torch.float64)
    steps = steps_of_rows(fine_rows(curvature, 100), 0.5)
    assert list(steps.shifts) == [0]
    # Quarters of an octave: a row's step is in proportion to the root of its curvature, inverted.
    assert (steps.shifts[0] - steps.shifts[0][0]).tolist() == [0, -8, -16, 0]
    sizes = steps.sizes((4, 100)).reshape(4, 100)
    harm = (curvature[:, None] * sizes.square()).mean() / (curvature.mean() * 0.5**2)
    assert 0.9 < float(harm) < 1.1
    assert not steps_of_rows(fine_rows(curvature, 1), 0.5).shifts  # they would take more bits than they save
    assert not steps_of_rows(fine_rows(torch.ones(4, dtype=torch.float64), 100), 0.5).shifts
    few = Rows(curvature, torch.full((4, 100), 0.01, dtype=torch.float64))  # all but a few numbers are rounded to 0
    assert not steps_of_rows(few, 0.5).shifts


def test_steps_of_rows_move_one_by_one() -> None:
    """The mean step follows the size by less than an eighth of an octave, in which steps of whole tensors move."""
    curvature = torch.logspace(0, 4, 1000, 2.0, dtype=torch.float64)
    sizes = [2.0 ** (part / 64) for part in range(-20, 20)]
    means = [float(steps_of_rows(fine_rows(curvature, 100), size).sizes((1000, 1)).log2().mean()) for size in sizes]
    moved = torch.tensor(means).diff()
    assert bool((moved > 0).all())
    assert float(moved.max()) < 1.3 / 64


def test_scaled_rows_have_the_steps_of_one_row() -> None:
    shifts = {0: np.array([1, -2, 0]), 1: np.array([0, 3, -1, 2])}
    steps, numbers = RowSteps(5, shifts), torch.rand(12, dtype=torch.float64)
    scaled, sizes = steps.scaled(numbers, (3, 4), is_turned=False)
    torch.testing.assert_close((scaled.reshape(3, 4) / sizes).reshape(-1), numbers / steps.sizes((3, 4)))
    scaled, sizes = RowSteps(5).scaled(numbers, (3, 4), is_turned=False)
    assert (scaled.tolist(), sizes.tolist()) == (numbers.tolist(), [2.0 ** (5 / 8)] * 4)
    scaled, sizes = RowSteps(5, {0: shifts[0]}).scaled(numbers, (3, 4), is_turned=True)
    assert scaled is numbers
    torch.testing.assert_close(sizes, torch.tensor([2.0 ** (5 / 8 + shift / 4) for shift in (1, -2, 0)]).double())


def test_outputs_that_matter_less_are_rounded_coarsely() -> None:
    """Along a trellis and with feedback: each row by itself, so its step may be its own."""
    block = independent(torch.ones(6))
    rows = torch.tensor([1.0, 256.0], dtype=torch.float64).repeat(200)
    steps = row_steps(block, (400, 6), 0.5, fine_rows(rows, 6))
    assert np.unique(steps.shifts[0][::2] - steps.shifts[0][1::2]).tolist() == [16]  # the root of 256 is four octaves
    assert not row_steps(block, (400, 6), 0.5).shifts


def turned(block: Block) -> Block:
    return replace(block, is_turned=True)


def test_steps_of_a_turned_weight_are_those_of_a_weight_turned() -> None:
    block = independent(torch.exp2(torch.linspace(-4, 4, 6)))
    usual, found = row_steps(block, (50, 6), 0.5), row_steps(turned(block), (6, 50), 0.5)
    assert found.step == usual.step
    assert {axis: shift.tolist() for axis, shift in found.shifts.items()} == {0: usual.shifts[1].tolist()}
    assert row_steps(turned(independent(torch.ones(6))), (6, 50), 0.5) == RowSteps(-8)
    with pytest.raises(ArgumentError, match="measured for 6 numbers of weight"):
        row_steps(turned(block), (50, 6), 0.5)


def nearly_one() -> Block:
    """Inputs that each are nearly the one before."""
    inputs = torch.randn(500, 100, generator=torch.Generator().manual_seed(0)).double().cumsum(1)
    return block_of(("weight",), inputs.T @ inputs / 500 + torch.eye(100))


@pytest.mark.parametrize("num_outputs", [7, 300])
def test_a_turned_weight_is_rounded_with_feedback(num_outputs: int) -> None:
    block, generator = nearly_one(), torch.Generator().manual_seed(1)
    values = 3 * torch.randn(100, num_outputs, generator=generator, dtype=torch.float64)
    given, sizes = values.clone(), torch.linspace(0.5, 2, 100, dtype=torch.float64)

    def rounded(block: Block, values: Tensor, *, is_dependent: bool) -> Tensor:
        found = rounded_with_feedback(
            block, {"weight": values.reshape(-1)}, {"weight": sizes}, is_dependent=is_dependent
        )
        return found["weight"].reshape(values.shape)

    to_nearest = rounded(turned(block), values, is_dependent=False)
    assert torch.equal(to_nearest.T, rounded(block, values.T.contiguous(), is_dependent=False))
    found = rounded(turned(block), values, is_dependent=True)
    assert torch.equal(values, given)
    layout = Layout("weight", (100, num_outputs), values.numel())
    coded = Coded(found.reshape(-1).to(torch.int64).numpy(), is_dependent=True)
    (decoded,) = decode(encode([layout], [coded]), [layout], DEPENDENT)  # refuses what no trellis gives
    assert decoded.numbers.tolist() == coded.numbers.tolist()
    curvature = torch.linalg.inv(block.upper.double().T @ block.upper.double())
    (alone,) = rounded_rows([values / sizes[:, None]])
    fed, unfed = (
        float((errors * (curvature @ errors)).sum()) for errors in (x * sizes[:, None] - values for x in (found, alone))
    )
    assert fed < 0.2 * unfed


@pytest.mark.parametrize("is_dependent", [False, True])
def test_groups_are_rounded_as_weights_of_their_own(is_dependent: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(3, 200, 70, generator=generator, dtype=torch.float64).cumsum(2)
    curvature = inputs.mT @ inputs / 200 + torch.eye(70)
    values = 3 * torch.randn(12, 70, generator=generator, dtype=torch.float64)
    sizes = {"weight": torch.linspace(0.5, 2, 70, dtype=torch.float64)}

    def rounded(block: Block, values: Tensor) -> Tensor:
        return rounded_with_feedback(block, {"weight": values.reshape(-1)}, sizes, is_dependent=is_dependent)["weight"]

    whole = rounded(block_of(("weight",), curvature), values).reshape(12, 70)
    for part, rows, found in zip(curvature, values.split(4), whole.split(4), strict=True):
        assert torch.equal(found.reshape(-1), rounded(block_of(("weight",), part), rows))


def test_steps_of_groups_follow_their_mean_cost() -> None:
    costs = torch.tensor([[1.0, 64, 1, 64], [1, 256, 1, 256]], dtype=torch.float64)
    grouped, mean = block_of(("weight",), torch.diag_embed(costs)), block_of(("weight",), torch.diag(costs.mean(0)))
    shape = (2000, 4, 1, 1)
    found, wanted = (row_steps(block, shape, 0.1) for block in (grouped, mean))
    assert found.step == wanted.step
    assert found.shifts.keys() == wanted.shifts.keys() == {1}
    assert found.shifts[1].tolist() == wanted.shifts[1].tolist()
