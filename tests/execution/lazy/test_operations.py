import functools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from tests.execution.networks import full_of, lazy_map
from torch import Tensor, nn
from torch.nn import functional

import tailcut
from tailcut.execution.ir.expression import Affine, Function, Given, Pointwise, Resampled
from tailcut.execution.lazy.context import Context
from tailcut.execution.lazy.lazy_map import LazyMap

pytestmark = pytest.mark.usefixtures("context")
low_rank = functools.partial(lazy_map, sizes=(2, 7, 8))


ELEMENTWISE: list[Callable[[Any], Any]] = [
    nn.ReLU(),
    nn.ReLU6(),
    nn.LeakyReLU(0.2),
    nn.ELU(0.5),
    nn.SELU(),
    nn.CELU(0.7),
    nn.GELU(),
    nn.GELU(approximate="tanh"),
    nn.SiLU(),
    nn.Mish(),
    nn.Softplus(2.0),
    nn.Softsign(),
    nn.Hardtanh(-0.5, 0.7),
    nn.Hardswish(),
    nn.Hardsigmoid(),
    nn.Hardshrink(0.3),
    nn.Softshrink(0.3),
    nn.Tanhshrink(),
    nn.LogSigmoid(),
    nn.Threshold(0.1, 3.0),
    nn.Sigmoid(),
    nn.Tanh(),
    torch.exp,
    torch.abs,
    torch.square,
    lambda x: -x,
    lambda x: x**2,
    lambda x: x.clamp(-0.3, 0.4),
    lambda x: torch.clamp(x, min=0.2),
    lambda x: 2 * x + 1 - 0.5,
    lambda x: x + torch.arange(6.0, dtype=torch.float64)[:, None, None],
    lambda x: torch.arange(6.0, dtype=torch.float64).reshape(1, 6, 1, 1) * x,
    lambda x: functional.dropout(x, 0.5, training=False),
    lambda x: x.contiguous().clone(),
]


@pytest.mark.parametrize("function", ELEMENTWISE)
def test_elementwise_functions_stay_low_rank(function: Callable[[Any], Any]) -> None:
    x = low_rank()
    result = function(x)
    assert isinstance(result, LazyMap)
    assert result._full is None
    torch.testing.assert_close(full_of(result), function(full_of(x)))


@pytest.mark.parametrize(
    "function", [nn.ReLU(inplace=True), nn.Hardtanh(inplace=True), nn.ReLU6(inplace=True), torch.relu_, Tensor.sigmoid_]
)
def test_functions_in_place(function: Callable[[Any], Any]) -> None:
    x = low_rank()
    expected = function(full_of(x))
    assert function(x) is x
    torch.testing.assert_close(full_of(x), expected)


@pytest.mark.parametrize(
    "pool",
    [
        nn.MaxPool2d(2),
        nn.MaxPool2d(3, 2, 1),
        nn.MaxPool2d(3, 2, ceil_mode=True),
        nn.MaxPool2d(2, 2, ceil_mode=True),
        nn.MaxPool2d((2, 3), (3, 2), (1, 1)),
        nn.MaxPool2d(5, 5, 2),
        nn.MaxPool2d(2, ceil_mode=True, padding=1),
    ],
)
@pytest.mark.parametrize("activation", [torch.relu, functional.gelu])
def test_max_pool_stays_low_rank(pool: nn.Module, activation: Callable[[Any], Any]) -> None:
    x = low_rank(sizes=(2, 9, 11))
    result = pool(activation(x))
    assert isinstance(result, LazyMap)
    torch.testing.assert_close(full_of(result), pool(activation(full_of(x))))


def test_an_increasing_function_waits_for_the_maximum() -> None:
    part = functional.max_pool2d(torch.relu(low_rank()), 2).parts[0]  # type: ignore[attr-defined]
    assert isinstance(part, Pointwise)
    assert part.function.name == "relu"


def test_max_pool_along_one_and_three_axes() -> None:
    for sizes, pool in (((9,), nn.MaxPool1d(2)), ((4, 5, 6), nn.MaxPool3d(2))):
        x = low_rank(sizes=(2, *sizes))
        torch.testing.assert_close(full_of(pool(x)), pool(full_of(x)))


