"""The loops that numba compiles. Import this module only where numba is installed (`compiled.is_installed`).

Values of one strip of positions stay in the first-level cache. Innermost loops run over the last axis of arrays by
a plain counter and take four rows at once, which the compiler turns into whole vectors.
"""

import importlib
from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np

STRIP = 512
BLOCK = 4
Array = np.ndarray[Any, Any]
Loop = TypeVar("Loop", bound=Callable[..., None])

_numba: Any = importlib.import_module("numba")


def compile_loop(loop: Loop) -> Loop:
    """Compile at the first call; sums may be reordered, but NaN and infinity are kept."""
    options = {"nogil": True, "cache": True, "fastmath": {"contract", "reassoc"}}
    compiled: Loop = _numba.njit(**options)(loop)
    return compiled


@compile_loop
def project_strips(
    source: Array,
    num_phases: int,
    matrix: Array,
    shift: Array,
    low: float,
    high: float,
    projection: Array,
    result: Array,
    begin: int,
    end: int,
) -> None:
    """Add projection @ clamp(max over phases of (matrix @ phase + shift)) to `result` at begin ... end - 1.

    Args:
        source: (num_phases * k, positions), one phase below the other.
        num_phases: how many there are.
        matrix: (channels, k), channels a multiple of BLOCK.
        shift: (channels,).
        low: lower bound of the clamp.
        high: upper bound.
        projection: (num_out, channels), num_out a multiple of BLOCK.
        result: (num_out, positions).
        begin: first position.
        end: one behind the last.
    """
    channels, k = matrix.shape
    num_out = projection.shape[0]
    z = np.empty((num_phases * k, STRIP), source.dtype)
    wide = np.empty((2 * BLOCK, STRIP), source.dtype)
    total = np.empty((num_out, STRIP), source.dtype)
    for start in range(begin, end, STRIP):
        n = min(STRIP, end - start)
        z[:, :n] = source[:, start : start + n]
        total[:, :] = 0
        for c in range(0, channels, BLOCK):
            _expand(z, 0, matrix, shift, low, high, c, wide, 0, n)
            for phase in range(1, num_phases):
                _expand(z, phase * k, matrix, shift, low, high, c, wide, BLOCK, n)
                for row in range(BLOCK):
                    for p in range(n):
                        other = wide[BLOCK + row, p]
                        mine = wide[row, p]
                        wide[row, p] = mine if other <= mine else other
            _accumulate(wide, projection, c, total, n)
        result[:, start : start + n] += total[:, :n]


@compile_loop
def _expand(
    z: Array,
    first: int,
    matrix: Array,
    shift: Array,
    low: float,
    high: float,
    c: int,
    wide: Array,
    into: int,
    n: int,
) -> None:
    """Rows c ... c + 3 of clamp(matrix @ z + shift), to `wide` from row `into`; z begins at row `first`."""
    k = matrix.shape[1]
    for row in range(BLOCK):
        at = into + row
        rest = k % BLOCK
        s = shift[c + row]
        if rest == 0:
            m0, m1, m2, m3 = matrix[c + row, 0], matrix[c + row, 1], matrix[c + row, 2], matrix[c + row, 3]
            for p in range(n):
                x = s + m0 * z[first, p] + m1 * z[first + 1, p] + (m2 * z[first + 2, p] + m3 * z[first + 3, p])
                if k == BLOCK:
                    x = low if x < low else x
                    x = high if x > high else x
                wide[at, p] = x
            if k == BLOCK:
                continue
            rest = BLOCK
        else:
            m0 = matrix[c + row, 0]
            for p in range(n):
                wide[at, p] = s + m0 * z[first, p]
            for i in range(1, rest):
                m0 = matrix[c + row, i]
                for p in range(n):
                    wide[at, p] += m0 * z[first + i, p]
        for i in range(rest, k, BLOCK):
            m0, m1, m2, m3 = matrix[c + row, i], matrix[c + row, i + 1], matrix[c + row, i + 2], matrix[c + row, i + 3]
            f = first + i
            for p in range(n):
                wide[at, p] += m0 * z[f, p] + m1 * z[f + 1, p] + (m2 * z[f + 2, p] + m3 * z[f + 3, p])
        for p in range(n):
            x = wide[at, p]
            x = low if x < low else x
            wide[at, p] = high if x > high else x


