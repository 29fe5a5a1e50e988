import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

import tailcut
from tailcut.execution import fuse
from tailcut.execution.wrapper import decisions
from tailcut.execution.wrapper.decisions import ENOUGH_DENSE, Call, Decisions, call_of
from tailcut.execution.wrapper.snapshot import ModelSnapshot


def call(*sizes: int, **settings: Any) -> Call:
    with torch.no_grad():
        return call_of((torch.empty(sizes),), {}, kept=7, training=False)._replace(**settings)


def after_dense(*lengths: int) -> Decisions:
    settled = Decisions()
    for length in lengths:
        settled.settle(call(1, 8, length), is_dense=True)
    return settled


def test_a_call_is_what_its_way_depends_on() -> None:
    assert call(2, 3) == call(2, 3)
    assert call(2, 3) != call(3, 2)
    assert call(2, 3).family == call(3, 2).family
    assert call(2, 3).family != call(2, 3, 1).family
    assert call(2, 3).numbers == 6
    assert call_of((torch.empty(2), "relu"), {}, kept=7, training=False).words == ("relu",)


def test_each_call_is_settled_for_itself() -> None:
    settled = after_dense(50)
    settled.settle(call(1, 8, 60), is_dense=False)
    assert settled.is_dense(call(1, 8, 50))
    assert not settled.is_narrow(call(1, 8, 50))
    assert settled.is_narrow(call(1, 8, 60))
    settled.prefer_dense(call(1, 8, 60))
    assert settled.is_dense(call(1, 8, 60))
    assert not settled.is_narrow(call(1, 8, 60))


def test_after_enough_dense_sizes_in_a_row_others_need_no_trial() -> None:
    assert not after_dense(*range(50, 50 + ENOUGH_DENSE - 1)).take_for_dense(call(1, 8, 40))
    settled = after_dense(*range(50, 50 + ENOUGH_DENSE))
    assert settled.take_for_dense(call(1, 8, 40))
    assert settled.take_for_dense(call(1, 8, 70))
    assert not settled.take_for_dense(call(1, 8, 80))  # much larger ones may pay
    assert not settled.take_for_dense(call(8, 40))
    assert not settled.take_for_dense(call(1, 8, 40, training=True))
    assert not settled.take_for_dense(call(1, 8, 40, kept=8))


def test_what_was_taken_for_dense_stays_dense() -> None:
    settled = after_dense(*range(50, 50 + ENOUGH_DENSE))
    assert settled.take_for_dense(call(1, 8, 40))
    settled.settle(call(1, 8, 90), is_dense=False)
    assert settled.is_dense(call(1, 8, 40))


def test_nothing_is_forgotten_while_the_coefficients_are_as_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decisions, "MAX_SETTLED", 4)
    settled = Decisions()
    for size in range(4):
        settled.settle(call(size), is_dense=False)
    assert settled.take_for_dense(call(9))
    assert all(settled.is_narrow(call(size)) for size in range(4))
    assert not settled.take_for_dense(call(9, kept=5))
    assert not settled.is_narrow(call(0))


def test_one_that_pays_begins_the_row_anew() -> None:
    settled = after_dense(*range(50, 50 + ENOUGH_DENSE))
    settled.settle(call(1, 8, 90), is_dense=False)
    assert not settled.take_for_dense(call(1, 8, 40))


def test_trainings_try_each_size() -> None:
    settled = Decisions()
    for length in range(50, 50 + 2 * ENOUGH_DENSE):
        settled.settle(call(1, 8, length, gradients=True), is_dense=True)
    assert not settled.take_for_dense(call(1, 8, 40, gradients=True))


def test_what_is_remembered_is_bounded_but_for_what_was_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decisions, "MAX_SETTLED", 10)
    settled = Decisions()
    settled.prefer_dense(call(7))
    for size in range(100):
        settled.settle(call(size), is_dense=size % 2 == 0)
        settled.settle(call(*([1] * (size % 50)), size), is_dense=True)
    assert max(map(len, (settled._dense, settled._narrow, settled._in_a_row))) <= 10
    assert settled.is_dense(call(7))


