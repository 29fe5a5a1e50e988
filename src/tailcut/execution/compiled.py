"""Compiled loops over tiles: what numba (extra `fast`) makes of the commonest expressions, on the CPU.

The loops know sums of clamp(max over phases of (matrix @ z + shift)): convolution, batch norm, ReLU or ReLU6, and a
max pool over windows that do not overlap. Residual sums, maps in memory and gradients are for `programs.py`; all
else is left to the tiles of `tiles.py`. The loops are general in all sizes, compiled once per type and kept on disk;
they hold no lock of Python's, so that threads share the positions.
"""

import functools
import importlib
import importlib.util
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import torch
from torch import Tensor

from tailcut.execution.expression import Affine, Expression, Pointwise

# "auto" works with plain tiles until a process has done this much in them: about one picture through a large
# network. So one cold picture never waits for a compiler, and small networks never call it.
PATIENCE_FLOPS = 5e9
# Below this many positions a call's own overhead is larger than the gain.
MIN_POSITIONS = 512
STRIP, BLOCK = 512, 4  # as in loops.py, which needs numba to be imported
_TYPES = (torch.float32, torch.float64)

_done_flops = 0.0


class Clamped(NamedTuple):
    """clamp(max over phases of (matrix @ phase + shift), low, high)."""

    phases: tuple[Tensor, ...]
    matrix: Tensor
    shift: Tensor | None
    low: float
    high: float


def is_installed() -> bool:
    """Whether numba is there."""
    return importlib.util.find_spec("numba") is not None


def is_worth_while(flops: float) -> bool:
    """Count `flops` of work in tiles; whether so much is done by now that compiling pays. For engine "auto"."""
    global _done_flops
    worth = _done_flops >= PATIENCE_FLOPS
    _done_flops += flops
    return worth and is_installed()


def fits(tensor: Tensor) -> bool:
    """Whether the loops take tensors like this one: on the CPU, float32 or float64."""
    return tensor.device.type == "cpu" and tensor.dtype in _TYPES


def run(terms: Sequence[tuple[Expression, Tensor | None]], num_out: int, num_positions: int) -> Tensor | None:
    """The sum of matrix @ expression, (num_out, positions); None if the loops do not know one of the terms."""
    if num_positions < MIN_POSITIONS:
        return None
    known = [(clamped_form(expression), matrix) for expression, matrix in terms]
    ready = [(form, matrix) for form, matrix in known if form is not None and matrix is not None]
    if len(ready) < len(known) or ready[0][0].matrix.device.type != "cpu" or ready[0][0].matrix.dtype not in _TYPES:
        return None
    result = torch.zeros(num_out, num_positions, dtype=ready[0][0].matrix.dtype)
    kernel = _loops().project_strips
    for form, matrix in ready:
        stacked = form.phases[0] if len(form.phases) == 1 else torch.cat(form.phases)
        source = stacked.flatten(1).contiguous().numpy()
        shift = form.matrix.new_zeros(form.matrix.shape[0]) if form.shift is None else form.shift
        arguments = (
            source,
            len(form.phases),
            padded(form.matrix, 0).numpy(),
            padded(shift, 0).numpy(),
            source.dtype.type(form.low),
            source.dtype.type(form.high),
            padded(matrix, 1).numpy(),
            result.numpy(),
        )
        in_threads(kernel, arguments, num_positions, STRIP)
    return result