RESAMPLING: list[Callable[[Any], Any]] = [
    nn.AvgPool2d(2),
    nn.AvgPool2d(3, 1, 1),
    nn.AvgPool2d(3, 2, 1, count_include_pad=False, ceil_mode=True),
    nn.AdaptiveAvgPool2d(1),
    nn.AdaptiveAvgPool2d((3, 2)),
    nn.Upsample(scale_factor=2, mode="bilinear", align_corners=True),
    nn.Upsample(size=(5, 9)),
    lambda x: functional.pad(x, (1, 2, 0, 3)),
    lambda x: functional.pad(x, (1, 2, 2, 3), mode="reflect"),
    lambda x: functional.pad(x, (-1, 0, 0, -2)),
    lambda x: x.mean((2, 3)),
    lambda x: x.mean(dim=[2, 3], keepdim=True),
    lambda x: torch.flatten(functional.adaptive_avg_pool2d(x, 1), 1),
    lambda x: x.flatten(2),
    lambda x: x.flatten(2).transpose(1, 2),
]


@pytest.mark.parametrize("function", RESAMPLING)
@pytest.mark.parametrize("activation", [torch.relu, lambda x: x])
def test_linear_maps_of_the_grid_change_places_with_the_projection(
    function: Callable[[Any], Any], activation: Callable[[Any], Any]
) -> None:
    x = low_rank()
    result = function(activation(x))
    assert isinstance(result, LazyMap)
    expected = function(activation(full_of(x)))
    assert result.shape == expected.shape
    matrix = torch.randn(3, 6, dtype=torch.float64)
    torch.testing.assert_close(
        result.project(matrix), torch.tensordot(matrix, expected.movedim(result.channel_axis, 0), dims=1)
    )
    torch.testing.assert_close(full_of(result), expected)


def test_concatenation_makes_parts() -> None:
    one, two, plain = low_rank(), low_rank(4), torch.randn(2, 3, 7, 8, dtype=torch.float64)
    result = torch.cat([torch.relu(one), two, plain], 1)
    assert isinstance(result, LazyMap)
    assert len(result.parts) == 3
    expected = torch.cat([full_of(one).relu(), full_of(two), plain], 1)
    torch.testing.assert_close(full_of(result), expected)
    along_rows = torch.cat([one, low_rank()], dim=2)
    assert type(along_rows) is Tensor


def test_sums_of_affine_maps_stay_affine() -> None:
    one, two = low_rank(), low_rank(k=3)
    result = one + two
    assert isinstance(result, LazyMap)
    assert isinstance(result.parts[0], Affine)
    torch.testing.assert_close(full_of(result), full_of(one) + full_of(two))


def test_residual_chains_stay_low_rank() -> None:
    one, two, plain = low_rank(), low_rank(), torch.randn(2, 6, 7, 8, dtype=torch.float64)
    result = torch.relu(one) + two
    result += plain
    result = result * torch.sigmoid(one) - two
    assert isinstance(result, LazyMap)
    assert result._full is None
    first, second = full_of(one), full_of(two)
    torch.testing.assert_close(full_of(result), (first.relu() + second + plain) * first.sigmoid() - second)


def test_a_long_chain_is_written_once(context: Context) -> None:
    context.record("conv", "fused", "no full map is written")
    chain: Any = torch.relu(low_rank(k=6))
    for _ in range(12):
        chain = torch.relu(chain + low_rank(k=6))
    assert "a long chain of additions is written once" in context.records["conv"].reasons


GATE = torch.randn(2, 6, 1, 1, dtype=torch.float64)
LEFT_TO_TORCH: list[Callable[[Any], Any]] = [
    lambda x: x * GATE,
    lambda x: torch.add(x, x, alpha=2),
    lambda x: 2 - x,
    lambda x: x.flatten(1),
    lambda x: x.mean(1),
    lambda x: torch.relu(functional.pad(x, (1, 1))),
]