@pytest.fixture
def trials(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """What is kept for trials of new sizes."""
    made: list[object] = []

    def counted(*arguments: Any) -> Any:
        made.append(arguments)
        return ModelSnapshot(*arguments)

    monkeypatch.setattr("tailcut.execution.wrapper.network.ModelSnapshot", counted)
    return made


def sequences() -> nn.Sequential:
    layers = [layer for _ in range(3) for layer in (nn.Conv1d(64, 64, 3, padding=1), nn.ReLU())]
    model = nn.Sequential(*layers)
    tailcut.regularize(model, num_kept=12)
    return model


def test_inputs_that_have_always_another_length_are_not_all_tried(trials: list[object]) -> None:
    model = sequences()
    fused = fuse(model, engine="torch")
    with torch.no_grad():
        for length in range(50, 150):
            x = torch.randn(1, 64, length)
            torch.testing.assert_close(fused(x), model(x), rtol=1e-4, atol=1e-5)
    assert len(trials) <= ENOUGH_DENSE + 5
    reasons = {(layer.strategy, layer.reason) for layer in fused.report().layers}
    assert reasons == {("dense", "calls of other sizes that were tried before ran so")}
    assert fused.report().input_shapes == ((1, 64, 149),)


def test_large_inputs_run_narrowly_after_many_small_ones(trials: list[object]) -> None:
    model = nn.Sequential(nn.Conv2d(64, 128, 3, padding=1), nn.ReLU(), nn.Conv2d(128, 128, 3, padding=1))
    tailcut.regularize(model, num_kept=12)
    fused = fuse(model, engine="torch")
    with torch.no_grad():
        for size in range(3, 3 + 2 * ENOUGH_DENSE):
            fused(torch.randn(1, 64, 2, size))
        assert {layer.strategy for layer in fused.report().layers} == {"dense"}
        fused(torch.randn(2, 64, 48, 48))
    assert "dense" not in {layer.strategy for layer in fused.report().layers}


def prefer(fused: Any, x: torch.Tensor) -> None:
    fused.prefer_dense(x)


def try_once(fused: Any, x: torch.Tensor) -> None:
    fused(x)


@pytest.mark.parametrize("decide", [prefer, try_once])
@pytest.mark.parametrize("strategy", ["auto", "narrow"])
def test_copies_keep_decisions(
    decide: Callable[[Any, torch.Tensor], None], strategy: str, trials: list[object]
) -> None:
    fused, x = fuse(sequences(), engine="torch"), torch.randn(1, 64, 50)
    with torch.no_grad():
        decide(fused, x)
        fused.strategy = strategy
        copied = copy.deepcopy(fused)
        assert copied.strategy == strategy
        copied.strategy = "auto"
        trials.clear()
        copied(x)
        assert not trials
        copied.prefer_dense(x[..., :20])
        assert not fused._decisions.is_dense(fused._call((x[..., :20],), {}))


def settled_network() -> tuple[nn.Sequential, Any, torch.Tensor]:
    model = nn.Sequential(nn.Linear(8, 8), nn.Dropout(0.5), nn.Linear(8, 8)).eval()
    tailcut.regularize(model, num_kept=20)
    fused, x = fuse(model), torch.randn(3, 8)
    with torch.no_grad():
        fused(x), fused(x)
    return model, fused, x


def halved(model: Any) -> None:
    model[0].parametrizations.weight.original.data.mul_(0.5)


def replaced(model: nn.Sequential) -> None:
    model[2] = nn.Linear(8, 5)


def hooked(model: nn.Sequential) -> None:
    model.register_forward_hook(lambda *results: 3 * results[2])


CHANGES: list[Callable[[nn.Sequential], object]] = [halved, replaced, hooked, nn.Module.double]


@pytest.mark.parametrize("change", CHANGES)
def test_a_settled_call_does_not_hold_for_a_changed_network(change: Callable[[nn.Sequential], object]) -> None:
    model, fused, x = settled_network()
    with torch.no_grad():
        assert fused._settled.holds((x,))
        change(model)
        x = x.to(next(model.parameters()).dtype)
        for _ in range(3):
            torch.testing.assert_close(fused(x), model(x))


def test_a_settled_call_holds_for_calls_like_it_alone() -> None:
    model, fused, x = settled_network()
    settled = fused._settled
    assert not settled.holds((x,))  # gradients are on
    with torch.no_grad():
        assert settled.holds((x + 1,))
        assert not settled.holds((x[:2],))
        assert not settled.holds((x, x))
        model.train()
        assert not settled.holds((x,))
        assert not torch.equal(fused(x), fused(x))
        model.eval()
        fused.register_forward_hook(lambda *results: 3 * results[2])
        torch.testing.assert_close(fused(x), 3 * model(x))
    assert all(parameter.grad is None for parameter in model.parameters())
    fused(x).sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())
