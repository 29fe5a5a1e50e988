from typing import Any

import pytest
import torch
from torch import Tensor, nn

import tailcut
from tailcut.execution import FusedNetwork, fuse

X = torch.randn(2, 64, 12, 12, generator=torch.Generator().manual_seed(0))


class Keeping(nn.Module):
    """It keeps a map in a buffer, and another one in a layer that only looks on."""

    last: Tensor | None

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(64, 128, 3, padding=1), nn.Conv2d(128, 128, 3, padding=1)
        self.register_buffer("last", None)
        self.recorder = Recorder()

    def forward(self, x: Tensor) -> Tensor:
        self.last = self.a(x)
        result: Tensor = self.b(torch.relu(self.recorder(self.last)))
        return result


class Recorder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.seen: Any = None
        self.register_buffer("also", None)

    def forward(self, x: Tensor) -> Tensor:
        self.seen = self.also = x
        return x


@pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")  # when torch loads its compiler
@pytest.mark.parametrize("is_whole", [True, False])
def test_what_torch_compile_wraps_is_fused_and_not_changed(is_whole: bool) -> None:
    plain = nn.Sequential(nn.Conv2d(64, 128, 3), nn.ReLU(), nn.Conv2d(128, 128, 3))
    tailcut.regularize(plain, num_kept=12)
    compiled: Any = torch.compile(plain)
    parts, attributes = list(plain), dict(vars(plain))
    fused = fuse(compiled if is_whole else nn.Sequential(compiled, nn.ReLU()))
    fused.strategy = "narrow"
    expected = plain(X)
    torch.testing.assert_close(fused(X), expected if is_whole else expected.relu())
    assert {layer.strategy for layer in fused.report().layers} == {"factored"}
    assert vars(plain) == attributes
    assert all(one is two for one, two in zip(plain, parts, strict=True))


@pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")  # when torch loads its compiler
def test_a_network_that_was_told_to_compile_itself_is_fused() -> None:
    model = nn.Sequential(nn.Conv2d(64, 128, 3), nn.ReLU(), nn.Sequential(nn.Conv2d(128, 128, 3), nn.ReLU()))
    fused = narrow(model)
    expected = model(X)
    for part in (model, model[2]):
        part.compile(backend="eager")
    for view in (fused, fuse(model)):
        view.strategy = "narrow"
        torch.testing.assert_close(view(X), expected)
        assert {layer.strategy for layer in view.report().layers} <= {"fused", "factored"}
        assert view.report().layers
    assert model._compiled_call_impl is not None
    assert model[2]._compiled_call_impl is not None


@pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")  # when torch loads its compiler
def test_hooks_of_what_wraps_a_module_are_called() -> None:
    for wrapped in (torch.compile, fuse):
        seen: list[str] = []
        body = nn.Sequential(nn.Conv2d(64, 128, 3), nn.ReLU(), nn.Conv2d(128, 128, 3))
        model: Any = nn.Sequential(nn.Conv2d(64, 64, 1), body)
        tailcut.regularize(model, num_kept=12)
        expected = model(X)
        model[1] = wrapped(model[1])
        fused = fuse(model)
        fused.strategy = "narrow"
        handle = model[1].register_forward_hook(lambda *_: seen.append("after"))  # noqa: B023
        model[1].register_forward_pre_hook(lambda *_: seen.append("before"))  # noqa: B023
        torch.testing.assert_close(fused(X), expected)
        assert seen == ["before", "after"]
        assert {layer.strategy for layer in fused.report().layers} <= {"fused", "factored"}
        handle.remove()
        fused(X)
        assert seen == ["before", "after", "before"]


class Asking(nn.Module):
    """It reads and writes attributes of its part, and asks for its mode."""

    def __init__(self) -> None:
        super().__init__()
        self.body: Any = Part()
        self.head = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        self.body.calls += 1
        y = self.body(x) + (100 if self.body.training else self.body.offset)
        result: Tensor = self.head(y)
        return result


