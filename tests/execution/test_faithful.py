"""A fused network does what the network's own code does, whatever that code is: the oracle is the network itself."""

import copy
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from tests.execution.networks import STRATEGIES, Between, assert_same_gradients, between, fused_as, strategies_of
from tests.own_tensors import ScanTensor, scan
from torch import Tensor, nn

import tailcut
from tailcut.execution import fuse

X = torch.randn(2, 64, 12, 12, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def truncated(model: Any) -> Any:
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.05)
    tailcut.regularize(model.double(), num_kept=12)
    return model


def by_a_view(y: Tensor, _: nn.Module) -> Tensor:
    y[:, :12].zero_()
    return torch.relu(y)


def by_a_part(y: Tensor, _: nn.Module) -> Tensor:
    y.narrow(1, 0, 12).mul_(3)
    return torch.relu(y)


def under_a_detached_one(y: Tensor, _: nn.Module) -> Tensor:
    before = y.detach()
    y.mul_(2)
    return y + before


def after_it_was_written(y: Tensor, _: nn.Module) -> Tensor:
    """What is lazy meets what is not any more."""
    z = 2 * y
    total = y.cumsum(2)
    z += y
    return z * torch.sigmoid(y) + total


def with_an_empty_one(y: Tensor, _: nn.Module) -> Tensor:
    return torch.cat([torch.tensor([], dtype=y.dtype), y], 1)


def from_tokens_back_to_a_map(y: Tensor, _: nn.Module) -> Tensor:
    """As SegFormer's blocks: the tokens are in use while a view of them is a map."""
    tokens = y.flatten(2).transpose(1, 2)
    again = tokens.transpose(1, 2).view(y.shape)
    return torch.relu(y) + again.cumsum(2) + tokens.transpose(1, 2).reshape(y.shape)


def changes_the_map_of_tokens(y: Tensor, _: nn.Module) -> Tensor:
    again = y.flatten(2).transpose(1, 2).transpose(1, 2).view(y.shape)
    again[:, 0] += 1
    return torch.relu(y)


def changes_it_before_another(y: Tensor, _: nn.Module) -> Tensor:
    """The first map has no views any more where the second one is made."""
    tokens = (2 * y).flatten(2)
    tokens.transpose(1, 2).transpose(1, 2).view(y.shape).mul_(2)
    total = torch.relu(tokens)
    del tokens
    others = y.flatten(2)
    return total.reshape(y.shape) + others.transpose(1, 2).transpose(1, 2).view(y.shape)


def under_a_view(y: Tensor, _: nn.Module) -> Tensor:
    view = y.flatten(2)
    y.relu_()
    return y + view.reshape(y.shape)


def through_a_turned_one(y: Tensor, _: nn.Module) -> Tensor:
    turned = y.flatten(2).transpose(1, 2)
    turned.mul_(2)
    return y + turned.transpose(1, 2).reshape(y.shape)


def block_without_gradients(y: Tensor, _: nn.Module) -> Tensor:
    with torch.no_grad():
        scale = y.abs().max()
    return y / scale


def shrinks_gradients(y: Tensor, _: nn.Module) -> Tensor:
    if y.requires_grad and not y.is_leaf:
        y.register_hook(lambda gradient: 0.1 * gradient)
    return torch.relu(y)


def shrinks_gradients_by_its_node(y: Tensor, _: nn.Module) -> Tensor:
    if y.grad_fn is not None:
        y.grad_fn.register_prehook(lambda gradients: (0.1 * gradients[0],))
    return torch.relu(y)


def shrinks_gradients_after_a_use(y: Tensor, _: nn.Module) -> Tensor:
    z = torch.relu(y)
    if y.requires_grad:
        y.register_hook(lambda gradient: 0.1 * gradient)
    return z


def used_within_no_grad(y: Tensor, _: nn.Module) -> Tensor:
    with torch.no_grad():
        z = torch.relu(y)
    return z + y


def changed_within_no_grad(y: Tensor, _: nn.Module) -> Tensor:
    z = 1.5 * y
    with torch.no_grad():
        z.mul_(0.5)
        z.floor_()
    return 2 * z


def swish(x: Tensor) -> Tensor:
    return x * torch.sigmoid(x)


with warnings.catch_warnings(action="ignore", category=DeprecationWarning):
    scripted_swish: Any = torch.jit.script(swish)


def calls_a_script(y: Tensor, _: nn.Module) -> Tensor:
    result: Tensor = scripted_swish(y)
    return result


