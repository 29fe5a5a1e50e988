"""Forward times of a truncated network on this machine: fused, and with dense weights."""

import platform
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from tailcut.errors import ArgumentError, first_line
from tailcut.execution import fuse
from tailcut.printing import Report
from tailcut.reports.comparison import largest_difference
from tailcut.reports.html.elements import PageSection, table
from tailcut.reports.networks import ReportedNetwork, example_input
from tailcut.structure import in_evaluation
from tailcut.structure.outputs import output_tensors
from tailcut.weights import to_dense, truncated_tensors

MOST_ROUNDS = 9
SECONDS_FOR_ROUNDS = 1.0


@dataclass(frozen=True)
class Speed(Report):
    """The time of one forward on the CPU, measured once.

    Attributes:
        name: the report's name of the network.
        input_shape: of the example, batch first.
        fused_seconds: of the fused network (`tailcut.fuse`); None if no layer is truncated.
        dense_seconds: of the same network with dense weights.
        largest_difference: between the outputs of both; None if no layer is truncated, or an output is not finite.
        num_rounds: forwards of each, in turn, of which the times are medians.
        num_threads: of torch.
    """

    name: str
    input_shape: tuple[int, ...]
    fused_seconds: float | None
    dense_seconds: float
    largest_difference: float | None
    num_rounds: int
    num_threads: int


def speed_section(networks: Sequence[ReportedNetwork]) -> tuple[PageSection, list[Speed]]:
    """Return a row per network that can be built, and what was measured."""
    section = PageSection(
        "Speed, fused against dense",
        "speed",
        "The time of one forward of a random input, without dense weights (fused) and with them, in turn. "
        f"One measurement on this machine's CPU ({platform.machine()}, {torch.get_num_threads()} of torch's threads, "
        f"torch {torch.__version__}), the median of a few rounds: on a busy machine another one gives other times.",
    )
    speeds = []
    for network in networks:
        if network.model is None:
            section.skipped[network.name] = network.missing["model"]
            continue
        try:
            speeds.append(measure_speed(network.name, network.model))
        except Exception as error:  # noqa: BLE001 -- any error of a user's code
            section.skipped[network.name] = f"its example input does not run: {first_line(error)}"
    if speeds:
        header = ("network", "input", "fused", "dense", "faster by", "largest difference of outputs", "rounds")
        rows = [_cells(speed) for speed in speeds]
        section.body.append(table("times of a forward", header, rows, align="<<>>>>>"))
    return section, speeds


def measure_speed(name: str, model: nn.Module) -> Speed:
    """Time a forward of `model` (not changed) on the CPU, fused and dense, on its example input.

    Raises:
        ArgumentError: the network is of no registered family, so its example input is unknown.
    """
    example = example_input(model)
    if example is None:
        raise ArgumentError("it is of no registered family, so the shape of its input is unknown")
    dense = in_evaluation(to_dense(model))
    ways: dict[str, Callable[[], object]] = {"dense": lambda: dense(example)}
    difference = None
    with torch.inference_mode():
        if truncated_tensors(model):
            fused = fuse(model, example)
            ways["fused"] = lambda: fused(example)
            difference = largest_difference(output_tensors(fused(example)), output_tensors(dense(example)))
        times = _in_turn(ways)
    return Speed(
        name,
        tuple(example.shape),
        statistics.median(times["fused"]) if "fused" in times else None,
        statistics.median(times["dense"]),
        difference,
        len(times["dense"]),
        torch.get_num_threads(),
    )


def _in_turn(ways: dict[str, Callable[[], object]]) -> dict[str, list[float]]:
    """Seconds of each, one after another; the first time does not count."""
    times: dict[str, list[float]] = {name: [] for name in ways}
    for run in ways.values():
        run()
    begin = time.perf_counter()
    while not times["dense"] or (
        len(times["dense"]) < MOST_ROUNDS and time.perf_counter() - begin < SECONDS_FOR_ROUNDS
    ):
        for name, run in ways.items():
            start = time.perf_counter()
            run()
            times[name].append(time.perf_counter() - start)
    return times


def _cells(speed: Speed) -> list[str]:
    difference = "not finite" if speed.largest_difference is None else f"{speed.largest_difference:.1e}"
    return [
        speed.name,
        " x ".join(map(str, speed.input_shape)),
        f"{1000 * speed.fused_seconds:.2f} ms" if speed.fused_seconds is not None else "no layer is truncated",
        f"{1000 * speed.dense_seconds:.2f} ms",
        f"{speed.dense_seconds / speed.fused_seconds:.2f} x" if speed.fused_seconds else "",
        "" if speed.fused_seconds is None else difference,
        str(speed.num_rounds),
    ]
