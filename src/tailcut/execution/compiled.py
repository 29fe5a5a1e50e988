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
# So many numbers must be made, each of few, before the loops beat PyTorch's products (measured on a server core).
MIN_ELEMENTS = 1 << 19
MAX_NARROW = 16
# Work below this is not worth another thread.
FLOPS_PER_PIECE = 4e6
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


def pays(elements: int, narrow: int) -> bool:
    """Whether the loops are the faster way by sizes alone.

    Args:
        elements: numbers of the wide map, made and dropped.
        narrow: the most numbers per position that it is made of, or projected to.
    """
    return elements >= MIN_ELEMENTS and narrow <= MAX_NARROW


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
        flops = 2 * form.matrix.shape[0] * (source.shape[0] + num_out)
        in_threads(kernel, arguments, pieces(num_positions, flops))
    return result


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


def pieces(num_positions: int, flops_per_position: float) -> list[tuple[int, int]]:
    """Ranges of positions for the threads: of whole strips, two for each thread, but none too small for one."""
    num = min(2 * torch.get_num_threads(), max(1, int(num_positions * flops_per_position / FLOPS_PER_PIECE)))
    length = max(STRIP, -(-num_positions // num // STRIP) * STRIP)
    return [(begin, min(begin + length, num_positions)) for begin in range(0, num_positions, length)]


def in_threads(kernel: Callable[..., None], arguments: tuple[Any, ...], ranges: Sequence[tuple[int, int]]) -> None:
    """Call kernel(*arguments, begin, end) for all ranges, each in a thread if there are several."""
    if len(ranges) == 1:
        kernel(*arguments, *ranges[0])
    else:
        list(_pool().map(lambda piece: kernel(*arguments, *piece), ranges))
