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
