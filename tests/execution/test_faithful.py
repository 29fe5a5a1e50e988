"""A fused network does what the network's own code does, whatever that code is: the oracle is the network itself."""

import copy
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import tailcut
from tailcut.execution import FusedNetwork, fuse

X = torch.randn(2, 64, 12, 12, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


class Net(nn.Module):
    """Two wide convolutions, and `between` them what a view may get wrong."""

    def __init__(self, between: Callable[..., Any] = torch.relu) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(64, 128, 3, padding=1), nn.Conv2d(128, 128, 3, padding=1)
        self.between = between

    def forward(self, x: Tensor) -> Any:
        return self.b(self.between(self.a(x)))


def truncated(model: Any) -> Any:
    torch.manual_seed(0)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.05)
    tailcut.regularize(model.double(), num_kept=12)
    return model


def low_rank(model: nn.Module) -> FusedNetwork:
    fused = fuse(model, engine="torch")
    fused.strategy = "low_rank"
    return fused


def gradients(model: nn.Module, called: nn.Module, x: Tensor) -> dict[str, Tensor | None]:
    model.zero_grad()
    called(x).square().sum().backward()
    return {name: parameter.grad for name, parameter in model.named_parameters()}


class Reversal(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return -gradient


def no_gradient_block(x: Tensor) -> Tensor:
    with torch.no_grad():
        scale = x.abs().max()
    return x / scale


def by_a_view(x: Tensor) -> Tensor:
    x[:, :64].zero_()
    return torch.relu(x)


def by_a_part(x: Tensor) -> Tensor:
    x.narrow(1, 0, 64).mul_(3)
    return torch.relu(x)


def under_a_view(x: Tensor) -> Tensor:
    view = x.flatten(2)
    x.relu_()
    return x + view.reshape(x.shape)


def under_a_detached_one(x: Tensor) -> Tensor:
    before = x.detach()
    x.mul_(2)
    return x + before


def through_a_turned_one(x: Tensor) -> Tensor:
    flat = x.flatten(2)
    turned = flat.transpose(1, 2)
    turned.mul_(2)
    return x + flat.reshape(x.shape)


def turned_alone(x: Tensor) -> Tensor:
    turned = x.flatten(2).transpose(1, 2)
    turned += 1
    return turned.transpose(1, 2).reshape(x.shape)


def with_an_empty_one(x: Tensor) -> Tensor:
    return torch.cat([torch.tensor([], dtype=x.dtype), x], 1)


@pytest.mark.parametrize(
    "between",
    [
        no_gradient_block,
        by_a_view,
        by_a_part,
        under_a_view,
        under_a_detached_one,
        through_a_turned_one,
        turned_alone,
        with_an_empty_one,
    ],
)
def test_what_code_does_with_maps(between: Callable[[Tensor], Tensor]) -> None:
    model = truncated(Net(between))
    fused = low_rank(model)
    with torch.no_grad():
        torch.testing.assert_close(fused(X), model(X))
    expected = gradients(model, model, X)
    for name, gradient in gradients(model, fused, X).items():
        torch.testing.assert_close(gradient, expected[name], msg=name)


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
    torch.testing.assert_close(low_rank(model)(X), expected)
    assert len(model.seen) == 4


def test_a_forward_of_its_own_is_called() -> None:
    model = truncated(Net())
    assert isinstance(model, Net)
    own = model.b.forward
    model.b.forward = lambda x: 2 * own(x)  # type: ignore[method-assign,assignment]
    torch.testing.assert_close(low_rank(model)(X), model(X))


def test_maps_that_hooks_and_objects_keep_are_tensors_afterwards() -> None:
    @dataclass
    class Output:
        maps: Tensor

    class Objects(Net):
        def forward(self, x: Tensor) -> Any:
            return Output(torch.relu(self.a(x)))

    model = truncated(Objects())
    expected = model(X).maps
    kept: list[Tensor] = []
    model.a.register_forward_hook(lambda module, inputs, output: kept.append(output))
    found = low_rank(model)(X).maps
    torch.testing.assert_close(found.mean((2, 3)), expected.mean((2, 3)))
    torch.testing.assert_close(kept[0].relu().sum(), expected.sum())
    gradient = torch.autograd.grad(kept[0].square().sum(), list(model.parameters()), allow_unused=True)[0]
    assert gradient is not None


@pytest.mark.parametrize("shape", [(2, 128, 64), (4, 32, 64)])
@pytest.mark.parametrize("training", [False, True])
def test_batch_norm_over_tokens(shape: tuple[int, ...], training: bool) -> None:
    model = truncated(nn.Sequential(nn.Linear(64, 128), nn.BatchNorm1d(shape[1]), nn.ReLU(), nn.Linear(128, 64)).eval())
    norm = model[1]
    norm.running_mean.normal_()
    norm.running_var.uniform_(0.5, 2)
    x = torch.randn(shape, dtype=torch.float64)
    expected = model.train(training)(x)
    torch.testing.assert_close(low_rank(model)(x), expected)


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
    torch.testing.assert_close(low_rank(model)(X), model(X))


def swish(x: Tensor) -> Tensor:
    return x * torch.sigmoid(x)


with warnings.catch_warnings(action="ignore", category=DeprecationWarning):
    scripted_swish: Any = torch.jit.script(swish)


def mapped_swish(x: Tensor) -> Tensor:
    result: Tensor = torch.vmap(swish)(x)
    return result


def with_a_statistic_of_a_script(x: Tensor) -> Tensor:
    with torch.no_grad():
        scale: Tensor = scripted_swish(x).abs().max()
    return torch.relu(x) / scale


@pytest.mark.parametrize("between", [scripted_swish, mapped_swish, with_a_statistic_of_a_script])
@pytest.mark.parametrize("strategy", ["low_rank", "auto"])
def test_gradients_reach_past_what_torch_calls_below_them(between: Callable[[Tensor], Tensor], strategy: str) -> None:
    model = truncated(Net(between))
    fused = fuse(model, engine="torch")
    fused.strategy = strategy
    for _ in range(3):
        expected = gradients(model, model, X)
        for name, gradient in gradients(model, fused, X).items():
            torch.testing.assert_close(gradient, expected[name], msg=name)
    if strategy == "low_rank":
        assert {layer.strategy for layer in fused.report().layers} == {"dense"}
        assert "where torch records no gradients" in fused.report().layers[0].reason


@pytest.mark.parametrize("between", [scripted_swish, Reversal.apply])
def test_gradients_of_the_input_alone(between: Callable[[Tensor], Tensor]) -> None:
    model = truncated(Net(between)).requires_grad_(False)
    x = X.clone().requires_grad_()
    expected = torch.autograd.grad(model(x).square().sum(), x)[0]
    torch.testing.assert_close(torch.autograd.grad(low_rank(model)(x).square().sum(), x)[0], expected)


def test_scripts_without_gradients_stay_fused() -> None:
    model = truncated(Net(scripted_swish))
    fused = low_rank(model)
    with torch.no_grad():
        torch.testing.assert_close(fused(X), model(X))
    assert "dense" not in {layer.strategy for layer in fused.report().layers}


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
@pytest.mark.parametrize("strategy", ["low_rank", "auto"])
def test_what_a_map_has_met_may_change(mode: Any, strategy: str) -> None:
    model = truncated(Streaming())
    dense, fused = copy.deepcopy(model), fuse(model, engine="torch")
    fused.strategy = strategy
    with mode():
        mine, theirs = torch.ones(1, 128, 12, 12).double(), torch.ones(1, 128, 12, 12).double()
        for _ in range(3):
            torch.testing.assert_close(fused(X[:1], mine), dense(X[:1], theirs))
    torch.testing.assert_close(mine, theirs)
    assert "factored" in {layer.strategy for layer in fused.report().layers} or strategy == "auto"


@pytest.mark.parametrize("named", [True, False])
def test_switches_among_the_arguments_may_choose_another_way(named: bool) -> None:
    class Switched(Net):
        def forward(self, x: Tensor, mode: str = "relu") -> Any:
            y = self.a(x)
            return self.b(Reversal.apply(y) if mode == "reversed" else torch.relu(y))  # type: ignore[no-untyped-call]

    model = truncated(Switched())
    fused = fuse(model, engine="torch")
    for mode in ("relu", "reversed", "relu", "reversed"):
        args, kwargs = ((X,), {"mode": mode}) if named else ((X, mode), {})
        model.zero_grad()
        expected = torch.autograd.grad(model(*args, **kwargs).square().sum(), list(model.parameters()))
        found = torch.autograd.grad(fused(*args, **kwargs).square().sum(), list(model.parameters()))
        for one, two in zip(found, expected, strict=True):
            torch.testing.assert_close(one, two)
