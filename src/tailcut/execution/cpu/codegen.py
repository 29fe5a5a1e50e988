"""Loops generated for one program: straight-line code over a strip of positions.

The text of a loop has a statement for each product, so that the compiler keeps a position's numbers in registers from
the low-rank sources to the projected sum; nothing is read or written twice. Each form of a program is compiled once
and kept on disk, which takes seconds: so sizes are rounded up to few different ones, and only long calls come here.
"""

import functools
import hashlib
import importlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from tailcut.execution.cpu.compiled import BLOCK, STRIP
from tailcut.execution.ir.programs import ADD, AFFINE, CLAMP, GIVEN, SCALED

# Channels of low-rank sources are padded to a multiple of this, with zeros.
GRAIN = 4
# A shorter call is not worth a loop of its own, nor is one with more sums than there are registers.
MIN_FLOPS = 1e7
MAX_SUMS = 32
# Rows of a strip lie a cache line more than a strip apart: a power of two apart they would share a few places.
PITCH = STRIP + 16


@dataclass(frozen=True)
class Form:
    """Key of a generated loop.

    Attributes:
        code: the nodes as in `programs.Program`, rows and columns of rounded sources.
        bounds: of each node, for clamps.
        num_rows: low-rank numbers per position.
        num_columns: of the matrices side by side.
        num_factors: shifts and scales.
        num_given: maps in memory.
        num_out: rows of the projection; 0 to write the program's own channels.
    """

    code: tuple[tuple[int, ...], ...]
    bounds: tuple[tuple[float, float], ...]
    num_rows: int
    num_columns: int
    num_factors: int
    num_given: int
    num_out: int

    @property
    def last(self) -> int:
        """The node whose channels are the map's."""
        return len(self.code) - 1

    @property
    def incoming_row(self) -> int:
        """The row of a strip at which the gradients of the result begin: behind low-rank numbers and maps."""
        return self.num_rows + BLOCK * self.num_given