def calls_a_mapped_function(y: Tensor, _: nn.Module) -> Tensor:
    result: Tensor = torch.vmap(swish)(y)
    return result


def statistic_of_a_script(y: Tensor, _: nn.Module) -> Tensor:
    with torch.no_grad():
        scale: Tensor = scripted_swish(y).abs().max()
    return torch.relu(y) / scale


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


def calls(function: Any) -> Callable[..., Tensor]:
    return lambda y, _: function.apply(1.5 * y)


STAY_LOW_RANK = [
    *(by_a_view, by_a_part, under_a_detached_one, after_it_was_written, with_an_empty_one, from_tokens_back_to_a_map)
]
RUN_DENSELY = [
    *(changes_the_map_of_tokens, changes_it_before_another),
    *(under_a_view, through_a_turned_one, block_without_gradients, used_within_no_grad, changed_within_no_grad),
    *(shrinks_gradients, shrinks_gradients_by_its_node, shrinks_gradients_after_a_use),
    *(calls_a_script, calls_a_mapped_function, statistic_of_a_script),
    *(calls(Opposite), calls(OppositeOfActive), calls(OppositeByCopy), calls(OppositeInPlace)),
    *(calls(OppositeWithGradients), calls(OppositeAtOnce)),
]


@pytest.mark.parametrize("function", [*STAY_LOW_RANK, *RUN_DENSELY])
def test_what_code_does_with_maps(function: Callable[..., Tensor]) -> None:
    model, x = between(function)
    fused = fuse(model)
    assert_same_gradients(fused, model, x)  # with "auto" at last
    fused.strategy = "low_rank"
    fused(x)
    assert (set(strategies_of(fused).values()) == {"dense"}) == (function in RUN_DENSELY)
    with torch.no_grad():
        torch.testing.assert_close(fused(x), model(x))


@pytest.mark.parametrize("function", [from_tokens_back_to_a_map, changes_the_map_of_tokens, changes_it_before_another])
def test_writes_are_seen_in_inference_mode(function: Callable[..., Tensor]) -> None:
    model, x = between(function)
    fused = fused_as(model, "low_rank")
    with torch.inference_mode():
        torch.testing.assert_close(fused(x), model(x))
    assert (set(strategies_of(fused).values()) == {"dense"}) == (function in RUN_DENSELY)


def test_gradients_of_maps_are_retained() -> None:
    kept: list[Tensor] = []

    def retains(y: Tensor, _: nn.Module) -> Tensor:
        y.retain_grad()
        kept.append(y)
        return torch.relu(y)

    model, x = between(retains)
    for called in (model, fused_as(model, "low_rank")):
        called(x).square().sum().backward()
    assert kept[0].grad is not None
    torch.testing.assert_close(kept[1].grad, kept[0].grad)


def test_maps_that_code_keeps_are_tensors_afterwards() -> None:
    kept: list[Tensor] = []

    def keeps(y: Tensor, _: nn.Module) -> Tensor:
        kept.append(y)
        return torch.relu(y)

    model, x = between(keeps)
    for called in (model, fused_as(model, "low_rank")):
        called(x)
        called(x + 1)
    results = []
    for first, second in (kept[:2], kept[2:]):
        results.append(
            [(first - second).abs(), nn.functional.batch_norm(first + 2 * second, None, None, training=True)]
        )
        results[-1] += torch.autograd.grad(first.square().sum(), list(model.parameters()), allow_unused=True)[:1]
        results[-1] += [first.detach().mul_(second), torch.relu(first)]
    for expected, found in zip(*results, strict=True):
        torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("function", [calls_a_script, calls(Opposite)])
def test_gradients_of_the_input_alone(function: Callable[..., Tensor]) -> None:
    model, x = between(function)
    model.requires_grad_(requires_grad=False)
    x.requires_grad_()
    expected = torch.autograd.grad(model(x).square().sum(), x)[0]
    torch.testing.assert_close(torch.autograd.grad(fused_as(model, "low_rank")(x).square().sum(), x)[0], expected)


def test_scripts_without_gradients_stay_fused() -> None:
    model, x = between(calls_a_script)
    fused = fused_as(model, "low_rank")
    with torch.no_grad():
        torch.testing.assert_close(fused(x), model(x))
    assert "dense" not in strategies_of(fused).values()


