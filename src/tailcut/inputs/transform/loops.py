"""Loops of `compiled.py` for numba. Import this module only where numba is installed.

Innermost loops run over neighbours in memory by a plain counter and take several rows at once, which the compiler
turns into whole vectors. All work of a row of blocks stays in the first- and second-level cache.
"""

from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np

from tailcut.compiling import compile_inner, compile_loop

Array = np.ndarray[Any, Any]
Loop = TypeVar("Loop", bound=Callable[..., None])

# Pixels of a block's row, and with one more on each side.
INSIDE, AROUND = 8, 10
# Numbers of a block's row in three colours, made up to multiples of 4.
NUM_INSIDE, NUM_AROUND = 24, 32
# Numbers of a block.
NUMBERS = 64


def _compiled(loop: Loop) -> Loop:
    """Compile at the first call; sums may be reordered, but NaN and infinity are kept."""
    return compile_loop(loop, fastmath={"contract", "reassoc"})


def _inner(loop: Loop) -> Loop:
    return compile_inner(loop, fastmath={"contract", "reassoc"})


@_compiled
def transform_pixels(
    pixels: Array,
    vertical_luma: Array,
    vertical_chroma: Array,
    rows: Array,
    horizontal: Array,
    shift: Array,
    result: Array,
) -> None:
    """Chosen frequencies of all blocks of an image.

    Args:
        pixels: uint8 (3, 8 blocks_h, 8 blocks_w), red, green and blue.
        vertical_luma: float32 (kv, INSIDE), cosines along the height.
        vertical_chroma: float32 (kc, AROUND), likewise, over one row more on each side.
        rows: int64 (n,), for each channel its row of vertical_luma, or kv + its row of vertical_chroma.
        horizontal: float32 (n, NUM_AROUND), for each channel the factors of a block's row, colour by colour: INSIDE
            (luma) or AROUND (chroma) each, then zeros.
        shift: float32 (n,), added to each channel.
        result: float32 (n, blocks_h, blocks_w); filled.
    """
    height, width = pixels.shape[1:]
    num_luma, num_chroma = len(vertical_luma), len(vertical_chroma)
    num, blocks_h, blocks_w = result.shape
    lines = np.empty((AROUND, 3 * width), np.float32)
    sums = np.empty(3 * width, np.float32)
    columns = np.zeros((num_luma + num_chroma, NUM_AROUND, blocks_w), np.float32)
    for i in range(blocks_h):
        for r in range(AROUND):
            source = min(max(INSIDE * i + r - 1, 0), height - 1)
            for colour in range(3):
                for j in range(width):
                    lines[r, colour * width + j] = pixels[colour, source, j]
        for k in range(num_luma):
            _sum_of_eight(lines, vertical_luma, k, 0, sums)
            _spread(sums, columns[k], INSIDE, 0)
        for k in range(num_chroma):
            _sum_of_eight(lines, vertical_chroma, k, 1, sums)
            first, last = vertical_chroma[k, 0], vertical_chroma[k, AROUND - 1]
            for j in range(3 * width):
                sums[j] += first * lines[0, j] + last * lines[AROUND - 1, j]
            around = columns[num_luma + k]
            _spread(sums, around, AROUND, 1)
            for colour in range(3):
                left, right = around[AROUND * colour], around[AROUND * colour + AROUND - 1]
                for b in range(blocks_w):
                    left[b] = sums[colour * width + max(INSIDE * b - 1, 0)]
                    right[b] = sums[colour * width + min(INSIDE * (b + 1), width - 1)]
        for n in range(num):
            k = rows[n]
            terms = NUM_INSIDE if k < num_luma else NUM_AROUND
            _weighted_sum(columns[k], horizontal[n], terms, shift[n], result[n, i])


@_compiled
def select_frequencies(blocks: Array, stride: int, indices: Array, scale: Array, shift: Array, result: Array) -> None:
    """Chosen frequencies of a plane of blocks: scale x coefficient + shift.

    Args:
        blocks: float32, the numbers of at least as many blocks as the result, 64 each, row by row of blocks.
        stride: numbers from the beginning of one row to that of the next.
        indices: int64 (n,), row-major.
        scale: float32 (n,).
        shift: float32 (n,).
        result: float32 (n, rows, columns); filled.
    """
    num, rows, columns = result.shape
    for i in range(rows):
        for b in range(columns):
            start = stride * i + NUMBERS * b
            for n in range(num):
                result[n, i, b] = scale[n] * blocks[start + indices[n]] + shift[n]


