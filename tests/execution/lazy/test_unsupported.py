from collections.abc import Callable
from typing import Any

import pytest
import torch
from tests.execution.networks import (
    STRATEGIES,
    Between,
    assert_same_gradients,
    between,
    fused_as,
    reasons_of,
    strategies_of,
)
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

import tailcut
from tailcut.errors import StructureError
from tailcut.execution import fuse
from tailcut.execution.lazy.context import Context
from tailcut.execution.lazy.unsupported import is_autocast, is_transformed, refuse_unsupported


class DetachedWithGradients(torch.autograd.Function):
    """The number it gives is made of another tensor than it was given."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        with torch.enable_grad():
            y = x.detach().requires_grad_()
            return (y * y).sum(dim=(2, 3), keepdim=True).expand(y.shape)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return -gradient


def test_a_gradient_that_would_be_lost_is_an_error() -> None:
    function: Any = DetachedWithGradients
    model, x = between(lambda y, _: function.apply(1.5 * y))
    for fused in (fused_as(model, strategy) for strategy in STRATEGIES):
        if fused.strategy == "auto":
            assert_same_gradients(fused, model, x, strategies=("auto",))
            continue
        with pytest.raises(StructureError, match="would not reach the layers before"):
            fused(x).sum().backward()


class Checkpointed(nn.Module):
    def __init__(self, *, use_reentrant: bool, around_map: bool) -> None:
        super().__init__()
        self.network, self.x = between()
        self.use_reentrant, self.around_map = use_reentrant, around_map

    def forward(self, x: Tensor) -> Tensor:
        parts = self.network.a, lambda y: self.network.b(torch.relu(y))
        first, second = (parts[0], self._again(parts[1])) if self.around_map else (self._again(parts[0]), parts[1])
        result: Tensor = second(first(x))
        return result

    def _again(self, part: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
        return lambda x: checkpoint(part, x, use_reentrant=self.use_reentrant)


@pytest.mark.parametrize("use_reentrant", [False, True])
@pytest.mark.parametrize("around_map", [False, True])
def test_checkpoints_run_densely(use_reentrant: bool, around_map: bool) -> None:
    model = Checkpointed(use_reentrant=use_reentrant, around_map=around_map)
    fused = fuse(model)
    assert_same_gradients(fused, model, model.x)
    assert set(strategies_of(fused).values()) == {"dense"}


def test_a_checkpoint_around_the_network_is_none_of_its_business() -> None:
    model, x = between()
    fused = fused_as(model, "low_rank")
    expected = torch.autograd.grad(model(x).square().sum(), list(model.parameters()))
    output = checkpoint(fused, x, use_reentrant=False)
    assert "dense" not in set(strategies_of(fused).values())
    for found, wanted in zip(
        torch.autograd.grad(output.square().sum(), list(model.parameters())), expected, strict=True
    ):
        torch.testing.assert_close(found, wanted)


def test_a_checkpoint_around_a_forward_is_not_within_it(context: Context) -> None:
    context.differentiates = True
    refuse_unsupported()


TRANSFORMS: list[Callable[[Any, Tensor], Any]] = [
    lambda called, x: torch.func.grad(lambda y: called(y).square().sum())(x),
    lambda called, x: torch.func.jvp(called, (x,), (x + 1,)),
    lambda called, x: torch.vmap(called)(torch.stack([x, 2 * x])),
    lambda called, x: torch.func.functional_call(called, {k: 2 * v for k, v in called.named_parameters()}, (x,)),
]


@pytest.mark.filterwarnings("ignore:.*torch.jit.script")  # torch's own formulas of tangents
@pytest.mark.parametrize("number", range(len(TRANSFORMS)))
def test_transforms_of_torch(number: int) -> None:
    model, x = between()
    for fused in (fused_as(model, strategy) for strategy in STRATEGIES):
        fused(x)
        for _ in range(2):
            torch.testing.assert_close(TRANSFORMS[number](fused, x), TRANSFORMS[number](model, x))
            torch.testing.assert_close(fused(x), model(x))
        assert fused.strategy == "auto" or "dense" not in set(strategies_of(fused).values())


@pytest.mark.filterwarnings("ignore:.*torch.jit.script")
@pytest.mark.parametrize("of_coefficients", [False, True])
def test_forward_mode_differentiation(of_coefficients: bool) -> None:
    model, x = between()

    def tangent(called: nn.Module, scale: float) -> Tensor:
        with torch.no_grad(), forward_ad.dual_level():
            if of_coefficients:
                duals = {
                    name: forward_ad.make_dual(value.detach(), scale * torch.ones_like(value))
                    for name, value in called.named_parameters()
                }
                output = torch.func.functional_call(called, duals, (x,))
            else:
                output = called(forward_ad.make_dual(x, scale * torch.ones_like(x)))
            found: Tensor = forward_ad.unpack_dual(output).tangent
            return found

    for fused in (fused_as(model, strategy) for strategy in STRATEGIES):
        with torch.no_grad():
            fused(x)
        for scale in (1.0, 2.0):
            torch.testing.assert_close(tangent(fused, scale), tangent(model, scale))


def with_autocast(y: Tensor, model: Any) -> Tensor:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        other = model.c(torch.relu(y))
        return torch.cat([y[:, :8].float(), other.float()], 1)


def with_functions_under_autocast(y: Tensor, model: Any) -> Tensor:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        result: Tensor = torch.relu(functional.group_norm(y + 1, 2)) + model.c(y).mean()
        return result


@pytest.mark.parametrize("inner", [with_autocast, with_functions_under_autocast])
@pytest.mark.parametrize("size", [3, 48])
def test_autocast_within_the_forward(inner: Callable[..., Tensor], size: int) -> None:
    model: Any = Between(inner)
    model.c = nn.Conv2d(24, 16, 3, padding=1)
    tailcut.regularize(model, num_kept=6)
    x = torch.randn(1, 8, size, size)
    expected = model(x)
    for strategy in STRATEGIES:
        fused = fused_as(model, strategy)
        for _ in range(2):
            found = fused(x)
            assert found.dtype == expected.dtype
            error = (found.float() - expected.float()).detach().abs().max()
            assert error < 2e-2 * expected.detach().abs().max()
        found.float().sum().backward()


@pytest.mark.parametrize("within", [False, True])
def test_autocast_around_all_layers(within: bool) -> None:
    class Decorated(Between):
        @torch.autocast("cpu", dtype=torch.bfloat16)  # type: ignore[untyped-decorator]
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x)

    model = Decorated() if within else Between()
    tailcut.regularize(model, num_kept=6)
    x = torch.randn(Between.example)
    fused = fuse(model)
    for strategy in STRATEGIES:
        fused.strategy = strategy
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=not within):
            found = fused(x)
            assert found.dtype == torch.bfloat16
            assert torch.equal(found, model(x))
    assert set(reasons_of(fused).values()) == {"autocast is on where it is called"}


def test_what_is_at_work_is_known() -> None:
    x = torch.ones(2)
    assert not is_transformed()
    assert not is_autocast("cpu")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert is_autocast("cpu")
        assert not is_autocast("meta")
    torch.vmap(within_a_transform)(x)


def within_a_transform(x: Tensor) -> Tensor:
    assert is_transformed()
    return x
