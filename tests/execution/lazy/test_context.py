import subprocess
import sys

import pytest

from tailcut.execution.ir.cost import Costs
from tailcut.execution.lazy.context import Context, UnsupportedError, current_context, running

COSTS = Costs.of("cpu", with_gradients=False)


def test_there_is_no_run_outside() -> None:
    with pytest.raises(RuntimeError, match="outside its forward"):
        current_context()


def test_runs_nest() -> None:
    outer, inner = Context("torch", "auto", COSTS), Context("torch", "auto", COSTS)
    with running(outer):
        with running(inner):
            assert current_context() is inner
        assert current_context() is outer


def test_a_written_map_makes_its_maker_factored() -> None:
    context = Context("torch", "auto", COSTS)
    record = context.record("conv", "fused", "no full map is written")
    context.note(("conv", "unknown"), "sum needs the whole map", 10)
    assert record.strategy == "factored"
    assert record.moved_bytes == 10
    assert record.reasons == ["no full map is written", "sum needs the whole map"]


def test_the_first_call_does_not_import_the_compiler_of_torch() -> None:
    """That takes a second and more, 20 on a cold disk; torch does so for the first operation on the meta device."""
    code = """
import sys, torch, tailcut
from torch import nn
from tailcut.execution import fuse
pools = nn.MaxPool2d(2), nn.Upsample(scale_factor=2), nn.AvgPool2d(2)
model = nn.Sequential(nn.Conv2d(8, 64, 3), nn.ReLU(), *pools, nn.Conv2d(64, 8, 1))
tailcut.regularize(model, num_kept=12)
fused = fuse(model, engine="torch")
fused.strategy = "low_rank"
with torch.no_grad():
    fused(torch.randn(1, 8, 16, 16))
assert "dense" not in {layer.strategy for layer in fused.report().layers}
assert "sympy" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_spoiled_forward_is_not_low_rank() -> None:
    context = Context("torch", "auto", COSTS)
    context.check()
    context.spoiled = "no gradients"
    with pytest.raises(UnsupportedError, match="no gradients"):
        context.check()