def rounded(size: int) -> int:
    """Round a size up to one that loops are generated for."""
    return -(-size // GRAIN) * GRAIN


def pays(form: Form, flops: float) -> bool:
    """Return whether a call that does `flops` should have a loop of its own, by sizes alone."""
    return flops >= MIN_FLOPS and form.num_columns + form.num_out <= MAX_SUMS


@functools.cache
def forward_loop(form: Form) -> Callable[..., None]:
    """(rows, sources, parameters, result, begin, end): add projection @ program to `result`, or write the program.

    Args of the loop:
        rows: (num_rows,), which row of the low-rank sources stands at each place, -1 for zeros.
        sources: over positions: all low-rank ones, one below the other, (rows, positions); then maps in memory,
            (channels, positions).
        parameters: over channels: the matrices of affine nodes side by side, (padded channels, columns); shifts and
            scales side by side, (padded channels, columns); the projection, (num_out, padded channels).
        result: (num_out, positions); it may have fewer rows than the form's.
        begin: first position.
        end: one behind the last.
    """
    return _compile("rows, sources, parameters, result, begin, end", _forward_lines(form))


@functools.cache
def backward_loop(form: Form, *, of_projection: bool) -> Callable[..., None]:
    """(rows, sources, parameters, gradient, of_sources, of_parameters, begin, end): gradients of `forward_loop`.

    Those of the sources are written at begin ... end - 1. Those of the parameters are sums over the positions, added
    to float64 arrays which belong to this range alone. Without `of_projection` the projection's is left out.
    """
    arguments = "rows, sources, parameters, gradient, of_sources, of_parameters, begin, end"
    return _compile(arguments, _backward_lines(form, of_projection))


def _compile(arguments: str, lines: Sequence[str]) -> Callable[..., None]:
    loops = importlib.import_module("tailcut.execution.cpu.loops")  # it needs numba, an extra
    body = "\n".join(lines)
    # numba keeps on disk what it compiled, by the function's name, which therefore tells all texts apart.
    name = f"loop_{hashlib.sha256(f'{arguments}{body}'.encode()).hexdigest()[:24]}"
    scope = {"__name__": __name__, "np": np, "wide_vectors": loops.wide_vectors, "copy_row": loops.copy_row}
    # The text holds names of its own and numbers (sizes, bounds), no words that a file or a user has written.
    exec(compile(f"def {name}({arguments}):\n{body}\n", __file__, "exec"), scope)  # noqa: S102
    compiled: Callable[..., None] = loops.compile_loop(scope[name])
    return compiled


def _indented(depth: int, lines: Sequence[str]) -> list[str]:
    return [" " * 4 * depth + line for line in lines]


def _opening(form: Form, num_read: int, num_written: int) -> list[str]:
    """Return the lines up to the loading of low-rank numbers: buffers, constants, the loop over strips."""
    bounds = [
        f"{side}{node} = kind({bound!r})"
        for node, pair in enumerate(form.bounds)
        for side, bound in zip(("low", "high"), pair, strict=True)
        if abs(bound) < float("inf")
    ]
    lines = [
        "wide_vectors()",
        "z, (matrix, factors, projection) = sources[0], parameters",
        "kind = z.dtype.type",
        "zero, half = kind(0), kind(0.5)",
        *bounds,
        f"x = np.empty({num_read * PITCH}, z.dtype)",
        f"t = np.empty({num_written * PITCH}, z.dtype)",
        f"for start in range(begin, end, {STRIP}):",
        f"    n = min({STRIP}, end - start)",
        f"    for i in range({form.num_rows}):",
        f"        copy_row(z, rows[i], start, x, i * {PITCH}, n)",
    ]
    return _indented(1, lines)


def _loading(form: Form) -> list[str]:
    """Return the lines that load four channels: their maps, and their parameters as scalars."""
    lines = [
        f"copy_row(sources[{1 + given}], c + {b} if c + {b} < sources[{1 + given}].shape[0] else -1, start, "
        f"x, {(form.num_rows + BLOCK * given + b) * PITCH}, n)"
        for given in range(form.num_given)
        for b in range(BLOCK)
    ]
    for b in range(BLOCK):
        lines += [f"m{i}_{b} = matrix[c + {b}, {i}]" for i in range(form.num_columns)]
        lines += [f"f{i}_{b} = factors[c + {b}, {i}]" for i in range(form.num_factors)]
        lines += [f"q{j}_{b} = projection[{j}, c + {b}]" for j in range(form.num_out)]
    return lines


def _at(buffer: str, row: int) -> str:
    return f"{buffer}[{row * PITCH} + p]"


def _values(form: Form, b: int) -> list[str]:
    """Return the lines that compute channel c + b of every node at position p."""
    lines = []
    for node, (op, one, two, three, four) in enumerate(form.code):
        v, first, second = f"v{node}_{b}", f"v{one}_{b}", f"v{two}_{b}"
        if op == AFFINE:
            products = [f"m{three + i}_{b} * {_at('x', one + i)}" for i in range(two)]
            lines.append(f"{v} = {' + '.join([f'f{four}_{b}', *products])}")
        elif op == GIVEN:
            lines.append(f"{v} = {_at('x', form.num_rows + BLOCK * one + b)}")
        elif op == SCALED:
            lines.append(f"{v} = {first} * f{two}_{b} + f{three}_{b}")
        elif op == CLAMP:
            lines.append(f"{v} = {first}")
            low, high = _clamps(form, node)
            lines += [f"{v} = {low} if {v} < {low} else {v}"] if low else []
            lines += [f"{v} = {high} if {v} > {high} else {v}"] if high else []
        elif op == ADD:
            lines.append(f"{v} = {first} + {second}")
        else:  # NaN stays NaN, as in torch.maximum.
            lines.append(f"{v} = {first} if {second} <= {first} or {first} != {first} else {second}")
    return lines


def _clamps(form: Form, node: int) -> tuple[str, str]:
    """Return the names of a clamp's bounds, "" for none."""
    low, high = form.bounds[node]
    return f"low{node}" if low > -float("inf") else "", f"high{node}" if high < float("inf") else ""


def _forward_lines(form: Form) -> list[str]:
    num_written = form.num_out or BLOCK
    lines = _opening(form, form.incoming_row, num_written)
    lines += _indented(2, ["t[:] = 0", f"for c in range(0, matrix.shape[0], {BLOCK}):"])
    lines += _indented(3, _loading(form))
    lines += _indented(3, ["for p in range(n):"])
    for b in range(BLOCK):
        lines += _indented(4, _values(form, b))
    if form.num_out:
        sums = [" + ".join(f"q{j}_{b} * v{form.last}_{b}" for b in range(BLOCK)) for j in range(form.num_out)]
        lines += _indented(4, [f"{_at('t', j)} += {total}" for j, total in enumerate(sums)])
        return lines + _indented(2, _putting("result", "+=", form.num_out, "0"))
    lines += _indented(4, [f"{_at('t', b)} = v{form.last}_{b}" for b in range(BLOCK)])
    return lines + _indented(3, _putting("result", "=", BLOCK, "c"))


def _putting(array: str, sign: str, num: int, first: str, row: int = 0) -> list[str]:
    """Return the lines that copy rows of `t`, from `row`, to rows of an array, from `first`, as far as it has them."""
    return [
        f"for i in range(min({num}, {array}.shape[0] - {first})):",
        "    for p in range(n):",
        f"        {array}[{first} + i, start + p] {sign} t[({row} + i) * {PITCH} + p]",
    ]


def _backward_lines(form: Form, of_projection: bool) -> list[str]:
    incoming = form.incoming_row
    lines = _opening(form, incoming + (form.num_out or BLOCK), incoming)
    lines += _indented(2, ["t[:] = 0", *(_taking(form, "i", form.num_out) if form.num_out else [])])
    lines += _indented(2, [f"for c in range(0, matrix.shape[0], {BLOCK}):"])
    lines += _indented(3, [] if form.num_out else _taking(form, "c + i", BLOCK))
    lines += _indented(3, _loading(form))
    sums = _sums(form, of_projection)
    lines += _indented(3, [f"{name} = zero" for name, _ in sums])
    lines += _indented(3, ["for p in range(n):"])
    of_rows: dict[int, list[str]] = {}
    for b in range(BLOCK):
        lines += _indented(4, _values(form, b) + _gradients(form, b, of_projection, of_rows))
    lines += _indented(4, [f"{_at('t', row)} += {' + '.join(terms)}" for row, terms in sorted(of_rows.items())])
    lines += _indented(3, [f"{place} += {name}" for name, place in sums])
    for given in range(form.num_given):
        lines += _indented(3, _putting(f"of_sources[{1 + given}]", "=", BLOCK, "c", form.num_rows + BLOCK * given))
    return lines + _indented(
        2,
        [
            f"for i in range({form.num_rows}):",
            "    if rows[i] >= 0:",
            "        for p in range(n):",
            f"            of_sources[0][rows[i], start + p] = t[i * {PITCH} + p]",
        ],
    )


def _taking(form: Form, row: str, num: int) -> list[str]:
    """Return the lines that copy the gradients of the result to the strip."""
    return [
        f"for i in range({num}):",
        f"    copy_row(gradient, {row} if {row} < gradient.shape[0] else -1, start, "
        f"x, ({form.incoming_row} + i) * {PITCH}, n)",
    ]


def _sums(form: Form, of_projection: bool) -> list[tuple[str, str]]:
    """Return the sums over positions that four channels need: their names, and where they are added."""
    found = []
    for b in range(BLOCK):
        found += [(f"dm{i}_{b}", f"of_parameters[0][c + {b}, {i}]") for i in range(form.num_columns)]
        found += [(f"df{i}_{b}", f"of_parameters[1][c + {b}, {i}]") for i in range(form.num_factors)]
        if of_projection:
            found += [(f"dq{j}_{b}", f"of_parameters[2][{j}, c + {b}]") for j in range(form.num_out)]
    return found


def _gradients(form: Form, b: int, of_projection: bool, of_rows: dict[int, list[str]]) -> list[str]:
    """Return the lines for the gradients of channel c + b of every node; `of_rows` collects those of the sources."""
    arriving = [_at("x", form.incoming_row + j) for j in range(form.num_out)]
    lines = []
    if form.num_out:
        start = " + ".join(f"q{j}_{b} * {gradient}" for j, gradient in enumerate(arriving))
        if of_projection:
            lines += [f"dq{j}_{b} += v{form.last}_{b} * {gradient}" for j, gradient in enumerate(arriving)]
    else:
        start = _at("x", form.incoming_row + b)
    terms: list[list[str]] = [[] for _ in form.code]
    terms[form.last].append(start)
    for node in range(form.last, -1, -1):
        lines.append(f"d{node}_{b} = {' + '.join(terms[node])}")
        lines += _one_gradient(form, node, b, terms, of_rows)
    return lines


def _one_gradient(form: Form, node: int, b: int, terms: list[list[str]], of_rows: dict[int, list[str]]) -> list[str]:
    """Return the lines for the gradients that one node passes to its inputs."""
    op, one, two, three, four = form.code[node]
    d, e, first, second = f"d{node}_{b}", f"e{node}_{b}", f"v{one}_{b}", f"v{two}_{b}"
    if op == AFFINE:
        for i in range(two):
            of_rows.setdefault(one + i, []).append(f"m{three + i}_{b} * {d}")
        return [f"df{four}_{b} += {d}", *(f"dm{three + i}_{b} += {d} * {_at('x', one + i)}" for i in range(two))]
    if op == GIVEN:
        return [f"{_at('t', form.num_rows + BLOCK * one + b)} = {d}"]
    if op == SCALED:
        terms[one].append(f"f{two}_{b} * {d}")
        return [f"df{two}_{b} += {d} * {first}", f"df{three}_{b} += {d}"]
    if op == CLAMP:
        low, high = _clamps(form, node)
        outside = " or ".join([f"{first} <= {low}"] * bool(low) + [f"{first} >= {high}"] * bool(high))
        terms[one].append(e)
        return [f"{e} = zero if {outside} else {d}" if outside else f"{e} = {d}"]
    if op == ADD:
        terms[one].append(d)
        terms[two].append(d)
        return []
    terms[one].append(e)
    terms[two].append(f"({d} - {e})")
    # Where both are the same each takes half, as in torch.maximum.
    return [f"{e} = half * {d} if {first} == {second} else ({d} if {first} > {second} else zero)"]
