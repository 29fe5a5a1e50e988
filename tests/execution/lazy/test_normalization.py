import copy
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.execution.networks import full_of, lazy_map
from torch import nn
from torch.nn import functional

from tailcut.execution.ir.cost import Costs
from tailcut.execution.ir.expression import Affine
from tailcut.execution.lazy.context import Context, running
from tailcut.execution.lazy.lazy_map import LazyMap
from tailcut.execution.lazy.normalization import source_moments, variance

NORMS: list[Callable[[], nn.Module]] = [
    lambda: nn.BatchNorm2d(12),
    lambda: nn.BatchNorm2d(12, affine=False, track_running_stats=False),
    lambda: nn.BatchNorm2d(12, momentum=None),
    lambda: nn.GroupNorm(1, 12),
    lambda: nn.GroupNorm(3, 12),
    lambda: nn.GroupNorm(12, 12),
    lambda: nn.InstanceNorm2d(12, affine=True),
]


def randomize(norm: nn.Module) -> nn.Module:
    for tensor in (*norm.parameters(), *norm.buffers()):
        if tensor.is_floating_point():
            nn.init.uniform_(tensor, 0.5, 2)
    return norm.double()


@pytest.mark.usefixtures("context")
@pytest.mark.parametrize("make", NORMS)
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("shift", [True, False])
@pytest.mark.parametrize("batch", [1, 3])
def test_the_norm_of_the_full_map(make: Callable[[], nn.Module], training: bool, shift: bool, batch: int) -> None:
    norm = randomize(make()).train(training)
    x = lazy_map(12, sizes=(batch, 5, 4), shift=shift)
    torch.testing.assert_close(full_of(norm(x)), randomize_like(make, norm)(full_of(x)))


def randomize_like(make: Callable[[], nn.Module], norm: nn.Module) -> nn.Module:
    other = make().double().train(norm.training)
    other.load_state_dict({key: value.clone() for key, value in norm.state_dict().items()})
    return other


@pytest.mark.usefixtures("context")
@pytest.mark.parametrize("norm", [nn.BatchNorm2d(24), nn.GroupNorm(2, 24)])
def test_they_stay_low_rank(norm: nn.Module) -> None:
    result = norm.double()(lazy_map(24))
    assert isinstance(result, LazyMap)
    assert all(isinstance(part, Affine) for part in result.parts)


@pytest.mark.usefixtures("context")
@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("shift", [True, False])
def test_layer_norm_stays_low_rank(affine: bool, shift: bool) -> None:
    norm = randomize(nn.LayerNorm(12, elementwise_affine=affine))
    x = lazy_map(12, axis=3, shift=shift)
    result = norm(x)
    assert isinstance(result, LazyMap)
    assert isinstance(result.parts[0], Affine)
    torch.testing.assert_close(full_of(result), norm(full_of(x)))


@pytest.mark.usefixtures("context")
@pytest.mark.parametrize("norm", [nn.LayerNorm(64), nn.GroupNorm(2, 64)])
@pytest.mark.parametrize("offset", [1e2, 1e4])
def test_digits_are_those_of_the_full_norm_where_a_large_source_and_the_shift_cancel(
    norm: nn.Module, offset: float
) -> None:
    torch.manual_seed(0)
    source, matrix = torch.randn(2, 3, 50) + offset, torch.randn(64, 2)
    shift = torch.randn(64) - matrix.sum(1) * offset
    part = Affine(64, source, matrix, shift)
    axis = 2 if isinstance(norm, nn.LayerNorm) else 1
    result = norm(LazyMap([part], axis, []))
    assert isinstance(result, LazyMap)
    double = copy.deepcopy(norm).double()
    exact = double(full_of(LazyMap([Affine(64, source.double(), matrix.double(), shift.double())], axis, [])))
    dense = norm(full_of(LazyMap([part], axis, [])))
    assert (full_of(result) - exact).abs().max() < 8 * (dense - exact).abs().max() + 1e-5


