import pytest
import torch
from torch import Tensor, nn

from tailcut.execution import compiled
from tailcut.execution.expression import Affine, Function, Given, Pointwise
from tailcut.execution.operations import _pooled

pytest.importorskip("numba")

RELU = Function("relu", torch.relu, torch.relu_, True, 1, (0.0, float("inf")))
RELU6 = Function("relu6", nn.functional.relu6, None, True, 1, (0.0, 6.0))


def wide(channels: int, k: int, positions: int, dtype: torch.dtype = torch.float64) -> Affine:
    source = torch.randn(k, 1, positions, dtype=dtype)
    return Affine(channels, source, torch.randn(channels, k, dtype=dtype), torch.randn(channels, dtype=dtype))


def plain(part: Affine) -> Tensor:
    shift = torch.zeros(part.channels, dtype=part.matrix.dtype) if part.shift is None else part.shift
    return part.matrix @ part.source.flatten(1) + shift[:, None]


@pytest.mark.parametrize("k", [1, 2, 3, 4, 5, 8, 17])
@pytest.mark.parametrize("channels", [1, 6, 8])
def test_projection_for_any_corner(k: int, channels: int) -> None:
    part, matrix = wide(channels, k, 1300), torch.randn(3, channels, dtype=torch.float64)
    found = compiled.run([(Pointwise(channels, RELU6, (part,)), matrix)], 3, 1300)
    assert found is not None
    torch.testing.assert_close(found, matrix @ plain(part).clamp(0, 6))


def test_sums_over_parts() -> None:
    one, two = wide(6, 4, 1024), wide(9, 3, 1024)
    matrices = torch.randn(5, 6, dtype=torch.float64), torch.randn(5, 9, dtype=torch.float64)
    terms = [(Pointwise(6, RELU, (one,)), matrices[0]), (two, matrices[1])]
    found = compiled.run(terms, 5, 1024)
    assert found is not None
    torch.testing.assert_close(found, matrices[0] @ plain(one).relu() + matrices[1] @ plain(two))


def test_max_pool() -> None:
    part = Affine(6, torch.randn(4, 2, 50, 46), torch.randn(6, 4), None)
    phases = [(slice(dy, 50, 2), slice(dx, 46, 2)) for dy in range(2) for dx in range(2)]
    matrix = torch.randn(3, 6)
    found = compiled.run([(_pooled(Pointwise(6, RELU, (part,)), phases), matrix)], 3, 2 * 25 * 23)
    full = nn.functional.max_pool2d(plain(part).relu().reshape(6, 2, 50, 46), 2)
    assert found is not None
    torch.testing.assert_close(found, matrix @ full.flatten(1), rtol=1e-4, atol=1e-4)


def test_nan_stays_nan() -> None:
    part = wide(4, 2, 600)
    part.source[0, 0, 7] = float("nan")
    found = compiled.run([(Pointwise(4, RELU, (part,)), torch.ones(1, 4, dtype=torch.float64))], 1, 600)
    assert found is not None
    assert found.isnan().nonzero().tolist() == [[0, 7]]


def test_what_the_loops_do_not_know_is_left_to_others() -> None:
    matrix = torch.ones(1, 4, dtype=torch.float64)
    sigmoid = Pointwise(4, Function("sigmoid", torch.sigmoid), (wide(4, 2, 600),))
    assert compiled.run([(sigmoid, matrix)], 1, 600) is None
    assert compiled.run([(Given(4, torch.zeros(4, 1, 600).double()), matrix)], 1, 600) is None
    assert compiled.run([(wide(4, 2, 100), matrix)], 1, 100) is None
    assert compiled.run([(wide(4, 2, 600), None)], 4, 600) is None


def test_small_maps_and_wide_corners_are_left_to_tiles() -> None:
    assert compiled.pays(1 << 19, 16)
    assert not compiled.pays((1 << 19) - 1, 1)
    assert not compiled.pays(1 << 30, 17)


@pytest.mark.parametrize("flops", [1.0, 1e3, 1e9])
@pytest.mark.parametrize("positions", [1, 511, 512, 5000])
def test_pieces_cover_all_positions_once(positions: int, flops: float) -> None:
    ranges = compiled.pieces(positions, flops)
    assert [number for begin, end in ranges for number in range(begin, end)] == list(range(positions))
    assert len(ranges) <= max(1, min(2 * torch.get_num_threads(), positions * flops / compiled.FLOPS_PER_PIECE))


def test_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiled, "_done_flops", 0.0)
    assert not compiled.is_worth_while(4e9)
    assert not compiled.is_worth_while(4e9)
    assert compiled.is_worth_while(1.0)
