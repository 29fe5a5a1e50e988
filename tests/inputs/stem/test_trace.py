import threading

import pytest
import torch
from tests.inputs import networks
from torch import Tensor, nn

from tailcut.errors import ArgumentError, StructureError
from tailcut.inputs.stem.trace import modules_before, run, trial_copy


class Nested(nn.Module):
    """Stem modules at several depths, in another order of calls than of names."""

    def __init__(self) -> None:
        super().__init__()
        self.late = nn.Identity()
        self.outer = nn.ModuleDict({"body": nn.Sequential(nn.Identity(), nn.Flatten()), "second": nn.Identity()})
        self.first = nn.Sequential(nn.Conv2d(3, 2, 1), nn.ReLU())
        self.unused = nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        x = self.outer["second"](self.first(x))
        y: Tensor = self.late(self.outer["body"](x))
        return y


def before(model: nn.Module, boundary: str, *, inclusive: bool = False) -> list[str]:
    trace = run(model, torch.rand(1, 3, 4, 4), what="x")
    return modules_before(model, trace, boundary, inclusive=inclusive)


def test_modules_are_found_whole_and_in_the_order_of_their_calls() -> None:
    assert before(Nested(), "outer.body") == ["first", "outer.second"]
    assert before(Nested(), "outer.body.1") == ["first", "outer.second", "outer.body.0"]
    assert before(Nested(), "first.1") == ["first.0"]
    assert before(Nested(), "first.0") == []
    assert before(Nested(), "late") == ["first", "outer.second", "outer.body"]
    assert before(Nested(), "first.1", inclusive=True) == ["first.0", "first.1"]
    assert before(Nested(), "first", inclusive=True) == ["first"]


def test_a_list_of_modules_is_looked_into() -> None:
    assert before(networks.PreActivation(), "norm") == ["stem.0", "stem.1"]


def test_a_module_that_runs_on_both_sides() -> None:
    with pytest.raises(StructureError, match="relu runs in the stem and again later"):
        before(networks.SharedReLU(), "body")
    assert before(networks.SharedReLU(), "conv") == []


def test_the_trace_tells_shapes_and_leaves_no_hooks() -> None:
    model = Nested()
    trace = run(model, torch.rand(2, 3, 4, 4), what="x")
    assert trace.inputs["first.1"] == trace.outputs["first.1"] == (2, 2, 4, 4)
    assert trace.outputs["late"] == (2, 32)
    assert trace.keeps_shape("first.1")
    assert not trace.keeps_shape("first")
    assert not trace.keeps_shape("unused")
    assert "unused" not in trace.starts
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_a_forward_that_fails_says_so_and_leaves_no_hooks() -> None:
    model = Nested()
    message = r"pixels of shape \(1, 4, 4, 4\) does not run through the network, in first.0: Given .*; try others"
    with pytest.raises(StructureError, match=message):
        run(model, torch.rand(1, 4, 4, 4), what="pixels", advise=lambda trace: "; try others")
    assert not any(module._forward_hooks for module in model.modules())


def test_a_copy_in_evaluation_mode() -> None:
    model = networks.Functional()
    copied = trial_copy(model)
    assert model.training
    assert not copied.training
    assert copied.get_parameter("conv.weight") is not model.conv.weight
    model.lock = threading.Lock()  # type: ignore[assignment]
    with pytest.raises(ArgumentError, match="the network cannot be copied"):
        trial_copy(model)