@compile_loop
def _accumulate(wide: Array, projection: Array, c: int, total: Array, n: int) -> None:
    """Add columns c ... c + 3 of the projection times the first four rows of `wide` to `total`."""
    for j in range(projection.shape[0]):
        q0, q1, q2, q3 = projection[j, c], projection[j, c + 1], projection[j, c + 2], projection[j, c + 3]
        for p in range(n):
            total[j, p] += q0 * wide[0, p] + q1 * wide[1, p] + (q2 * wide[2, p] + q3 * wide[3, p])


@compile_loop
def correlate_rows(
    source: Array, core: Array, pad_h: int, pad_w: int, step_h: int, step_w: int, result: Array, begin: int, end: int
) -> None:
    """Rows begin ... end - 1 (counted through the batch) of a convolution with stride 1 of a few channels.

    Args:
        source: (num_in, batch, height, width).
        core: (num_out, num_in, kernel height, kernel width).
        pad_h: zeros above and below.
        pad_w: zeros left and right.
        step_h: dilation along the height.
        step_w: dilation along the width.
        result: (num_out, batch, out height, out width).
        begin: first row.
        end: one behind the last.
    """
    num_out, num_in, size_h, _ = core.shape
    height, width = source.shape[2:]
    out_h, out_w = result.shape[2:]
    rows = np.zeros((num_in * size_h, width + 2 * pad_w), source.dtype)
    total = np.empty((num_out, out_w), source.dtype)
    for row in range(begin, end):
        image, y = row // out_h, row % out_h
        for i in range(num_in):
            for dy in range(size_h):
                from_row = y - pad_h + dy * step_h
                if 0 <= from_row < height:
                    rows[i * size_h + dy, pad_w : pad_w + width] = source[i, image, from_row]
                else:
                    rows[i * size_h + dy] = 0
        total[:, :] = 0
        for j in range(num_out):
            for i in range(num_in):
                for dy in range(size_h):
                    _correlate_row(rows[i * size_h + dy], core[j, i, dy], step_w, total[j])
        result[:, image, y, :] = total


@compile_loop
def _correlate_row(row: Array, taps: Array, step: int, total: Array) -> None:
    """Add one row of the source under one row of the kernel to `total`."""
    num = taps.shape[0]
    length = total.shape[0]
    rest = num % 3
    for t in range(rest):
        tap = taps[t]
        shifted = row[t * step : t * step + length]
        for x in range(length):
            total[x] += tap * shifted[x]
    for t in range(rest, num, 3):
        tap0, tap1, tap2 = taps[t], taps[t + 1], taps[t + 2]
        row0 = row[t * step : t * step + length]
        row1 = row[(t + 1) * step : (t + 1) * step + length]
        row2 = row[(t + 2) * step : (t + 2) * step + length]
        for x in range(length):
            total[x] += tap0 * row0[x] + tap1 * row1[x] + tap2 * row2[x]


@compile_loop
def strip_moments(source: Array, mean: Array, scatter: Array, begin: int, end: int) -> None:
    """Mean and sum of products about it, of positions begin ... end - 1, strip by strip and merged in float64.

    Chan, Golub, LeVeque (1979): each strip is centred on its own mean, so no digits are lost.

    Args:
        source: (k, positions).
        mean: (k,), float64, written.
        scatter: (k, k), float64, written.
        begin: first position.
        end: one behind the last.
    """
    k = source.shape[0]
    centred = np.empty(k * STRIP, source.dtype)
    apart = np.empty(k, np.float64)
    mean[:] = 0
    scatter[:, :] = 0
    done = 0
    for start in range(begin, end, STRIP):
        n = min(STRIP, end - start)
        for i in range(k):
            total = source.dtype.type(0)
            for p in range(n):
                total += source[i, start + p]
            middle = total / source.dtype.type(n)
            for p in range(n):
                centred[i * STRIP + p] = source[i, start + p] - middle
            apart[i] = middle - mean[i]
        for i in range(k):
            for j in range(i + 1):
                total = source.dtype.type(0)
                for p in range(n):
                    total += centred[i * STRIP + p] * centred[j * STRIP + p]
                scatter[i, j] += total + apart[i] * apart[j] * (done * n / (done + n))
        for i in range(k):
            mean[i] += apart[i] * (n / (done + n))
        done += n
    for i in range(k):
        for j in range(i):
            scatter[j, i] = scatter[i, j]
