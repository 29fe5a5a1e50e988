"""Rounding along a trellis, against all that it allows, and against rounding to the nearest."""

import itertools
from functools import cache
from typing import Any

import pytest
import torch
from conformance.valid_dependent import allowed
from torch import Tensor

from tailcut.format.encoder import trellis, trellis_loop
from tailcut.format.encoder.sensitivity import Block, block_of
from tailcut.format.encoder.trellis import COLUMNS, FINER, rounded_along_trellis, rounded_rows
from tailcut.format.quantized import Coded, Layout, decode, encode
from tailcut.format.quantized.coder import DEPENDENT
from tailcut.format.quantized.loops import LINE


@pytest.fixture(autouse=True, params=["torch", "loop"])
def implementation(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each test is of torch's operations, and of the compiled loop, which larger tensors take."""
    monkeypatch.setattr(trellis, "COMPILED_FROM", 0 if request.param == "loop" else 1 << 60)


def laplace(*shape: int, seed: int = 0) -> Tensor:
    uniform = torch.rand(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) - 0.5
    return -uniform.sign() * torch.log1p(-2 * uniform.abs())


@cache
def ways(length: int, most: int) -> Tensor:
    """All that a row can be, (ways, length)."""
    made = [allowed(coded) for coded in itertools.product(range(-most, most + 1), repeat=length)]
    return torch.tensor(made, dtype=torch.float64)


def coded_bytes(numbers: Tensor, *, is_dependent: bool) -> int:
    """Bytes of rows, which come back as they are."""
    layout = Layout("weight", tuple(numbers.shape), numbers.numel())
    tensor = Coded(numbers.reshape(-1).to(torch.int64).numpy(), is_dependent=is_dependent)
    payload = encode([layout], [tensor])
    (again,) = decode(payload, [layout], DEPENDENT if is_dependent else 3)
    assert (again.numbers.tolist(), again.is_dependent) == (tensor.numbers.tolist(), is_dependent)
    return len(payload)


@pytest.mark.parametrize("seed", range(8))
def test_no_other_way_is_nearer(seed: int) -> None:
    values = 2 * laplace(5, seed=seed)
    (found,) = rounded_rows([values[None]])
    every = ways(5, 4)
    assert found[0].tolist() == every[(values - every).square().sum(1).argmin()].tolist()


@pytest.mark.parametrize("seed", range(8))
def test_costs_of_places_count(seed: int) -> None:
    """Without use for one another's errors, but with errors of the first place that cost the most."""
    values, costs = laplace(4, seed=seed), torch.tensor([9.0, 4.0, 0.5, 0.1], dtype=torch.float64)
    steps = torch.tensor([0.5, 1.0, 2.0, 0.7], dtype=torch.float64)
    found = rounded_along_trellis(values[:, None], steps, torch.diag(costs.rsqrt()).float())[:, 0]
    every = ways(4, 8)
    losses = (costs * (values - steps * every).square()).sum(1)
    assert found.tolist() == every[losses.argmin()].tolist()


def test_a_single_way_by_hand() -> None:
    (found,) = rounded_rows([torch.tensor([[2.2, 1.9, 0.2, -0.9]], dtype=torch.float64)])
    # 2 is coded as 1, so state 2 follows; again, and 3; of odd numbers and 0 it is 0, and 6; of even ones the nearest.
    assert found.tolist() == [[2.0, 2.0, 0.0, 0.0]]


@pytest.mark.parametrize("shape", [(1, 1), (3, 7), (40, COLUMNS + 5), (5, 2 * LINE + 3), (2, LINE), (1, 2000)])
def test_every_number_is_one_that_the_states_allow(shape: tuple[int, int]) -> None:
    (found,) = rounded_rows([3 * laplace(*shape)])
    assert found.shape == shape
    coded_bytes(found, is_dependent=True)


def test_nothing_is_rounded() -> None:
    empty = [torch.zeros(0, 3, dtype=torch.float64), torch.zeros(1, 0, dtype=torch.float64)]
    assert [found.shape for found in rounded_rows(empty)] == [(0, 3), (1, 0)]
    assert [found.shape for found in rounded_rows([*empty, laplace(2, 5)])] == [(0, 3), (1, 0), (2, 5)]


@pytest.mark.parametrize("step", [0.15, 0.5, 1.2, 3.0])
def test_fewer_bytes_at_the_same_error(step: float) -> None:
    """Against steps to the nearest that make the same error; theory gives 0.25 bits to infinitely many states."""
    values = laplace(60, 300)

    def to_nearest(size: float) -> tuple[int, float]:
        numbers = torch.round(values / size)
        return coded_bytes(numbers, is_dependent=False), float((numbers * size - values).square().mean())

    (numbers,) = rounded_rows([values / (FINER * step)])
    num_bytes = coded_bytes(numbers, is_dependent=True)
    error = float((numbers * FINER * step - values).square().mean())
    sizes = [step * 2 ** (place / 16) for place in range(-16, 17)]
    same = min((to_nearest(size) for size in sizes), key=lambda found: abs(found[1] - error))
    saved = 8 * (same[0] - num_bytes) / values.numel()
    assert 0.02 < saved < 0.25
    assert num_bytes < 0.975 * same[0]


def correlated(size: int) -> Block:
    inputs = torch.randn(4000, size, generator=torch.Generator().manual_seed(0), dtype=torch.float64).cumsum(1)
    curvature = inputs.T @ inputs / 4000
    return block_of(("weight",), curvature + 0.01 * curvature.diagonal().mean() * torch.eye(size, dtype=torch.float64))


@pytest.mark.parametrize("size", [9, 150])
def test_errors_are_made_good_by_the_numbers_behind_them(size: int) -> None:
    block, values = correlated(size), laplace(30, size)
    curvature = torch.linalg.inv(block.upper.double().T @ block.upper.double())

    def loss(rounded: Tensor) -> float:
        error = rounded - values
        return float((error @ curvature * error).sum())

    ones = torch.ones(size, dtype=torch.float64)
    found = rounded_along_trellis(values.T, ones, block.upper).T
    coded_bytes(found, is_dependent=True)
    (alone,) = rounded_rows([values])
    assert loss(found) < 0.5 * loss(alone)


def test_rows_are_rounded_by_themselves(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many are rounded at a time; and the values stay."""
    block, values = correlated(70), laplace(70, 11)
    ones, before = torch.ones(70, dtype=torch.float64), values.clone()
    together = rounded_along_trellis(values, ones, block.upper)
    monkeypatch.setattr(trellis, "MAX_ROWS", 4)
    assert torch.equal(rounded_along_trellis(values, ones, block.upper), together)
    assert torch.equal(values, before)


def test_the_trellis_begins_anew_where_it_is_told_to() -> None:
    values = 2 * laplace(10)
    together = rounded_along_trellis(values[:, None], torch.ones(10, dtype=torch.float64), starts=(0, 4))
    apart = rounded_rows([values[None, :4], values[None, 4:]])
    assert together[:, 0].tolist() == torch.cat(apart, 1)[0].tolist()


@pytest.mark.parametrize("scale", [0.1, 1.0, 30.0])
@pytest.mark.parametrize("with_feedback", [False, True])
def test_the_loop_decides_as_torch_does(*, with_feedback: bool, scale: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also between multiples that are as near, and over several spans."""
    values = scale * laplace(150, 40)
    values[:, 20:] = (2 * values[:, 20:]).round() / 2
    steps = torch.linspace(0.5, 1.5, 150, dtype=torch.float64).round(decimals=1)
    found = []
    for compiled_from in (0, 1 << 60):
        monkeypatch.setattr(trellis, "COMPILED_FROM", compiled_from)
        upper = correlated(150).upper if with_feedback else None
        found.append(rounded_along_trellis(values, steps, upper, (0, 70)))
    assert torch.equal(found[0], found[1])


def test_large_tensors_take_the_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    calls: list[int] = []
    loop = trellis_loop.decide

    def counted(*arrays: Any) -> None:
        calls.append(arrays[0].size)
        loop(*arrays)

    monkeypatch.setattr(trellis, "_compiled_loop", lambda: counted)
    rounded_rows([laplace(8, trellis.COMPILED_FROM // 16)])
    assert not calls
    rounded_rows([laplace(8, trellis.COMPILED_FROM // 8)])
    assert sum(calls) == trellis.COMPILED_FROM
    monkeypatch.setattr(trellis, "is_installed", lambda: False)
    rounded_rows([laplace(8, trellis.COMPILED_FROM // 8)])
    assert sum(calls) == trellis.COMPILED_FROM
