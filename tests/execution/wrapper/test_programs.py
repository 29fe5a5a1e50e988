import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

import tailcut
from tailcut.errors import StructureError
from tailcut.execution import FusedNetwork, fuse
from tailcut.execution.wrapper.programs import NetworkPrograms

X = torch.randn(2, 64, 12, 12, generator=torch.Generator().manual_seed(0))


def truncated() -> Any:
    model = nn.Sequential(nn.Conv2d(64, 128, 3), nn.ReLU(), nn.Conv2d(128, 128, 3), nn.Conv2d(128, 8, 1))
    tailcut.regularize(model, num_kept={"0.weight": 12, "2.weight": 12})
    return model


def replaced(model: Any) -> None:
    model[3] = nn.Conv2d(128, 5, 1)


def a_regularised_one_replaced(model: Any) -> None:
    model[2] = nn.Conv2d(128, 128, 3, padding=1)


def appended(model: Any) -> None:
    model.append(nn.Sigmoid())


def deleted(model: Any) -> None:
    del model[3]


def parametrisation_removed(model: Any) -> None:
    parametrize.remove_parametrizations(model[2], "weight")
    with torch.no_grad():
        model[2].weight.mul_(2)


def two_swapped(model: Any) -> None:
    model[1], model[3] = model[3], model[1]
    model[2] = nn.Conv2d(8, 8, 1)


CHANGES = [
    replaced,
    a_regularised_one_replaced,
    appended,
    deleted,
    parametrisation_removed,
    two_swapped,
]


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("strategy", ["narrow", "auto", "dense"])
def test_layers_that_were_changed_after_fuse_are_those_that_run(change: Callable[[Any], None], strategy: str) -> None:
    model = truncated()
    fused = fuse(model, X, engine="torch")
    fused.strategy = strategy
    with torch.no_grad():
        for _ in range(2):
            torch.testing.assert_close(fused(X), model(X), rtol=1e-4, atol=1e-5)
        change(model)
        for _ in range(2):
            torch.testing.assert_close(fused(X), model(X), rtol=1e-4, atol=1e-5)
    expected = torch.autograd.grad(model(X).square().sum(), list(model.parameters()))
    found = torch.autograd.grad(fused(X).square().sum(), list(fused.parameters()))
    for one, two in zip(found, expected, strict=True):
        torch.testing.assert_close(one, two, rtol=1e-3, atol=1e-4 * float(two.abs().max()))


def test_a_new_head_learns() -> None:
    class Headed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = truncated()
            self.head = nn.Linear(8, 4)

        def forward(self, x: Tensor) -> Tensor:
            result: Tensor = self.head(self.body(x).mean((2, 3)))
            return result

    model = Headed()
    fused = fuse(model, engine="torch")
    fused(X)
    model.head = nn.Linear(8, 3)
    fused(X).sum().backward()
    assert all(parameter.grad is not None for parameter in fused.parameters())


def test_layers_that_were_regularised_after_fuse_run_narrowly() -> None:
    model = nn.Sequential(nn.Conv2d(64, 128, 3), nn.ReLU(), nn.Conv2d(128, 128, 3))
    fused = fuse(model, engine="torch")
    fused.strategy = "narrow"
    with torch.no_grad():
        fused(X)
        assert fused.report().layers == ()
        tailcut.regularize(model, num_kept=12)
        torch.testing.assert_close(fused(X), model(X), rtol=1e-4, atol=1e-5)
    assert {layer.strategy for layer in fused.report().layers} == {"factored"}


def test_decisions_about_layers_that_are_gone_are_forgotten() -> None:
    model = truncated()
    fused = fuse(model, X)
    with torch.no_grad():
        fused.prefer_dense(X)
        fused(X)
        decisions = fused._decisions
        fused(X)
        assert fused._decisions is decisions
        replaced(model)
        fused(X)
    assert not fused._decisions.is_dense(fused._call((X,), {}))
    assert [layer.name for layer in fused.report().layers] == ["0", "2"]


def test_another_source_is_followed() -> None:
    fused = FusedNetwork(truncated())
    fused(X)
    fused.source = truncated()
    with torch.no_grad():
        torch.testing.assert_close(fused(X), fused.source(X), rtol=1e-4, atol=1e-5)


def test_a_second_parametrisation_is_refused() -> None:
    model = truncated()
    fused = fuse(model)
    parametrize.register_parametrization(model[2], "weight", nn.Identity())
    with pytest.raises(StructureError, match="second parametrisation"):
        fused(X)


def test_nothing_is_made_anew_without_need() -> None:
    model = truncated()
    with warnings.catch_warnings(action="ignore", category=DeprecationWarning):
        with_script = nn.Sequential(model, torch.jit.script(nn.Sequential(nn.ReLU(), nn.BatchNorm2d(8))))
    assembly = NetworkPrograms(with_script)
    with torch.no_grad():
        for parameter in with_script.parameters():
            parameter.add_(1)
    with_script.double().eval()
    assert assembly.is_current()
    model[1] = nn.Tanh()
    assert not assembly.is_current()
