from collections.abc import Callable
from typing import Any

import pytest
import torch
from tests.execution.networks import STRATEGIES, assert_same_gradients, between
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.utils.checkpoint import checkpoint

from tailcut.errors import StructureError
from tailcut.execution import FusedNetwork, fuse
from tailcut.execution.lazy.context import Context
from tailcut.execution.lazy.unsupported import is_autocast, is_transformed, refuse_unsupported


def strategies_for(model: nn.Module) -> list[FusedNetwork]:
    found = [fuse(model), fuse(model)]
    for fused, strategy in zip(found, STRATEGIES, strict=True):
        fused.strategy = strategy
    return found


class Opposite(torch.autograd.Function):
    """Gives back its argument, and the opposite of its gradient."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return -gradient


class OppositeOfActive(Opposite):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return torch.relu(x)


class OppositeByCopy(Opposite):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return torch.from_numpy(x.detach().numpy().copy())


class OppositeInPlace(Opposite):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.mark_dirty(x)
        return x.mul_(2)


class OppositeWithGradients(Opposite):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        with torch.enable_grad():
            return torch.relu(x)


class OppositeAtOnce(Opposite):
    @staticmethod
    def forward(*args: Any) -> Any:
        return 2 * args[0]

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        pass


FUNCTIONS = [Opposite, OppositeOfActive, OppositeByCopy, OppositeInPlace, OppositeWithGradients, OppositeAtOnce]


@pytest.mark.parametrize("function", FUNCTIONS)
def test_layers_before_a_function_get_its_gradients(function: Any) -> None:
    model, x = between(lambda y, _: function.apply(1.5 * y))
    assert_same_gradients(fuse(model), model, x)
    fused = fuse(model)
    fused(x)
    assert {layer.strategy for layer in fused.report().layers} == {"dense"}
    with torch.no_grad():
        torch.testing.assert_close(fused(x), model(x))


class DetachedWithGradients(Opposite):
    """The number it gives is made of another tensor than it was given."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        with torch.enable_grad():
            y = x.detach().requires_grad_()
            return (y * y).sum(dim=(2, 3), keepdim=True).expand(y.shape)


def test_a_gradient_that_would_be_lost_is_an_error() -> None:
    function: Any = DetachedWithGradients
    model, x = between(lambda y, _: function.apply(1.5 * y))
    for fused in strategies_for(model):
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
    assert {layer.strategy for layer in fused.report().layers} == {"dense"}


def test_a_checkpoint_around_the_network_is_none_of_its_business() -> None:
    model, x = between()
    fused = fuse(model)
    fused.strategy = "low_rank"
    expected = torch.autograd.grad(model(x).square().sum(), list(model.parameters()))
    output = checkpoint(fused, x, use_reentrant=False)
    assert "dense" not in {layer.strategy for layer in fused.report().layers}
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
    for fused in strategies_for(model):
        fused(x)
        for _ in range(2):
            torch.testing.assert_close(TRANSFORMS[number](fused, x), TRANSFORMS[number](model, x))
            torch.testing.assert_close(fused(x), model(x))
        assert fused.strategy == "auto" or "dense" not in {layer.strategy for layer in fused.report().layers}


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

    for fused in strategies_for(model):
        with torch.no_grad():
            fused(x)
        for scale in (1.0, 2.0):
            torch.testing.assert_close(tangent(fused, scale), tangent(model, scale))


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