@pytest.mark.parametrize("function", LEFT_TO_TORCH)
def test_what_has_no_low_rank_form_reads_the_whole_map(function: Callable[[Any], Any]) -> None:
    x = low_rank()
    torch.testing.assert_close(full_of(function(x)), function(full_of(x)))


def test_dropout_in_training_reads_the_whole_map() -> None:
    x = low_rank()
    torch.manual_seed(1)
    found = functional.dropout(x, 0.5, training=True)
    torch.manual_seed(1)
    torch.testing.assert_close(full_of(found), functional.dropout(full_of(x), 0.5, training=True))


def test_given_parts_and_functions_have_names() -> None:
    assert Function("relu", torch.relu).name == "relu"
    part = functional.adaptive_avg_pool2d(torch.relu(low_rank()), 1).parts[0]  # type: ignore[attr-defined]
    assert isinstance(part, Resampled)
    assert not isinstance(part, Given)


WITHOUT_BATCH: list[tuple[Callable[[Any], Any], tuple[int, ...]]] = [
    (lambda x: functional.max_pool2d(x, 2), (3, 8)),
    (lambda x: functional.max_pool2d(x, (1, 2)), (3, 8)),
    (lambda x: functional.max_pool3d(x, 2), (2, 4, 8)),
    (lambda x: functional.avg_pool2d(x, 2), (3, 8)),
    (lambda x: functional.avg_pool3d(x, 2), (2, 4, 8)),
    (lambda x: functional.adaptive_avg_pool2d(x, 1), (3, 8)),
    (lambda x: functional.adaptive_avg_pool2d(x, (6, 2)), (3, 8)),
    (lambda x: functional.adaptive_avg_pool3d(x, 1), (2, 4, 8)),
    (lambda x: functional.max_pool1d(x, 2), (3,)),
    (lambda x: functional.avg_pool1d(x, 2), (3,)),
]


@pytest.mark.parametrize(("pool", "sizes"), WITHOUT_BATCH)
def test_pooling_over_the_channels_of_one_image_without_a_batch(
    pool: Callable[[Any], Any], sizes: tuple[int, ...]
) -> None:
    """Torch's functions take a map of one axis fewer for a single image: its first axis is not that of a batch."""
    x = low_rank(sizes=sizes)
    torch.testing.assert_close(pool(x), pool(full_of(x)))


def test_padding_by_nothing_is_another_map() -> None:
    x = low_rank()
    expected = full_of(x).clone()
    functional.relu(functional.pad(x, (0, 0, 0, 0)), inplace=True)
    torch.testing.assert_close(full_of(x), expected)


@pytest.mark.parametrize("dtype", [torch.int64, torch.bool, torch.float32])
def test_concatenation_with_another_type(dtype: torch.dtype) -> None:
    x = low_rank()
    other = torch.ones(2, 3, 7, 8, dtype=dtype)
    result = torch.cat([x, other], 1)
    assert not isinstance(result, LazyMap)  # which has one type
    torch.testing.assert_close(result, torch.cat([full_of(x), other], 1))


def test_sums_of_maps_of_different_types() -> None:
    x, y = low_rank(), low_rank()
    (part,) = y.parts
    assert isinstance(part, Affine)
    y = y.like([Affine(6, part.source.float(), part.matrix.float(), None)])
    torch.testing.assert_close(x + y, full_of(x) + full_of(y))


def test_padding_with_a_number_is_not_padding_with_zeros() -> None:
    class Padded(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two = nn.Conv2d(8, 32, 3), nn.Conv2d(32, 32, 3)

        def forward(self, x: Tensor) -> Tensor:
            y: Tensor = self.two(functional.pad(self.one(x), (1, 1, 1, 1), value=2.0))
            return y

    torch.manual_seed(0)
    model = Padded().eval()
    tailcut.regularize(model, num_kept=60, warn=False)
    fused = tailcut.fuse(model, engine="torch")
    fused.strategy = "low_rank"
    x = torch.randn(2, 8, 10, 10)
    with torch.no_grad():
        torch.testing.assert_close(fused(x), model(x), rtol=1e-4, atol=1e-4)