class Part(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(64, 64)
        self.offset, self.calls = 2.0, 0

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.linear(x)
        return result


def compiled(module: nn.Module) -> Any:
    return torch.compile(module, backend="eager")


@pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")  # when torch loads its compiler
@pytest.mark.parametrize("wrapped", [compiled, fuse])
@pytest.mark.parametrize("include", [None, ["head.weight"]])
@pytest.mark.parametrize("training", [True, False])
def test_what_stands_for_a_wrapper_answers_as_it_does(wrapped: Any, include: Any, training: bool) -> None:
    model = Asking()
    tailcut.regularize(model, num_kept=20, include=include)
    model.body = wrapped(model.body)
    model.train(training)
    fused, x = fuse(model), torch.randn(3, 64)
    for strategy in ("auto", "narrow", "dense"):
        fused.strategy = strategy
        with torch.no_grad():
            torch.testing.assert_close(fused(x), model(x))
    assert model.body.calls == 6


def test_a_layer_that_runs_narrowly_has_the_mode_of_the_layer() -> None:
    class Adding(nn.Sequential):
        def forward(self, x: Tensor) -> Tensor:
            result: Tensor = self[1](self[0](x)) + (100 if self[0].training else 0)
            return result

    model = Adding(nn.Linear(64, 64), nn.Linear(64, 64)).eval()
    fused, x = narrow(model), torch.randn(3, 64)
    torch.testing.assert_close(fused(x), model(x))
    model[0].train()
    torch.testing.assert_close(fused(x), model(x))


def test_full_backward_hooks_of_a_fused_part_are_called() -> None:
    seen: list[int] = []
    model: Any = nn.Sequential(nn.Sequential(nn.Linear(64, 64), nn.ReLU()), nn.Linear(64, 64))
    tailcut.regularize(model, num_kept=12)
    model[0] = fuse(model[0])
    model[0].register_full_backward_hook(lambda module, inputs, outputs: seen.append(len(outputs)))
    fused = fuse(model)
    for strategy in ("auto", "narrow"):
        fused.strategy = strategy
        fused(torch.randn(3, 64, requires_grad=True)).sum().backward()
    assert seen == [1, 1]


@pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")  # when torch loads its compiler
def test_what_is_compiled_and_has_no_truncated_layer_stays_compiled() -> None:
    calls: list[int] = []

    def backend(graph: Any, inputs: Any) -> Any:
        calls.append(1)
        return graph.forward

    model = nn.Sequential(nn.Conv2d(64, 128, 3), nn.ReLU(), nn.Conv2d(128, 128, 3))
    tailcut.regularize(model, num_kept=12)
    model.append(torch.compile(nn.Sequential(nn.Tanh()), backend=backend))  # type: ignore[arg-type]
    fused = fuse(model)
    fused.strategy = "narrow"
    with torch.no_grad():
        torch.testing.assert_close(fused(X), model(X))
        fused(X)
    assert len(calls) == 1
    assert {layer.strategy for layer in fused.report().layers} <= {"fused", "factored"}


def narrow(model: nn.Module) -> FusedNetwork:
    tailcut.regularize(model, num_kept=12)
    fused = fuse(model, engine="torch")
    fused.strategy = "narrow"
    return fused


def test_maps_kept_in_buffers_and_by_onlookers_are_tensors_afterwards() -> None:
    model = Keeping()
    fused = narrow(model)
    with torch.no_grad():
        fused(X)
        expected = tailcut.to_dense(model).get_submodule("a")(X)
    for kept in (model.last, model.recorder.also, model.recorder.seen):
        assert type(kept) is Tensor
        torch.testing.assert_close(kept, expected)
    assert "last" in model.state_dict()


def note_mean(module: Any, inputs: Any, output: Tensor) -> None:
    module.mean = output.mean().detach()


@pytest.mark.parametrize("everywhere", [False, True])
def test_what_hooks_write_to_a_layer_that_runs_densely_is_written_to_the_layer_itself(everywhere: bool) -> None:
    model: Any = nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 4))
    tailcut.regularize(model, keep_ratio=1)
    fused, x = fuse(model), torch.randn(3, 6)
    with torch.no_grad():
        fused(x)
        register: Any = nn.modules.module.register_module_forward_hook
        handle = register(note_mean) if everywhere else model[0].register_forward_hook(note_mean)
        fused(x)
        handle.remove()
        torch.testing.assert_close(model[0].mean, tailcut.to_dense(model)[0](x).mean())  # type: ignore[index]


@pytest.mark.parametrize("calls", [1, 2])
def test_settings_of_layers_that_run_densely_are_followed(calls: int) -> None:
    model: Any = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3))
    tailcut.regularize(model, keep_ratio=1)
    fused, x = fuse(model, engine="torch"), torch.randn(1, 3, 12, 12)
    with torch.no_grad():
        for _ in range(calls):
            fused(x)
        model[2].stride = (2, 2)
        assert fused(x).shape == model(x).shape
        torch.testing.assert_close(fused(x), model(x))
        own = model[2].forward
        model[2].forward = lambda x: 2 * own(x)
        torch.testing.assert_close(fused(x), model(x))
        del model[2].forward
        torch.testing.assert_close(fused(x), model(x))
