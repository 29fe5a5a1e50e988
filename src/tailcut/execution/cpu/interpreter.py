"""The loops that numba compiles for programs (see programs.py), which go from node to node, forward and backward.

They run what has no loop of its own (codegen.py). Import this module only where numba is installed. The values of one
strip of positions stay in a cache, four channels at a time; nothing as large as the map is written unless it is asked
for.
"""

import numpy as np

from tailcut.execution.cpu.compiled import BLOCK, STRIP
from tailcut.execution.cpu.loops import Array, compile_loop
from tailcut.execution.ir.programs import ADD, AFFINE, CLAMP, GIVEN, SCALED

Arrays = tuple[Array, ...]


@compile_loop
def forward_strips(
    code: Array,
    bounds: Array,
    sources: Arrays,
    parameters: Arrays,
    writes: bool,
    result: Array,
    begin: int,
    end: int,
) -> None:
    """Add projection @ program to `result` at begin ... end - 1, or write the program's own channels there.

    Args:
        code: (nodes, 5), see programs.py.
        bounds: (nodes, 2), of clamps.
        sources: over positions: all low-rank ones, one below the other, (rows, positions); then two maps in memory,
            (channels, positions), empty where there is none.
        parameters: over channels: the matrices of affine nodes side by side, (padded channels, columns); shifts and
            scales side by side, (padded channels, columns); the projection, (num_out, padded channels).
        writes: write the program's channels; the projection is ignored.
        result: (num_out, positions).
        begin: first position.
        end: one behind the last.
    """
    z, projection, num_out = sources[0], parameters[2], result.shape[0]
    narrow = np.empty((z.shape[0], STRIP), z.dtype)
    values = np.empty((code.shape[0] * BLOCK, STRIP), z.dtype)
    total = np.empty((num_out, STRIP), z.dtype)
    last = (code.shape[0] - 1) * BLOCK
    for start in range(begin, end, STRIP):
        n = min(STRIP, end - start)
        narrow[:, :n] = z[:, start : start + n]
        total[:, :] = 0
        for c in range(0, parameters[0].shape[0], BLOCK):
            _values(code, bounds, narrow, sources, parameters, c, start, n, values)
            if writes:
                for row in range(min(BLOCK, num_out - c)):
                    for p in range(n):
                        result[c + row, start + p] = values[last + row, p]
            else:
                add_product(projection, 0, num_out, c, BLOCK, values, last, total, 0, n)
        if not writes:
            result[:, start : start + n] += total[:, :n]


@compile_loop
def backward_strips(
    code: Array,
    bounds: Array,
    sources: Arrays,
    parameters: Arrays,
    writes: bool,
    gradient: Array,
    of_sources: Arrays,
    of_parameters: Arrays,
    begin: int,
    end: int,
) -> None:
    """Compute the gradients of `forward_strips`, whose values are recomputed.

    Those of the sources are written at begin ... end - 1. Those of the parameters are sums over the positions, added
    to float64 arrays which belong to this range alone.
    """
    z, num_out, of_projection = sources[0], gradient.shape[0], of_parameters[2]
    narrow = np.empty((z.shape[0], STRIP), z.dtype)
    of_narrow = np.empty((z.shape[0], STRIP), z.dtype)
    values = np.empty((code.shape[0] * BLOCK, STRIP), z.dtype)
    of_values = np.empty((code.shape[0] * BLOCK, STRIP), z.dtype)
    incoming = np.empty((num_out, STRIP), z.dtype)
    last = (code.shape[0] - 1) * BLOCK
    for start in range(begin, end, STRIP):
        n = min(STRIP, end - start)
        narrow[:, :n] = z[:, start : start + n]
        incoming[:, :n] = gradient[:, start : start + n]
        of_narrow[:, :] = 0
        for c in range(0, parameters[0].shape[0], BLOCK):
            _values(code, bounds, narrow, sources, parameters, c, start, n, values)
            of_values[:, :n] = 0
            if writes:
                for row in range(min(BLOCK, num_out - c)):
                    of_values[last + row, :n] = incoming[c + row, :n]
            else:
                add_product(parameters[2].T, c, BLOCK, 0, num_out, incoming, 0, of_values, last, n)
                add_dots(values, last, BLOCK, incoming, 0, num_out, of_projection.T, c, 0, n)
            _back(
                code, bounds, narrow, parameters, c, start, n, values, of_values, of_narrow, of_sources, of_parameters
            )
        of_sources[0][:, start : start + n] = of_narrow[:, :n]


