import pytest
import torch

from tailcut.execution.cost import Costs
from tailcut.execution.run import NotNarrowError, Run, current_run, running

COSTS = Costs.of("cpu", with_gradients=False)


def test_there_is_no_run_outside() -> None:
    with pytest.raises(RuntimeError, match="outside its forward"):
        current_run()


def test_runs_nest() -> None:
    outer, inner = Run("torch", "auto", COSTS), Run("torch", "auto", COSTS)
    with running(outer):
        with running(inner):
            assert current_run() is inner
        assert current_run() is outer


def test_updates_wait_for_success() -> None:
    done: list[str] = []
    with running(Run("torch", "auto", COSTS)) as run:
        run.pending.append(lambda: done.append("made"))
        assert done == []
    assert done == ["made"]
    broken = Run("torch", "auto", COSTS)
    broken.pending.append(lambda: done.append("never"))
    with pytest.raises(ValueError, match="broken"), running(broken):
        raise ValueError("broken")
    assert done == ["made"]


def test_a_written_map_makes_its_maker_factored() -> None:
    run = Run("torch", "auto", COSTS)
    record = run.record("conv", "fused", "no wide map is written")
    run.note(("conv", "unknown"), "sum needs the whole map", 10)
    assert record.way == "factored"
    assert record.moved_bytes == 10
    assert record.reasons == ["no wide map is written", "sum needs the whole map"]


def test_the_compiler_is_asked_where_its_loops_pay() -> None:
    run = Run("compiled", "auto", COSTS)
    assert run.engine_for(1e12, torch.zeros(1), elements=1 << 20, narrow=4) == "compiled"
    assert run.engine_for(1e12, torch.zeros(1), elements=1 << 20, narrow=64) == "torch"
    assert run.engine_for(1e12, torch.zeros(1), elements=1 << 10, narrow=4) == "torch"
    assert run.engine_for(1e12, torch.zeros(1, dtype=torch.float16), elements=1 << 20, narrow=4) == "torch"


def test_a_spoiled_forward_is_not_narrow() -> None:
    run = Run("torch", "auto", COSTS)
    run.check()
    run.spoiled = "no gradients"
    with pytest.raises(NotNarrowError, match="no gradients"):
        run.check()