def test_layers_are_of_the_class_that_they_were() -> None:
    class Loop(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.ModuleList([nn.Conv2d(64, 128, 3), nn.Conv2d(128, 128, 3)])
            self.seen: list[type] = []

        def forward(self, x: Tensor) -> Tensor:
            for layer in self.layers:
                x = layer(x)
                if isinstance(layer, nn.Conv2d):
                    self.seen.append(type(layer))
                    x = x.relu()
            return x

    model = truncated(Loop())
    expected = model(X)
    assert len(model.seen) == 2
    torch.testing.assert_close(fused_as(model, "low_rank")(X), expected)
    assert len(model.seen) == 4


@pytest.mark.parametrize("shape", [(2, 128, 64), (4, 32, 64)])
@pytest.mark.parametrize("training", [False, True])
def test_batch_norm_over_tokens(shape: tuple[int, ...], training: bool) -> None:
    model = truncated(nn.Sequential(nn.Linear(64, 128), nn.BatchNorm1d(shape[1]), nn.ReLU(), nn.Linear(128, 64)).eval())
    norm = model[1]
    norm.running_mean.normal_()
    norm.running_var.uniform_(0.5, 2)
    x = torch.randn(shape, dtype=torch.float64)
    expected = model.train(training)(x)
    torch.testing.assert_close(fused_as(model, "low_rank")(x), expected)


@pytest.mark.parametrize(
    ("mode", "padding"), [("zeros", (2, 2)), ("zeros", "same"), ("zeros", "valid"), ("circular", (2, 2))]
)
def test_settings_that_were_changed_afterwards(mode: Any, padding: Any) -> None:
    model: Any = nn.Sequential(
        nn.Conv2d(64, 128, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(128, 128, 3, padding=padding if isinstance(padding, str) else 1, padding_mode=mode),
    )
    model[2].dilation = (2, 2)
    model[2].padding = padding
    truncated(model)
    torch.testing.assert_close(fused_as(model, "low_rank")(X), model(X))


class Streaming(nn.Module):
    """Buffers and an argument change after the map has met them."""

    scale: Tensor
    memory: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(64, 128, 3, padding=1), nn.Conv2d(256, 128, 3, padding=1)
        self.register_buffer("scale", torch.rand(128, 1, 1))
        self.register_buffer("memory", torch.randn(1, 128, 12, 12))

    def forward(self, x: Tensor, state: Tensor) -> Any:
        y = self.a(x)
        z = torch.cat([torch.relu(y + state) * self.scale + self.scale[:, 0, 0].view(-1, 1, 1), self.memory], 1)
        for tensor in (state, self.scale, self.memory):
            tensor.mul_(0.5)
        return self.b(z)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_what_a_map_has_met_may_change(mode: Any, strategy: str) -> None:
    model = truncated(Streaming())
    dense, fused = copy.deepcopy(model), fused_as(model, strategy)
    with mode():
        mine, theirs = torch.ones(1, 128, 12, 12).double(), torch.ones(1, 128, 12, 12).double()
        for _ in range(3):
            torch.testing.assert_close(fused(X[:1], mine), dense(X[:1], theirs))
    torch.testing.assert_close(mine, theirs)
    assert "factored" in strategies_of(fused).values() or strategy == "auto"


@pytest.mark.parametrize("named", [True, False])
def test_switches_among_the_arguments_may_choose_another_way(named: bool) -> None:
    class Switched(Between):
        def forward(self, x: Tensor, mode: str = "relu") -> Any:
            y = self.a(x)
            return self.b(Opposite.apply(y) if mode == "reversed" else torch.relu(y))  # type: ignore[no-untyped-call]

    model = truncated(Switched())
    fused, x = fuse(model, engine="torch"), torch.randn(Between.example).double()
    for mode in ("relu", "reversed", "relu", "reversed"):
        args, kwargs = ((x,), {"mode": mode}) if named else ((x, mode), {})
        model.zero_grad()
        expected = torch.autograd.grad(model(*args, **kwargs).square().sum(), list(model.parameters()))
        found = torch.autograd.grad(fused(*args, **kwargs).square().sum(), list(model.parameters()))
        for one, two in zip(found, expected, strict=True):
            torch.testing.assert_close(one, two)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_tensors_of_another_class_go_through_the_network_itself(strategy: str) -> None:
    model = truncated(nn.Sequential(nn.Conv2d(64, 64, 3, padding=1), nn.ReLU(), nn.Conv2d(64, 64, 3))).eval()
    fused = fused_as(model, strategy)
    found = fused(scan(X))
    assert isinstance(found, ScanTensor)
    assert found.source == "scanner"
    torch.testing.assert_close(found.as_subclass(Tensor), tailcut.to_dense(model)(X))
    assert "is a ScanTensor; give x.as_subclass(torch.Tensor)" in str(fused.report())
