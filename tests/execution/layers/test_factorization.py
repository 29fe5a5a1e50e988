import copy
from typing import Any

import pytest
import torch
from torch import nn
from torch.autograd import forward_ad
from torch.nn import functional

import tailcut
from tailcut.execution.ir.cost import Costs
from tailcut.execution.layers.factorization import TruncatedWeight, block_diagonal, grouped_outward
from tailcut.execution.lazy.context import Context
from tailcut.weights import truncation_of

LAYERS = [
    nn.Linear(9, 7),
    nn.Conv1d(6, 8, 3),
    nn.Conv2d(6, 8, (3, 2)),
    nn.ConvTranspose2d(6, 8, 3),
    nn.Conv3d(4, 5, 2),
    nn.Embedding(11, 6),
]


def new_context() -> Context:
    return Context("torch", "low_rank", Costs.of("cpu", with_gradients=False))


def weight_of(layer: nn.Module, **settings: object) -> TruncatedWeight:
    tailcut.regularize(layer, **settings)  # type: ignore[arg-type]
    return TruncatedWeight(truncation_of(layer, "weight"), layer)


@pytest.mark.parametrize("axes", ["all", (0,), (1,)])
@pytest.mark.parametrize("number", range(len(LAYERS)))
def test_the_factors_multiply_to_the_weight(number: int, axes: object) -> None:
    layer = copy.deepcopy(LAYERS[number]).double()
    weight = weight_of(layer, keep_ratio=0.4, axes=axes)
    factors = weight.factors(new_context())
    product = factors.core
    if factors.inward is not None:
        product = torch.tensordot(product, factors.inward, dims=([1], [0])).movedim(-1, 1)
    if factors.outward is not None:
        product = torch.tensordot(factors.outward, product, dims=([1], [0]))
    dense: Any = layer.weight
    if weight.swapped:
        dense = dense.transpose(0, 1)
    torch.testing.assert_close(product, dense)


def test_factors_are_kept_until_the_coefficients_change() -> None:
    layer = nn.Linear(9, 7)
    weight = weight_of(layer, num_kept=6)
    with torch.no_grad():
        first = weight.factors(new_context())
        assert weight.factors(new_context()) is first
        weight.tensor.vector.add_(1)
        second = weight.factors(new_context())
    assert second is not first
    assert not torch.equal(second.core, first.core)


def test_what_inference_mode_has_kept_serves_gradients_too() -> None:
    layer = nn.Linear(9, 7)
    weight = weight_of(layer, num_kept=6)
    with torch.inference_mode():
        factors = weight.factors(new_context())
        derived = weight.derived("doubled", lambda: 2 * factors.core)
    with torch.inference_mode():
        dense = weight.dense(new_context())
    assert not any(found.is_inference() or found.requires_grad for found in (factors.core, derived, dense))
    layer.requires_grad_(requires_grad=False)
    x = torch.randn(3, 9, requires_grad=True)
    functional.linear(x, weight.dense(new_context())).sum().backward()
    torch.testing.assert_close(x.grad, layer.weight.sum(0).expand(3, 9))


def test_within_transforms_nothing_is_kept() -> None:
    weight = weight_of(nn.Linear(9, 7), num_kept=6)
    with torch.no_grad(), forward_ad.dual_level():
        assert weight.state() is None
    assert weight.state() is not None


def test_with_gradients_they_are_computed_once_per_forward() -> None:
    weight, context = weight_of(nn.Linear(9, 7), num_kept=6), new_context()
    factors = weight.factors(context)
    assert weight.factors(context) is factors
    assert weight.factors(new_context()) is not factors
    assert factors.core.requires_grad


def test_cosines_are_made_once_for_all_steps_of_a_training() -> None:
    weight = weight_of(nn.Linear(90, 70), num_kept=60)
    first = weight.factors(new_context())
    with torch.no_grad():
        weight.tensor.vector.mul_(2)
    second = weight.factors(new_context())
    assert second.inward is first.inward
    assert second.outward is first.outward
    torch.testing.assert_close(second.core, 2 * first.core)


@pytest.mark.parametrize("swapped", [False, True])
def test_cosines_follow_the_corner_and_the_type(swapped: bool) -> None:
    layer: Any = nn.ConvTranspose2d(6, 8, 3) if swapped else nn.Conv2d(6, 8, 3)
    weight = weight_of(layer, num_kept=60)
    weight.factors(new_context())
    weight.tensor.truncation.cut(5)
    layer.double()
    factors = weight.factors(new_context())
    assert factors.inward is not None
    assert factors.outward is not None
    product = torch.tensordot(torch.tensordot(factors.core, factors.inward, ([1], [0])), factors.outward, ([0], [1]))
    product = product.permute(3, 2, 0, 1)
    torch.testing.assert_close(product, layer.weight.transpose(0, 1) if swapped else layer.weight)


def test_cosines_of_inference_mode_serve_a_training() -> None:
    weight = weight_of(nn.Linear(9, 7), num_kept=6)
    with torch.inference_mode():
        weight.factors(new_context())
    factors = weight.factors(new_context())
    assert factors.inward is not None
    (factors.core @ factors.inward).sum().backward()
    assert weight.tensor.vector.grad is not None


def test_groups_stand_along_the_diagonal() -> None:
    matrix = torch.arange(6.0).reshape(2, 3)
    assert block_diagonal(matrix, 2).shape == (4, 6)
    outward = torch.arange(8.0).reshape(4, 2)
    grouped = grouped_outward(outward, 4, 2, matrix)
    assert torch.equal(grouped[:2, :2], outward[:2])
    assert torch.equal(grouped[2:, 2:], outward[2:])
    assert torch.equal(grouped_outward(None, 3, 1, matrix), torch.eye(3))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_factors_are_kept_until_torch_counts_a_write(dtype: torch.dtype) -> None:
    weight = weight_of(nn.Linear(128, 128).to(dtype), num_kept=6)
    vector = weight.tensor.vector
    with torch.no_grad():
        first = weight.factors(new_context())
        assert weight.factors(new_context()) is first
        vector.mul_(3)
        torch.testing.assert_close(weight.factors(new_context()).core, 3 * first.core)
        vector.data = vector.data.double()
        assert weight.factors(new_context()).core.dtype == torch.float64