@compile_loop
def _back(
    code: Array,
    bounds: Array,
    narrow: Array,
    parameters: Arrays,
    c: int,
    start: int,
    n: int,
    values: Array,
    of_values: Array,
    of_narrow: Array,
    of_sources: Arrays,
    of_parameters: Arrays,
) -> None:
    """Backpropagate from the gradients of the last node's channels c ... c + 3 to all nodes."""
    matrix, factors = parameters[0], parameters[1]
    for node in range(code.shape[0] - 1, -1, -1):
        at = node * BLOCK
        if code[node, 0] == AFFINE:
            _affine_back(code[node], narrow, matrix, c, n, of_values, at, of_narrow, of_parameters[0], of_parameters[1])
        elif code[node, 0] == GIVEN:
            into = of_sources[1] if code[node, 1] == 0 else of_sources[2]
            for row in range(min(BLOCK, into.shape[0] - c)):
                for p in range(n):
                    into[c + row, start + p] = of_values[at + row, p]
        elif code[node, 0] == SCALED:
            _scaled_back(code[node], factors, c, n, values, of_values, at, of_parameters[1])
        else:
            _pointwise_back(code[node], at, bounds[node], n, values, of_values)


@compile_loop
def _values(
    code: Array,
    bounds: Array,
    narrow: Array,
    sources: Arrays,
    parameters: Arrays,
    c: int,
    start: int,
    n: int,
    values: Array,
) -> None:
    """Compute channels c ... c + 3 of all nodes at one strip."""
    matrix, factors = parameters[0], parameters[1]
    for node in range(code.shape[0]):
        op, a, b, d = code[node, 0], code[node, 1], code[node, 2], code[node, 3]
        at, one, two = node * BLOCK, a * BLOCK, b * BLOCK
        if op == AFFINE:
            for row in range(BLOCK):
                values[at + row, :n] = factors[c + row, code[node, 4]]
            add_product(matrix, c, BLOCK, d, b, narrow, a, values, at, n)
        elif op == GIVEN:
            source = sources[1] if a == 0 else sources[2]
            values[at : at + BLOCK, :n] = 0
            for row in range(min(BLOCK, source.shape[0] - c)):
                for p in range(n):
                    values[at + row, p] = source[c + row, start + p]
        else:
            for row in range(BLOCK):
                if op == SCALED:
                    scale, shift = factors[c + row, b], factors[c + row, d]
                    for p in range(n):
                        values[at + row, p] = values[one + row, p] * scale + shift
                elif op == CLAMP:
                    low, high = bounds[node, 0], bounds[node, 1]
                    for p in range(n):
                        x = values[one + row, p]
                        x = low if x < low else x
                        values[at + row, p] = high if x > high else x
                elif op == ADD:
                    for p in range(n):
                        values[at + row, p] = values[one + row, p] + values[two + row, p]
                else:
                    for p in range(n):
                        x, y = values[one + row, p], values[two + row, p]
                        # NaN stays NaN, as in torch.maximum.
                        values[at + row, p] = x if y <= x or x != x else y


@compile_loop
def add_product(
    factors: Array, r: int, num: int, c: int, k: int, rows: Array, first: int, into: Array, at: int, n: int
) -> None:
    """Add factors[r : r + num, c : c + k] @ rows[first : first + k, :n] to into[at : at + num, :n].

    Four by four: sixteen products for each eight rows that are read.
    """
    whole, whole_k = num - num % 4, k - k % 4
    for j in range(0, whole, 4):
        i0, i1, i2, i3, y = at + j, at + j + 1, at + j + 2, at + j + 3, r + j
        for i in range(0, whole_k, 4):
            f, x = first + i, c + i
            a00, a01, a02, a03 = factors[y, x], factors[y, x + 1], factors[y, x + 2], factors[y, x + 3]
            a10, a11, a12, a13 = factors[y + 1, x], factors[y + 1, x + 1], factors[y + 1, x + 2], factors[y + 1, x + 3]
            a20, a21, a22, a23 = factors[y + 2, x], factors[y + 2, x + 1], factors[y + 2, x + 2], factors[y + 2, x + 3]
            a30, a31, a32, a33 = factors[y + 3, x], factors[y + 3, x + 1], factors[y + 3, x + 2], factors[y + 3, x + 3]
            for p in range(n):
                z0, z1, z2, z3 = rows[f, p], rows[f + 1, p], rows[f + 2, p], rows[f + 3, p]
                into[i0, p] += a00 * z0 + a01 * z1 + (a02 * z2 + a03 * z3)
                into[i1, p] += a10 * z0 + a11 * z1 + (a12 * z2 + a13 * z3)
                into[i2, p] += a20 * z0 + a21 * z1 + (a22 * z2 + a23 * z3)
                into[i3, p] += a30 * z0 + a31 * z1 + (a32 * z2 + a33 * z3)
        for i in range(whole_k, k):
            a0, a1, a2, a3 = factors[y, c + i], factors[y + 1, c + i], factors[y + 2, c + i], factors[y + 3, c + i]
            for p in range(n):
                z = rows[first + i, p]
                into[i0, p] += a0 * z
                into[i1, p] += a1 * z
                into[i2, p] += a2 * z
                into[i3, p] += a3 * z
    for j in range(whole, num):
        for i in range(k):
            a = factors[r + j, c + i]
            for p in range(n):
                into[at + j, p] += a * rows[first + i, p]


