"""Where one way of transforming becomes cheaper than another: the constants of `tailcut.transform` come from here."""

from collections.abc import Callable, Sequence

import torch

from bench.machine import Machine, measure_machine
from bench.scale import Scale
from bench.tables import Row, Table
from bench.timing import compare, num_threads
from tailcut.transform.corner import FFT_COST, MAX_JOINED_SIZE, Stage, plan_stages
from tailcut.transform.dct import FFT_MIN_SIZE, dct_basis, expand_axis, expand_axis_by_fft


def run(scale: Scale, machine: Machine) -> list[Table]:
    """Return all sweeps, on one thread and on as many as torch is set to."""
    tables = []
    for threads in sorted({1, machine.num_threads}):
        with num_threads(threads), torch.no_grad():
            limits = machine if threads == machine.num_threads else measure_machine(scale)
            where = f"{threads} thread{'s' if threads > 1 else ''}"
            tables += [
                _sweep_kept(scale, limits, where),
                _sweep_axes(scale, limits, where),
                _sweep_kernels(scale, limits, where),
            ]
    return tables


def _sweep_kept(scale: Scale, machine: Machine, where: str) -> Table:
    size = scale.matrix_size
    rows = [_kept_row(kept, size, scale, machine) for kept in _steps(size)]
    return Table(
        f"A {size} x {size} matrix from a square corner ({where})",
        {
            "kept per axis": "d",
            "basis ms": ".2f",
            "FFT ms": ".2f",
            "FFT / basis": ".2f",
            "chosen": "",
            "chosen / best": ".2f",
            "basis GFLOP/s": ".0f",
            "of limit %": ".0f",
        },
        rows,
        (f"The choice follows FFT_COST = {FFT_COST} (corner.py).",),
    )


def _kept_row(kept: int, size: int, scale: Scale, machine: Machine) -> Row:
    corner = torch.randn(kept, kept)
    ways: dict[str, Sequence[Stage]] = {
        "basis": [Stage(axis, axis + 1, (kept,), (size,), by_fft=False) for axis in (1, 0)],
        "FFT": [Stage(axis, axis + 1, (kept,), (size,), by_fft=True) for axis in (1, 0)],
        "chosen": plan_stages((kept, kept), (size, size), (0, 1)),
    }
    candidates = {name: _expansion(corner, stages) for name, stages in ways.items()}
    timings = compare(candidates, scale, share=0.1)
    seconds = {name: timing.median_s for name, timing in timings.items()}
    rate = 2 * kept * size * (kept + size) / seconds["basis"]
    return {
        "kept per axis": kept,
        "basis ms": 1e3 * seconds["basis"],
        "FFT ms": 1e3 * seconds["FFT"],
        "FFT / basis": seconds["FFT"] / seconds["basis"],
        "chosen": "FFT" if any(stage.by_fft for stage in ways["chosen"]) else "basis",
        "chosen / best": seconds["chosen"] / min(seconds["basis"], seconds["FFT"]),
        "basis GFLOP/s": rate / 1e9,
        "of limit %": 100 * rate / machine.product_rate,
    }


def _expansion(corner: torch.Tensor, stages: Sequence[Stage]) -> Callable[[], torch.Tensor]:
    steps = [(stage, None if stage.by_fft else stage.basis(corner.dtype)) for stage in stages]

    def expand() -> torch.Tensor:
        x = corner
        for stage, basis in steps:
            x = stage.expand(x, basis)
        return x.contiguous()

    return expand


def _sweep_axes(scale: Scale, machine: Machine, where: str) -> Table:
    rows = [_axis_row(size, scale, machine) for size in scale.axis_sizes]
    return Table(
        f"A whole transform of one axis of about {scale.numbers:,} numbers ({where})",
        {
            "length": "d",
            "basis, last axis ms": ".2f",
            "FFT, last axis ms": ".2f",
            "FFT / basis, last": ".2f",
            "FFT / basis, first": ".2f",
            "chosen": "",
            "basis GFLOP/s": ".0f",
            "of limit %": ".0f",
        },
        rows,
        (f"The choice of `dct` and `idct` follows FFT_MIN_SIZE = {FFT_MIN_SIZE} (dct.py).",),
    )


def _axis_row(size: int, scale: Scale, machine: Machine) -> Row:
    count = max(1, scale.numbers // size)
    basis = dct_basis(size)
    last, first = torch.randn(count, size), torch.randn(size, count)
    candidates: dict[str, Callable[[], object]] = {
        "basis, last": lambda: expand_axis(last, 1, basis),
        "FFT, last": lambda: expand_axis_by_fft(last, 1, size),
        "basis, first": lambda: expand_axis(first, 0, basis),
        "FFT, first": lambda: expand_axis_by_fft(first, 0, size).contiguous(),
    }
    timings = compare(candidates, scale, share=0.1)
    seconds = {name: timing.median_s for name, timing in timings.items()}
    rate = 2 * count * size**2 / seconds["basis, last"]
    return {
        "length": size,
        "basis, last axis ms": 1e3 * seconds["basis, last"],
        "FFT, last axis ms": 1e3 * seconds["FFT, last"],
        "FFT / basis, last": seconds["FFT, last"] / seconds["basis, last"],
        "FFT / basis, first": seconds["FFT, first"] / seconds["basis, first"],
        "chosen": "FFT" if size >= FFT_MIN_SIZE else "basis",
        "basis GFLOP/s": rate / 1e9,
        "of limit %": 100 * rate / machine.product_rate,
    }


def _sweep_kernels(scale: Scale, machine: Machine, where: str) -> Table:
    rows = [_kernel_row(size, scale, machine) for size in scale.kernel_sizes]
    return Table(
        f"The kernel axes of about {scale.numbers:,} numbers, by one matrix or one per axis ({where})",
        {
            "kernel": "",
            "joined ms": ".2f",
            "apart ms": ".2f",
            "apart / joined": ".2f",
            "chosen": "",
            "joined GB/s": ".1f",
            "of limit %": ".0f",
        },
        rows,
        (f"The choice follows MAX_JOINED_SIZE = {MAX_JOINED_SIZE} (corner.py).",),
    )


def _kernel_row(size: int, scale: Scale, machine: Machine) -> Row:
    count = max(1, scale.numbers // size**2)
    corner = torch.randn(count, size, size)
    joined = [Stage(1, 3, (size, size), (size, size), by_fft=False)]
    apart = [Stage(axis, axis + 1, (size,), (size,), by_fft=False) for axis in (1, 2)]
    candidates = {"joined": _expansion(corner, joined), "apart": _expansion(corner, apart)}
    timings = compare(candidates, scale, share=0.1)
    seconds = {name: timing.median_s for name, timing in timings.items()}
    rate = 2 * 4 * corner.numel() / seconds["joined"]
    return {
        "kernel": f"{size} x {size}",
        "joined ms": 1e3 * seconds["joined"],
        "apart ms": 1e3 * seconds["apart"],
        "apart / joined": seconds["apart"] / seconds["joined"],
        "chosen": "joined" if size**2 <= MAX_JOINED_SIZE else "apart",
        "joined GB/s": rate / 1e9,
        "of limit %": 100 * rate / machine.copy_rate,
    }


def _steps(size: int) -> list[int]:
    """4, 8, 16, ... to `size`, with steps in between where the choice changes."""
    powers = [1 << exponent for exponent in range(2, size.bit_length()) if 1 << exponent <= size]
    between = [size * part // 16 for part in (2, 3, 4, 5, 6, 7, 8, 12, 16)]
    return sorted({*powers, *between})