@pytest.mark.usefixtures("context")
@pytest.mark.parametrize("gradients", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("outlier", [float("nan"), 1e3, 3e4])
def test_layer_norm_leaves_positions_apart(outlier: float, dtype: torch.dtype, gradients: bool) -> None:
    torch.manual_seed(0)
    source, matrix, shift = torch.randn(3, 2, 20), torch.randn(48, 3), torch.randn(48)
    source[:, 1, 7] = outlier
    part = Affine(48, *(value.to(dtype).requires_grad_(gradients) for value in (source, matrix, shift)))
    norm = nn.LayerNorm(48).to(dtype)
    result = norm(LazyMap([part], 2, []))
    assert isinstance(result, LazyMap)
    full = full_of(LazyMap([Affine(48, *(value.to(dtype).double() for value in (source, matrix, shift)))], 2, []))
    exact = functional.layer_norm(full.flatten(0, 1), [48])
    error = (full_of(result).flatten(0, 1).double() - exact).abs()
    limit = 32 * torch.finfo(dtype).eps
    assert error[:27].max() < limit
    assert error[28:].max() < limit
    assert bool(exact[27].isnan().any()) or error[27].max() < limit


@pytest.mark.usefixtures("context")
@pytest.mark.parametrize("columns", ["apart", "dependent"])
def test_gradients_of_layer_norm_are_those_of_the_full_one(columns: str) -> None:
    torch.manual_seed(0)
    source, matrix, shift = torch.randn(3, 2, 5), torch.randn(12, 3), torch.randn(12)
    if columns == "dependent":
        matrix[:, 2] = matrix[:, 1]
    leaves = [value.double().requires_grad_() for value in (source, matrix, shift)]
    upstream = torch.randn(2, 5, 12, dtype=torch.float64)
    norm = randomize(nn.LayerNorm(12)).double()
    low_rank_result = full_of(norm(LazyMap([Affine(12, *leaves)], 2, [])))
    own = torch.autograd.grad((low_rank_result * upstream).sum(), leaves)
    full = torch.einsum("ck,kbp->bpc", leaves[1], leaves[0]) + leaves[2]
    expected = torch.autograd.grad((norm(full) * upstream).sum(), leaves)
    torch.testing.assert_close(own, expected)


def test_running_statistics_are_torchs_own() -> None:
    fused, dense = nn.BatchNorm2d(12).double(), nn.BatchNorm2d(12).double()
    for _ in range(3):
        x = lazy_map(12, offset=5.0)
        with running(Context("torch", "low_rank", Costs.of("cpu", with_gradients=False))):
            fused(x)
            full = full_of(x)
        dense(full)
    for key, value in dense.state_dict().items():
        torch.testing.assert_close(fused.state_dict()[key], value)


@pytest.mark.usefixtures("context")
def test_after_an_activation_running_statistics_are_folded() -> None:
    norm = randomize(nn.BatchNorm2d(12)).eval()
    x = lazy_map(12, sizes=(3, 5, 4))
    result = norm(functional.gelu(x))
    assert isinstance(result, LazyMap)
    torch.testing.assert_close(full_of(result), norm(functional.gelu(full_of(x))))


@pytest.mark.usefixtures("context")
@pytest.mark.parametrize("norm", [nn.BatchNorm2d(12), nn.InstanceNorm2d(12), nn.GroupNorm(2, 12), nn.LayerNorm(4)])
def test_other_cases_read_the_whole_map(norm: nn.Module) -> None:
    x = lazy_map(12, sizes=(3, 5, 4))
    torch.testing.assert_close(full_of(norm.double()(functional.gelu(x))), norm(functional.gelu(full_of(x))))


@pytest.mark.usefixtures("context")
def test_statistics_are_differentiable() -> None:
    source = torch.randn(2, 3, 5, 4, dtype=torch.float64, requires_grad=True)
    matrix = torch.randn(12, 2, dtype=torch.float64, requires_grad=True)
    norm, weight = nn.BatchNorm2d(12).double(), torch.randn(3, 12, 5, 4, dtype=torch.float64)
    found = torch.autograd.grad(
        (full_of(norm(LazyMap([Affine(12, source, matrix, None)], 1, []))) * weight).sum(), [source, matrix]
    )
    full = torch.einsum("ck,kbhw->bchw", matrix, source)
    expected = torch.autograd.grad((norm(full) * weight).sum(), [source, matrix])
    for one, two in zip(found, expected, strict=True):
        torch.testing.assert_close(one, two)


@settings(max_examples=20)
@given(k=st.integers(1, 5), positions=st.integers(2, 40_000), offset=st.floats(-1e3, 1e3))
def test_moments(k: int, positions: int, offset: float) -> None:
    torch.manual_seed(positions)
    source = torch.randn(k, positions) + offset
    with running(Context("torch", "auto", Costs.of("cpu", with_gradients=False))):
        mean, covariance = source_moments(source)
    exact = source.double()
    expected = torch.cov(exact, correction=0).reshape(k, k)
    torch.testing.assert_close(mean.double(), exact.mean(1), rtol=1e-5, atol=1e-4)
    torch.testing.assert_close(covariance.double(), expected, rtol=1e-3, atol=2e-4)
    assert (variance(torch.randn(7, k), covariance) >= 0).all()


@pytest.mark.usefixtures("context")
@pytest.mark.parametrize(
    "norm",
    [
        nn.BatchNorm2d(24, track_running_stats=False),
        nn.BatchNorm2d(24, affine=False, track_running_stats=False),
        nn.GroupNorm(2, 24),
        nn.InstanceNorm2d(24, affine=True),
    ],
)
@pytest.mark.parametrize("mixed", [False, True])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_types_do_not_overflow(norm: nn.Module, dtype: torch.dtype, mixed: bool) -> None:
    """Sums of squares over these positions are far above 65,504, the largest float16. Norms may be of float32."""
    norm = copy.deepcopy(norm) if mixed else copy.deepcopy(norm).to(dtype)
    part = Affine(24, 60 * torch.rand(2, 1, 96, 96).to(dtype), torch.randn(24, 2).to(dtype), torch.randn(24).to(dtype))
    result = norm(LazyMap([part], 1, ["conv"]))
    assert isinstance(result, LazyMap)
    assert result.dtype == dtype
    exact = copy.deepcopy(norm).double()(full_of(LazyMap([part], 1, ["conv"])).double()).detach()
    tolerance = 8 * torch.finfo(dtype).eps * float(exact.abs().max())
    torch.testing.assert_close(full_of(result).double(), exact, rtol=0, atol=tolerance)


def test_gradients_of_moments_of_half_types_are_those_of_float32() -> None:
    source = 60 * torch.rand(2, 9000)
    gradients = []
    for dtype in (torch.float32, torch.float16):
        own = source.clone().to(dtype).requires_grad_()
        mean, covariance = source_moments(own)
        assert mean.dtype == covariance.dtype == torch.float32
        (mean.sum() + covariance.sum()).backward()
        assert own.grad is not None
        gradients.append(own.grad.float())
    torch.testing.assert_close(gradients[1], gradients[0], rtol=5e-3, atol=1e-4)


@pytest.mark.usefixtures("context")
def test_a_layer_norm_of_float32_in_a_network_of_bfloat16() -> None:
    x = lazy_map(24, axis=3)
    (part,) = x.parts
    assert isinstance(part, Affine)
    x = x.like([Affine(24, part.source.bfloat16(), part.matrix.bfloat16(), None)])
    norm = randomize(nn.LayerNorm(24)).float()
    result = norm(x)
    assert isinstance(result, LazyMap)
    expected = norm(full_of(x))
    assert result.dtype == expected.dtype
    torch.testing.assert_close(full_of(result), expected, rtol=0.03, atol=0.1)