@compile_loop
def add_dots(
    left: Array, one: int, num: int, right: Array, two: int, k: int, into: Array, r: int, c: int, n: int
) -> None:
    """Add left[one : one + num, :n] @ right[two : two + k, :n].T to into[r : r + num, c : c + k].

    `num` is a multiple of 4.
    """
    zero = left.dtype.type(0)
    for j in range(0, num, 4):
        i0, i1, i2, i3, y = one + j, one + j + 1, one + j + 2, one + j + 3, r + j
        for i in range(0, k - k % 2, 2):
            t00, t01, t10, t11, t20, t21, t30, t31 = zero, zero, zero, zero, zero, zero, zero, zero
            for p in range(n):
                z0, z1 = right[two + i, p], right[two + i + 1, p]
                g0, g1, g2, g3 = left[i0, p], left[i1, p], left[i2, p], left[i3, p]
                t00 += g0 * z0
                t01 += g0 * z1
                t10 += g1 * z0
                t11 += g1 * z1
                t20 += g2 * z0
                t21 += g2 * z1
                t30 += g3 * z0
                t31 += g3 * z1
            x = c + i
            into[y, x] += t00
            into[y, x + 1] += t01
            into[y + 1, x] += t10
            into[y + 1, x + 1] += t11
            into[y + 2, x] += t20
            into[y + 2, x + 1] += t21
            into[y + 3, x] += t30
            into[y + 3, x + 1] += t31
        for i in range(k - k % 2, k):
            t0, t1, t2, t3 = zero, zero, zero, zero
            for p in range(n):
                z = right[two + i, p]
                t0 += left[i0, p] * z
                t1 += left[i1, p] * z
                t2 += left[i2, p] * z
                t3 += left[i3, p] * z
            into[y, c + i] += t0
            into[y + 1, c + i] += t1
            into[y + 2, c + i] += t2
            into[y + 3, c + i] += t3


@compile_loop
def _affine_back(
    node: Array,
    narrow: Array,
    matrix: Array,
    c: int,
    n: int,
    of_values: Array,
    at: int,
    of_narrow: Array,
    of_matrix: Array,
    of_factors: Array,
) -> None:
    first, k, column, shift = node[1], node[2], node[3], node[4]
    add_product(matrix.T, column, k, c, BLOCK, of_values, at, of_narrow, first, n)
    add_dots(of_values, at, BLOCK, narrow, first, k, of_matrix, c, column, n)
    zero = narrow.dtype.type(0)
    for row in range(BLOCK):
        total = zero
        for p in range(n):
            total += of_values[at + row, p]
        of_factors[c + row, shift] += total


@compile_loop
def _scaled_back(
    node: Array, factors: Array, c: int, n: int, values: Array, of_values: Array, at: int, of_factors: Array
) -> None:
    child, scale, shift = node[1] * BLOCK, node[2], node[3]
    zero = values.dtype.type(0)
    for row in range(BLOCK):
        factor = factors[c + row, scale]
        of_scale, of_shift = zero, zero
        for p in range(n):
            g = of_values[at + row, p]
            of_values[child + row, p] += factor * g
            of_scale += g * values[child + row, p]
            of_shift += g
        of_factors[c + row, scale] += of_scale
        of_factors[c + row, shift] += of_shift


@compile_loop
def _pointwise_back(node: Array, at: int, bounds: Array, n: int, values: Array, of_values: Array) -> None:
    op, one, two = node[0], node[1] * BLOCK, node[2] * BLOCK
    half = values.dtype.type(0.5)
    zero = values.dtype.type(0)
    low, high = bounds[0], bounds[1]
    for row in range(BLOCK):
        if op == CLAMP:
            for p in range(n):
                x = values[one + row, p]
                g = of_values[at + row, p]
                of_values[one + row, p] += zero if x <= low or x >= high else g
        elif op == ADD:
            for p in range(n):
                g = of_values[at + row, p]
                of_values[one + row, p] += g
                of_values[two + row, p] += g
        else:
            for p in range(n):
                x, y = values[one + row, p], values[two + row, p]
                g = of_values[at + row, p]
                # Where both are the same each takes half, as in torch.maximum.
                mine = half * g if x == y else (g if x > y else zero)
                of_values[one + row, p] += mine
                of_values[two + row, p] += g - mine
