import pytest
import torch
from torch import Tensor

from tailcut.execution.cpu import tiles
from tailcut.execution.cpu.tiles import project, write
from tailcut.execution.ir.expression import Affine, Expression, Function, Given, Pointwise, Scaled, resample

RELU = Function("relu", torch.relu, torch.relu_, True)
ADD = Function("add", torch.add)


def chain(channels: int = 5, positions: int = 700) -> tuple[list[Expression], Tensor, list[Tensor]]:
    """A residual chain and a second part; the full map by plain operations; and all tensors."""
    z, y, x = (torch.randn(k, 2, positions // 2, dtype=torch.float64) for k in (2, 3, 5))
    a, b = torch.randn(channels, 2, dtype=torch.float64), torch.randn(channels, 3, dtype=torch.float64)
    shift, scale = torch.randn(channels, dtype=torch.float64), torch.rand(channels, dtype=torch.float64)
    tensors = [z, y, x, a, b, shift, scale]
    for tensor in tensors:
        tensor.requires_grad_()
    inner = Pointwise(channels, RELU, (Affine(channels, z, a, shift),))
    outer = Pointwise(channels, RELU, (Pointwise(channels, ADD, (Affine(channels, y, b, None), inner)),))
    parts: list[Expression] = [Scaled(channels, outer, scale, shift), Given(5, x)]
    h = torch.relu(a @ z.flatten(1) + shift[:, None])
    h = torch.relu(b @ y.flatten(1) + h) * scale[:, None] + shift[:, None]
    return parts, torch.cat([h, x.flatten(1)]), tensors


@pytest.fixture(autouse=True)
def _small_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tiles, "TILE_BYTES", 5 * 8 * 64)
    monkeypatch.setattr(tiles, "MIN_TILE", 64)


def test_a_projection_is_the_product_with_the_full_map() -> None:
    parts, full, _ = chain()
    matrix = torch.randn(4, 10, dtype=torch.float64)
    with torch.no_grad():
        result = project(parts, matrix)
    assert result.shape == (4, 2, 350)
    torch.testing.assert_close(result.flatten(1), matrix @ full)


def test_written_maps_are_the_full_map() -> None:
    parts, full, _ = chain()
    with torch.no_grad():
        written = torch.cat([write(part) for part in parts])
    torch.testing.assert_close(written.flatten(1), full)


def test_gradients_are_those_of_the_full_map() -> None:
    parts, full, tensors = chain()
    matrix = torch.randn(4, 10, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(4, 700, dtype=torch.float64)
    expected = torch.autograd.grad((matrix @ full * weight).sum(), [*tensors, matrix])
    found = torch.autograd.grad((project(parts, matrix).flatten(1) * weight).sum(), [*tensors, matrix])
    for one, two in zip(found, expected, strict=True):
        torch.testing.assert_close(one, two)


def test_gradcheck() -> None:
    def function(z: Tensor, a: Tensor, shift: Tensor, matrix: Tensor) -> Tensor:
        return project([Pointwise(3, Function("tanh", torch.tanh, torch.tanh_), (Affine(3, z, a, shift),))], matrix)

    shapes = ((2, 1, 70), (3, 2), (3,), (2, 3))
    inputs = [torch.randn(*shape, dtype=torch.float64, requires_grad=True) for shape in shapes]
    assert torch.autograd.gradcheck(function, inputs)


def test_only_what_needs_a_gradient_gets_one() -> None:
    z, a = torch.randn(2, 1, 100), torch.randn(3, 2, requires_grad=True)
    result = project([Pointwise(3, RELU, (Affine(3, z, a, None),))], torch.randn(2, 3))
    result.sum().backward()
    assert a.grad is not None
    assert z.grad is None


def test_nothing_full_is_kept_for_the_backward_pass() -> None:
    z, a = torch.randn(2, 1, 5000, requires_grad=True), torch.randn(64, 2, requires_grad=True)
    kept = 0

    def pack(tensor: Tensor) -> Tensor:
        nonlocal kept
        kept += tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        project([Pointwise(64, RELU, (Affine(64, z, a, None),))], torch.randn(2, 64))
    assert kept < 64 * 5000


def test_a_given_map_is_never_overwritten() -> None:
    x = torch.randn(3, 1, 100)
    before = x.clone()
    with torch.no_grad():
        project([Pointwise(3, RELU, (Given(3, x),))], torch.eye(3))
    assert torch.equal(x, before)


def test_a_resampled_part_is_projected_first() -> None:
    part = Affine(4, torch.randn(2, 1, 6, 7), torch.randn(4, 2), torch.randn(4))
    padded = resample(part, lambda x: torch.nn.functional.pad(x, (1, 1, 0, 2)))
    matrix = torch.randn(3, 4)
    expected = torch.einsum("oc,cbhw->obhw", matrix, torch.nn.functional.pad(write(part), (1, 1, 0, 2)))
    torch.testing.assert_close(project([padded], matrix), expected)


@pytest.mark.parametrize("function", [RELU, Function("sigmoid", torch.sigmoid, torch.sigmoid_, True, 8)])
def test_a_part_that_is_the_child_of_another_part_is_not_overwritten(function: Function) -> None:
    z, a = torch.randn(2, 1, 700, dtype=torch.float64), torch.randn(5, 2, dtype=torch.float64)
    inner = Pointwise(5, Function("silu", torch.nn.functional.silu), (Affine(5, z, a, None),))
    parts: list[Expression] = [Pointwise(5, function, (inner,)), inner]
    full = torch.nn.functional.silu(a @ z.flatten(1))
    matrix = torch.randn(4, 10, dtype=torch.float64)
    with torch.no_grad():
        result = project(parts, matrix)
    torch.testing.assert_close(result.flatten(1), matrix @ torch.cat([function.call(full), full]))
