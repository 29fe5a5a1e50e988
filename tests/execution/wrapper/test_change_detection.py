from collections.abc import Callable
from typing import Any

import pytest
import torch
from tests.execution.networks import between
from torch import nn

import tailcut
from tailcut.execution import fuse
from tailcut.execution.wrapper.change_detection import ChangeDetector
from tailcut.weights import truncated_tensors


def made(size: int = 8, num_kept: int = 20) -> tuple[Any, ChangeDetector]:
    model = nn.Sequential(nn.Linear(size, size), nn.ReLU(), nn.Linear(size, size))
    tailcut.regularize(model, num_kept=num_kept)
    return model, ChangeDetector(truncated_tensors(model))


def in_place(vector: nn.Parameter) -> None:
    with torch.no_grad():
        vector.add_(1)


def past_the_count(vector: nn.Parameter) -> None:
    vector.data.add_(1)


def by_numpy(vector: nn.Parameter) -> None:
    vector.detach().numpy()[0] += 1


def other_memory(vector: nn.Parameter) -> None:
    vector.data = vector.data.clone()


def of_another_type(vector: nn.Parameter) -> None:
    vector.data = vector.data.bfloat16()


def shared(vector: nn.Parameter) -> None:
    vector.data.share_memory_()
    vector.data.fill_(2)


@pytest.mark.parametrize(
    "change", [in_place, past_the_count, by_numpy, other_memory, of_another_type, shared], ids=lambda one: one.__name__
)
def test_changed_vectors_are_seen(change: Callable[[nn.Parameter], None]) -> None:
    model, freshness = made()
    assert not freshness.is_same()
    freshness.note()
    assert freshness.is_same()
    change(model[2].parametrizations.weight.original)
    assert not freshness.is_same()
    freshness.note()
    assert freshness.is_same()
    freshness.forget()
    assert not freshness.is_same()


def test_other_vectors_and_masks_are_seen() -> None:
    model, freshness = made()
    freshness.note()
    tailcut.weights.truncated_tensors(model)[0].truncation.cut(5)
    assert not freshness.is_same()
    freshness.note()
    holder = model[0].parametrizations.weight
    holder.original = nn.Parameter(holder.original.detach().clone())
    assert not freshness.is_same()
    freshness.note()
    model.double()
    assert not freshness.is_same()


@pytest.mark.parametrize("strategy", ["auto", "dense", "narrow"])
def test_another_precision_is_seen_after_a_call(strategy: str) -> None:
    model, x = between()
    fused = fuse(model)
    fused.strategy = strategy
    with torch.no_grad():
        for precision in ("float32", "bfloat16", "float16", "float32"):
            for tensor in truncated_tensors(model):
                tensor.truncation.precision = precision
            for _ in range(3):
                torch.testing.assert_close(fused(x), model(x), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("strategy", ["auto", "dense", "narrow"])
@pytest.mark.parametrize("gradients", [False, True])
def test_a_forward_that_is_set_after_calls_is_seen(strategy: str, gradients: bool) -> None:
    model, x = between()
    holder = nn.Sequential(nn.Sequential(model))
    fused = fuse(holder)
    fused.strategy = strategy
    with torch.set_grad_enabled(gradients):
        for _ in range(3):
            fused(x)
        before = fused(x).detach()
        for part in (model.b, holder[0], model, holder):
            own = part.forward
            part.forward = lambda *args, _own=own: 2 * _own(*args)
            for _ in range(3):
                torch.testing.assert_close(fused(x), holder(x))
        torch.testing.assert_close(fused(x).detach(), 16 * before)
        for part in (model.b, holder[0], model, holder):
            del part.forward
        torch.testing.assert_close(fused(x).detach(), before)


def test_of_long_vectors_a_sample_is_compared() -> None:
    model, freshness = made(size=100, num_kept=9000)
    freshness.note()
    vector = model[0].parametrizations.weight.original
    vector.data[1] += 1
    assert freshness.is_same()
    vector.data.add_(1)
    assert not freshness.is_same()


def test_nothing_is_known_of_tensors_of_inference_mode() -> None:
    model, freshness = made()
    parameters = model[0].parametrizations.weight._parameters
    with torch.inference_mode():
        parameters["original"] = nn.Parameter(parameters["original"].clone())
    freshness.note()
    assert not freshness.is_same()


def test_numbers_that_equal_nothing_are_the_same_as_before() -> None:
    model, freshness = made()
    in_memory = model[0].parametrizations.weight.original.data
    in_memory.fill_(float("nan"))
    freshness.note()
    assert freshness.is_same()


def test_without_tensors_nothing_changes() -> None:
    freshness = ChangeDetector([])
    freshness.note()
    assert freshness.is_same()