def correlate(source: Tensor, core: Tensor, padding: Sequence[int], dilation: Sequence[int]) -> Tensor | None:
    """A convolution with stride 1 of a few channels; None where the loops do not fit.

    Args:
        source: (num_in, batch, height, width).
        core: (num_out, num_in, kernel height, kernel width).
        padding: zeros on both sides, per axis.
        dilation: per axis.

    Returns:
        (num_out, batch, height, width) of the result.
    """
    if source.ndim != 4 or source[0].numel() < MIN_POSITIONS or not (fits(source) and fits(core)):
        return None
    sizes = [
        size + 2 * pad - step * (kernel - 1)
        for size, pad, step, kernel in zip(source.shape[2:], padding, dilation, core.shape[2:], strict=True)
    ]
    if min(sizes) < 1 or core.shape[0] * core.shape[1] > 1024:
        return None
    result = torch.empty(core.shape[0], source.shape[1], *sizes, dtype=source.dtype)
    arguments = (
        source.contiguous().numpy(),
        core.contiguous().numpy(),
        *(int(pad) for pad in padding),
        *(int(step) for step in dilation),
        result.numpy(),
    )
    in_threads(_loops().correlate_rows, arguments, source.shape[1] * sizes[0], 1)
    return result


def moments(source: Tensor) -> tuple[Tensor, Tensor] | None:
    """Mean (k,) and covariance (k, k) of (k, positions), in float64; None where the loops do not fit."""
    if source.shape[1] < MIN_POSITIONS or not fits(source):
        return None
    num, positions = source.shape
    kernel = _loops().strip_moments
    ranges = pieces(positions, STRIP)
    means = torch.empty(len(ranges), num, dtype=torch.float64)
    products = torch.empty(len(ranges), num, num, dtype=torch.float64)
    array = source.contiguous().numpy()

    def one(number: int) -> None:
        kernel(array, means.numpy()[number], products.numpy()[number], *ranges[number])

    list(_pool().map(one, range(len(ranges))))
    counts = torch.tensor([float(end - begin) for begin, end in ranges], dtype=torch.float64)
    mean = (means * counts[:, None]).sum(0) / positions
    apart = means - mean
    scatter = products.sum(0) + (apart * counts[:, None]).T @ apart
    return mean, scatter / positions


def clamped_form(expression: Expression) -> Clamped | None:
    """The expression in the form the loops know, None if it has another."""
    low, high = -float("inf"), float("inf")
    if isinstance(expression, Pointwise) and expression.function.bounds is not None:
        low, high = expression.function.bounds
        expression = expression.children[0]
    is_maximum = isinstance(expression, Pointwise) and expression.function.name == "maximum"
    phases = expression.children if is_maximum and isinstance(expression, Pointwise) else None
    affine = [node for node in phases or (expression,) if isinstance(node, Affine)]
    if len(affine) < len(phases or (expression,)):
        return None
    first = affine[0]
    if any(node.matrix is not first.matrix or node.shift is not first.shift for node in affine):
        return None
    return Clamped(tuple(node.source for node in affine), first.matrix, first.shift, low, high)


def padded(tensor: Tensor, axis: int) -> Tensor:
    """The channels made up to a whole number of blocks with zeros: a zero column of a projection adds nothing."""
    missing = -tensor.shape[axis] % BLOCK
    shape = list(tensor.shape)
    shape[axis] = missing
    return torch.cat([tensor.detach(), tensor.new_zeros(shape)], dim=axis).contiguous()


@functools.cache
def _loops() -> Any:
    return importlib.import_module("tailcut.execution.loops")


@functools.cache
def _pool_of(process: int, num_threads: int) -> ThreadPoolExecutor:
    # A forked process has none of its parent's threads, so it makes its own.
    return ThreadPoolExecutor(num_threads, thread_name_prefix="tailcut")


def _pool() -> ThreadPoolExecutor:
    return _pool_of(os.getpid(), torch.get_num_threads())


def pieces(total: int, unit: int) -> list[tuple[int, int]]:
    """Ranges of positions for the threads: two for each, of whole units."""
    num = 2 * torch.get_num_threads()
    length = max(unit, -(-total // num // unit) * unit)
    return [(begin, min(begin + length, total)) for begin in range(0, total, length)]


def in_threads(kernel: Callable[..., None], arguments: tuple[Any, ...], total: int, unit: int) -> None:
    """Call kernel(*arguments, begin, end) for all ranges of `pieces(total, unit)`."""
    list(_pool().map(lambda piece: kernel(*arguments, *piece), pieces(total, unit)))
