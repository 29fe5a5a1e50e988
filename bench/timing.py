"""Timing: candidates run in turn, A B A B ..., so that a busy machine disturbs all of them alike.

Two clocks: wall time, and processor time, which leaves out most of what other programs do to a measurement but means
something on one thread only.
"""

import gc
import importlib.util
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from bench.scale import Scale
from tailcut.execution.onnx.export import export_onnx

CLOCKS: dict[str, Callable[[], float]] = {"wall": time.perf_counter, "processor": time.process_time}


@dataclass(frozen=True)
class Timing:
    """What one candidate took.

    Attributes:
        median_s: median of all repetitions in seconds.
        best_s: the shortest repetition.
        num_repetitions: how many there were.
    """

    median_s: float
    best_s: float
    num_repetitions: int


def compare(candidates: Mapping[str, Callable[[], object]], scale: Scale, *, share: float = 1.0) -> dict[str, Timing]:
    """Time `candidates` against each other, each once without counting, then in rounds.

    Args:
        candidates: name -> what to run; what it returns is dropped before the next one starts.
        scale: the most rounds, and the seconds after which no new one begins; there are at least 3 (or the most).
        share: of those seconds.

    Returns:
        name -> its timing, in the order given.
    """
    seconds: dict[str, list[float]] = {name: [] for name in candidates}
    for run in candidates.values():
        run()
    with _no_garbage_collection():
        start = time.perf_counter()
        for repetition in range(scale.max_repetitions):
            if repetition >= 3 and time.perf_counter() - start > share * scale.budget_s:
                break
            for name, run in candidates.items():
                seconds[name].append(_time_once(run, CLOCKS[scale.clock]))
    return {name: Timing(statistics.median(runs), min(runs), len(runs)) for name, runs in seconds.items()}


def forward_of(model: nn.Module, x: Tensor) -> Callable[[], object]:
    """Return the network's forward on x without gradients, as something to time."""

    def call() -> object:
        with torch.no_grad():
            return model(x)

    return call


def has_onnx() -> bool:
    """Return whether `onnx_forward` finds what it needs, the extra onnx."""
    return all(importlib.util.find_spec(name) is not None for name in ("onnxscript", "onnxruntime"))


def onnx_forward(model: nn.Module, path: Path, x: Tensor, *, dynamic: bool = True) -> Callable[[], object]:
    """Export the network to `path`, and return its forward on x in ONNX Runtime, on torch's number of threads.

    Args:
        model: the network.
        path: of the file to write.
        x: the input.
        dynamic: leave the sizes of the input open, see `export_onnx`.
    """
    import onnxruntime

    report = export_onnx(model, path, example_input=x, dynamic=dynamic)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(path, options)
    (name,) = report.inputs
    given = {name: x.numpy()}
    return lambda: session.run(None, given)


@contextmanager
def num_threads(number: int) -> Iterator[None]:
    """Run the block with torch on `number` threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _time_once(run: Callable[[], object], clock: Callable[[], float]) -> float:
    start = clock()
    result = run()
    elapsed = clock() - start
    del result
    return elapsed


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    gc.collect()
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()
