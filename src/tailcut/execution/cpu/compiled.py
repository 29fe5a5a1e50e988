"""Choice of compiled loops for tiles, and their threads: numba (extra `fast`), on the CPU.

The loops are compiled once per type, or per form of a program, and kept on disk; they hold no lock of Python's, so
that threads share the positions. What they do is in `program_calls.py`.
"""

import functools
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
from torch import Tensor

from tailcut.compiling import is_installed as is_installed

# Elements from which on the loops are faster than PyTorch's products (measured on a server core).
MIN_ELEMENTS = 1 << 19
MAX_RANK = 16
# Work below this is not worth another thread.
FLOPS_PER_PIECE = 4e6
# Positions whose values stay in the first-level cache, and channels that are made at once.
STRIP, BLOCK = 512, 4


def pays(like: Tensor, elements: int, rank: int) -> bool:
    """Return whether the loops are there and faster, by sizes alone: the same input gives the same bits in every call.

    Args:
        like: one of the tensors they would read; they take float32 and float64 on the CPU.
        elements: numbers of the full map, made and dropped.
        rank: the most numbers per position that it is made of, or projected to.
    """
    fits = like.device.type == "cpu" and like.dtype in (torch.float32, torch.float64)
    return fits and elements >= MIN_ELEMENTS and rank <= MAX_RANK and is_installed()


def padded(tensor: Tensor, axis: int) -> Tensor:
    """Pad the channels with zeros to a whole number of blocks: a zero column of a projection adds nothing."""
    return widened(tensor.detach(), axis, -(-tensor.shape[axis] // BLOCK) * BLOCK).contiguous()


def widened(tensor: Tensor, axis: int, size: int) -> Tensor:
    """Pad an axis with zeros at its end to `size`."""
    shape = list(tensor.shape)
    shape[axis] = size - tensor.shape[axis]
    return torch.cat([tensor, tensor.new_zeros(shape)], dim=axis) if shape[axis] else tensor


@functools.cache
def _pool_of(process: int, num_threads: int) -> ThreadPoolExecutor:
    # A forked process has none of its parent's threads, so it makes its own.
    return ThreadPoolExecutor(num_threads, thread_name_prefix="tailcut")


def pieces(num_positions: int, flops_per_position: float) -> list[tuple[int, int]]:
    """Return ranges of positions for the threads: whole strips, two ranges for each thread, but none too small."""
    num = min(2 * torch.get_num_threads(), max(1, int(num_positions * flops_per_position / FLOPS_PER_PIECE)))
    length = max(STRIP, -(-num_positions // num // STRIP) * STRIP)
    return [(begin, min(begin + length, num_positions)) for begin in range(0, num_positions, length)]


def in_threads(kernel: Callable[..., None], arguments: tuple[Any, ...], ranges: Sequence[tuple[int, int]]) -> None:
    """Call kernel(*arguments, begin, end) for all ranges, each in a thread if there are several."""
    if len(ranges) == 1:
        kernel(*arguments, *ranges[0])
    else:
        pool = _pool_of(os.getpid(), torch.get_num_threads())
        list(pool.map(lambda piece: kernel(*arguments, *piece), ranges))
