from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from tailcut.execution.cpu import codegen, compiled, tiles
from tailcut.execution.ir import programs
from tailcut.execution.ir.expression import Affine, Expression, Function, Given, Pointwise, Scaled
from tailcut.execution.lazy.operations import _MAXIMUM, _pooled

pytest.importorskip("numba")

RELU = Function("relu", torch.relu, torch.relu_, True, 1, (0.0, float("inf")))
RELU6 = Function("relu6", torch.nn.functional.relu6, None, True, 1, (0.0, 6.0))
ADD = Function("add", torch.add)
Case = tuple[list[Tensor], list[Expression]]


@pytest.fixture(autouse=True)
def _every_size_pays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(codegen, "MIN_FLOPS", 0)
    monkeypatch.setattr(compiled, "MIN_ELEMENTS", 0)


def leaf(*shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(shape, dtype=dtype, requires_grad=True)


def one_layer(channels: int, k: int) -> Case:
    leaves = [leaf(k, 2, 700), leaf(channels, k), leaf(channels)]
    return leaves, [Pointwise(channels, RELU6, (Affine(channels, *leaves),))]


def residual_chain() -> Case:
    z, y, first, shift, second = leaf(3, 2, 700), leaf(5, 2, 700), leaf(10, 3), leaf(10), leaf(10, 5)
    inner = Pointwise(10, RELU, (Affine(10, z, first, shift),))
    total = Pointwise(10, ADD, (inner, Affine(10, y, second, None)))
    return [z, y, first, shift, second], [Pointwise(10, RELU, (total,))]


def map_in_memory() -> Case:
    z, matrix, full, scale, shift = leaf(4, 2, 700), leaf(7, 4), leaf(7, 2, 700), leaf(7), leaf(7)
    scaled = Scaled(7, Given(7, full), scale, shift)
    total = Pointwise(7, ADD, (Affine(7, z, matrix, None), scaled))
    return [z, matrix, full, scale, shift], [Pointwise(7, RELU, (total,))]


def two_parts() -> Case:
    (one, [first]), (two, [second]) = one_layer(5, 2), residual_chain()
    return [*one, *two], [first, second]


def pooled() -> Case:
    z, matrix = leaf(4, 2, 50, 46), leaf(6, 4)
    phases = [(slice(dy, 50, 2), slice(dx, 46, 2)) for dy in range(2) for dx in range(2)]
    return [z, matrix], [_pooled(Pointwise(6, RELU, (Affine(6, z, matrix, None),)), phases)]


def larger_of_two() -> Case:
    z, y, first, second = leaf(3, 2, 700), leaf(2, 2, 700), leaf(6, 3), leaf(6, 2)
    return [z, y, first, second], [Pointwise(6, _MAXIMUM, (Affine(6, z, first, None), Affine(6, y, second, None)))]


# Compiling takes seconds for each form: these few have all operations, rounded sizes, and channels left over. The tests
# below take forms of these again where they can: projections have three rows.
ROWS = 3
CASES: list[Callable[[], Case]] = [residual_chain, map_in_memory, two_parts, pooled, larger_of_two]
CASES += [partial(one_layer, channels, k) for channels, k in ((1, 1), (6, 4), (8, 5))]


def with_gradients(call: Callable[[str], Tensor], leaves: Sequence[Tensor], engine: str) -> tuple[Tensor, ...]:
    result = call(engine)
    torch.manual_seed(1)
    return result, *torch.autograd.grad(result, leaves, torch.randn_like(result))


def check_engines_agree(call: Callable[[str], Tensor], leaves: Sequence[Tensor], **tolerances: Any) -> None:
    """Results and gradients of the loops are those of the tiles."""
    both = [with_gradients(call, leaves, engine) for engine in ("torch", "compiled")]
    for tiled, looped in zip(*both, strict=True):
        torch.testing.assert_close(looped, tiled, **tolerances)


@pytest.mark.parametrize("build", CASES)
def test_projection_and_gradients_are_those_of_the_tiles(build: Callable[[], Case]) -> None:
    leaves, parts = build()
    matrix = leaf(ROWS, sum(part.channels for part in parts))
    assert all(programs.program_of(part) is not None for part in parts)
    check_engines_agree(lambda engine: tiles.project(parts, matrix, engine=engine), [*leaves, matrix])


@pytest.mark.parametrize("build", [map_in_memory, pooled])
def test_a_written_map_and_its_gradients_are_those_of_the_tiles(build: Callable[[], Case]) -> None:
    leaves, [part] = build()
    check_engines_agree(lambda engine: tiles.write(part, engine=engine), leaves)


def test_gradients_are_right_by_finite_differences() -> None:
    (z, y, first, shift, second), _ = residual_chain()
    matrix = leaf(ROWS, 10)

    def loss(shift: Tensor, matrix: Tensor) -> Tensor:
        moved = Pointwise(10, RELU, (Affine(10, z, first, shift),))
        total = Pointwise(10, RELU, (Pointwise(10, ADD, (moved, Affine(10, y, second, None))),))
        return tiles.project([total], matrix, engine="compiled").sum(dim=(1, 2))

    torch.autograd.gradcheck(loss, (shift, matrix))


def test_equal_maxima_share_their_gradient() -> None:
    z, matrix = leaf(2, 1, 600), leaf(3, 2)
    y = z.detach().clone().requires_grad_()
    same = Pointwise(3, _MAXIMUM, (Affine(3, z, matrix, None), Affine(3, y, matrix, None)))
    out = tiles.write(same, engine="compiled")
    out.backward(torch.ones_like(out))
    half = matrix.detach().sum(0)[:, None, None].expand(2, 1, 600) / 2
    for source in (z, y):
        torch.testing.assert_close(source.grad, half)


def test_float32_and_a_source_used_twice() -> None:
    z = leaf(5, 1, 3000, dtype=torch.float32)
    one, two = leaf(9, 5, dtype=torch.float32), leaf(9, 5, dtype=torch.float32)
    part = Pointwise(9, ADD, (Pointwise(9, RELU, (Affine(9, z, one, None),)), Affine(9, z, two, None)))
    check_engines_agree(lambda engine: tiles.write(part, engine=engine), [z, one, two], rtol=1e-4, atol=1e-3)


def test_a_sum_without_gradients_takes_plain_maps_too() -> None:
    _, [part] = one_layer(6, 4)
    plain, matrix = Affine(9, leaf(3, 2, 700), leaf(9, 3), leaf(9)), leaf(ROWS, 15)
    with torch.no_grad():
        looped, tiled = (tiles.project([part, plain], matrix, engine=engine) for engine in ("compiled", "torch"))
    torch.testing.assert_close(looped, tiled)


@pytest.mark.parametrize("engine", ["compiled", "torch"])
def test_what_is_no_number_stays_so(engine: str) -> None:
    source = torch.randn(2, 1, 600, dtype=torch.float64)
    source[0, 0, 7] = float("nan")
    ones = torch.ones(4, 2, dtype=torch.float64)
    part = Pointwise(4, RELU6, (Affine(4, source, ones, ones[:, 0]),))
    found = tiles.project([part], torch.ones(ROWS, 4, dtype=torch.float64), engine=engine)
    assert found.isnan().nonzero().tolist() == [[row, 0, 7] for row in range(ROWS)]


def test_what_is_no_number_stays_so_in_maxima() -> None:
    leaves, [part] = larger_of_two()
    with torch.no_grad():
        leaves[0][0, 0, 5], leaves[1][1, 1, 9] = float("nan"), float("nan")
    found = tiles.write(part, engine="compiled")
    assert found[0].isnan().nonzero().tolist() == [[0, 5], [1, 9]]
    torch.testing.assert_close(found, tiles.write(part), equal_nan=True)


def test_a_matrix_that_needs_no_gradient_gets_none() -> None:
    leaves, [part] = one_layer(6, 4)
    matrix = torch.randn(ROWS, 6, dtype=torch.float64)
    out = tiles.project([part], matrix, engine="compiled")
    out.sum().backward()
    expected = torch.autograd.grad(tiles.project([part], matrix).sum(), leaves)
    for tensor, gradient in zip(leaves, expected, strict=True):
        torch.testing.assert_close(tensor.grad, gradient)
    assert matrix.grad is None