@_compiled
def upsample_frequencies(
    blocks: Array,
    stride: int,
    grid: tuple[int, int],
    vertical: Array,
    horizontal: Array,
    indices: Array,
    shift: Array,
    result: Array,
) -> None:
    """Chosen frequencies of a plane that is enlarged and smoothed by linear maps on each block and its neighbours.

    Args:
        blocks: float32, as for `select_frequencies`.
        stride: likewise.
        grid: (blocks_h, blocks_w).
        vertical: float32 (4, factor, kv, 24), for a block with neighbours on both sides, without one before, without
            one behind, and alone: the map from the three blocks' v to the first kv frequencies of each new block.
        horizontal: float32 (4, n, factor, 24), likewise along the width, for the one horizontal frequency of each
            channel.
        indices: int64 (n,), the vertical frequency of each channel, below kv.
        shift: float32 (n,), added to each channel.
        result: float32 (n, rows, columns), no more than factor x blocks; filled.
    """
    blocks_h, blocks_w = grid
    num, rows, columns = result.shape
    factor_v, num_v, factor_u = vertical.shape[1], vertical.shape[2], horizontal.shape[2]
    zero: Any = np.float32(0)
    # A row of blocks with those above and below: by v, then side by side. Then a new row, of which only v is done; and
    # the same by u of each block and its neighbours.
    high = np.empty((3 * INSIDE, INSIDE * blocks_w), np.float32)
    tall = np.empty(INSIDE * blocks_w, np.float32)
    wide = np.zeros((num_v, 3 * INSIDE, blocks_w), np.float32)
    line = np.empty(blocks_w, np.float32)
    for y in range(rows):
        i = y // factor_v
        if y % factor_v == 0:
            for d in range(3):
                _lay_out(blocks, stride * min(max(i + d - 1, 0), blocks_h - 1), blocks_w, high, INSIDE * d)
        weights = vertical[(1 if i == 0 else 0) + (2 if i == blocks_h - 1 else 0), y % factor_v]
        for k in range(num_v):
            _weighted_sum(high, weights[k], 3 * INSIDE, zero, tall)
            for b in range(blocks_w):
                for u in range(INSIDE):
                    wide[k, INSIDE + u, b] = tall[INSIDE * b + u]
            for u in range(INSIDE):
                for b in range(1, blocks_w):
                    wide[k, u, b] = wide[k, INSIDE + u, b - 1]
                    wide[k, 2 * INSIDE + u, b - 1] = wide[k, INSIDE + u, b]
        for n in range(num):
            for x in range(factor_u):
                _weighted_sum(wide[indices[n]], horizontal[0, n, x], 3 * INSIDE, shift[n], line)
                for b in (0, blocks_w - 1):
                    place = (1 if b == 0 else 0) + (2 if b == blocks_w - 1 else 0)
                    line[b] = shift[n]
                    for m in range(3 * INSIDE):
                        line[b] += horizontal[place, n, x, m] * wide[indices[n], m, b]
                for b in range((columns - x + factor_u - 1) // factor_u):
                    result[n, y, factor_u * b + x] = line[b]


@_inner
def _lay_out(blocks: Array, start: int, num: int, rows: Array, first: int) -> None:
    """Write `num` blocks by v, then side by side, to 8 rows from `first` on."""
    for b in range(num):
        for v in range(INSIDE):
            for u in range(INSIDE):
                rows[first + v, INSIDE * b + u] = blocks[start + NUMBERS * b + INSIDE * v + u]


@_inner
def _sum_of_eight(lines: Array, factors: Array, k: int, offset: int, sums: Array) -> None:
    """Set sums to the 8 lines inside the blocks times factors[k, offset ...]."""
    a, b, c, d = factors[k, offset], factors[k, offset + 1], factors[k, offset + 2], factors[k, offset + 3]
    e, f, g, h = factors[k, offset + 4], factors[k, offset + 5], factors[k, offset + 6], factors[k, offset + 7]
    for j in range(len(sums)):
        upper = a * lines[1, j] + b * lines[2, j] + c * lines[3, j] + d * lines[4, j]
        lower = e * lines[5, j] + f * lines[6, j] + g * lines[7, j] + h * lines[8, j]
        sums[j] = upper + lower


@_inner
def _weighted_sum(columns: Array, factors: Array, terms: int, shift: float, result: Array) -> None:
    """Set result to shift + the first `terms` (a multiple of 4) columns times factors."""
    for b in range(len(result)):
        result[b] = shift
    for m in range(0, terms, 4):
        p, q, r, s = factors[m], factors[m + 1], factors[m + 2], factors[m + 3]
        for b in range(len(result)):
            result[b] += p * columns[m, b] + q * columns[m + 1, b] + r * columns[m + 2, b] + s * columns[m + 3, b]


@_inner
def _spread(sums: Array, columns: Array, stride: int, offset: int) -> None:
    """Write pixel p of a block to row stride * colour + offset + p, the blocks side by side."""
    blocks_w = columns.shape[1]
    for colour in range(3):
        row = stride * colour + offset
        for b in range(blocks_w):
            start = INSIDE * (colour * blocks_w + b)
            for p in range(INSIDE):
                columns[row + p, b] = sums[start + p]
