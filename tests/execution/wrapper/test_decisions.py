import copy
from typing import Any, cast

import pytest
import torch
from torch import nn

import tailcut
from tailcut.execution import fuse
from tailcut.execution.lazy.context import LayerRecord
from tailcut.execution.wrapper import decisions
from tailcut.execution.wrapper.decisions import Call, Decisions, call_of, runs_on_tensor_cores

DENSE = [LayerRecord("conv", "dense", ["the network as a whole would gain too little"])]


def call(*sizes: int, **settings: Any) -> Call:
    with torch.no_grad():
        return call_of((torch.empty(sizes),), {}, kept=7, training=False)._replace(**settings)


def test_a_call_is_what_its_way_depends_on() -> None:
    assert call(2, 3) == call(2, 3)
    assert call(2, 3) != call(3, 2)
    assert call(2, 3).family == call(3, 2).family
    assert call(2, 3).family != call(2, 3, 1).family
    assert call(2, 3).numbers == 6
    assert call_of((torch.empty(2), "relu"), {}, kept=7, training=False).words == ("relu",)


def test_each_call_is_decided_for_itself() -> None:
    decided = Decisions()
    decided.decide(call(1, 8, 50), DENSE)
    decided.decide(call(1, 8, 90), None)
    assert decided.is_dense(call(1, 8, 50))
    assert decided.is_dense(call(1, 8, 90)) is False
    decided.prefer_dense(call(1, 8, 90), [])
    assert decided.is_dense(call(1, 8, 90))
    assert decided.records(call(1, 8, 50)) is DENSE
    assert decided.records(call(1, 8, 90)) == []


def test_calls_that_are_no_larger_than_a_dense_one_need_no_probe() -> None:
    decided = Decisions()
    decided.decide(call(1, 8, 50), DENSE)
    assert decided.is_dense(call(1, 8, 40))
    assert decided.is_dense(call(1, 8, 62))
    assert decided.is_dense(call(1, 8, 63)) is None  # what was taken for dense does not count
    for other in (call(8, 40), call(1, 8, 40, training=True), call(1, 8, 40, kept=8)):
        assert decided.is_dense(other) is None
    trained = call(1, 8, 50, gradients=True)
    decided.decide(trained, DENSE)
    assert decided.is_dense(call(1, 8, 40, gradients=True)) is None


def test_what_is_remembered_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decisions, "MAX_DECIDED", 4)
    decided = Decisions()
    for size in range(4):
        decided.decide(call(size), None)
    assert decided.is_dense(call(9)) is True  # one that was forgotten might run another way when it comes again
    assert all(decided.is_dense(call(size)) is False for size in range(4))
    assert decided.is_dense(call(9, kept=5)) is None
    assert decided.is_dense(call(3)) is None


def test_copies_decide_anew() -> None:
    model = nn.Sequential(nn.Conv1d(64, 64, 3, padding=1), nn.ReLU(), nn.Conv1d(64, 64, 3, padding=1))
    tailcut.regularize(model, num_kept=12)
    fused, x = fuse(model, engine="torch"), torch.randn(1, 64, 50)
    with torch.no_grad():
        fused.prefer_dense(x)
        fused.strategy = "low_rank"
        copied = copy.deepcopy(fused)
        assert (copied.strategy, copied.engine) == ("low_rank", "torch")
        assert fused._decisions.is_dense(fused._call((x,), {}))
        assert copied._decisions.is_dense(copied._call((x,), {})) is None


def test_the_short_way_holds_for_calls_like_it_alone() -> None:
    model = nn.Sequential(nn.Linear(8, 8), nn.Dropout(0.5), nn.Linear(8, 8)).eval()
    tailcut.regularize(model, num_kept=20)
    fused, x = fuse(model), torch.randn(3, 8)
    with torch.no_grad():
        for size in (3, 2):
            for _ in range(2):
                fused(x[:size])
    assert not fused._dense_calls.holds(x)  # gradients are on
    with torch.no_grad():
        assert fused._dense_calls.holds(x + 1)
        assert fused._dense_calls.holds(x[:2])
        assert fused.report().input_shapes == ((2, 8),)
        assert not fused._dense_calls.holds(x[:1])
        model.train()
        assert not fused._dense_calls.holds(x)
        assert not torch.equal(fused(x), fused(x))
        model.eval()
        fused.register_forward_hook(lambda *results: 3 * results[2])
        torch.testing.assert_close(fused(x), 3 * model(x))
    fused(x).sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


class OnGpu:
    """What is asked of a tensor on a GPU, of a type."""

    is_cuda = True

    def __init__(self, dtype: torch.dtype) -> None:
        self.dtype = dtype

    def is_floating_point(self) -> bool:
        return self.dtype.is_floating_point


@pytest.mark.parametrize(
    ("dtype", "precision", "expected"),
    [
        (torch.float32, "tf32", True),
        (torch.float32, "ieee", False),
        (torch.float16, "ieee", True),
        (torch.bfloat16, "ieee", True),
        (torch.float64, "tf32", False),
        (torch.int64, "tf32", False),
    ],
)
def test_which_products_run_on_matrix_units(dtype: torch.dtype, precision: str, expected: bool) -> None:
    settings, tensors = cast(Any, torch.backends.cudnn).conv, [OnGpu(dtype)]
    before = settings.fp32_precision
    settings.fp32_precision = precision
    try:
        assert runs_on_tensor_cores(cast(Any, tensors)) == expected
        assert not runs_on_tensor_cores([torch.empty(2)])
    finally:
        settings.fp32_precision = before


def test_a_call_is_another_one_on_matrix_units() -> None:
    assert call(2, 3) != call(2, 3, tensor_cores=True)
    assert call(2, 3).family != call(2, 3, tensor_cores=True).family
