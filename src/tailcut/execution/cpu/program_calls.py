"""Programs run by compiled loops, forward and backward, so that no full map is written on a CPU.

Long calls have a loop of their own (`codegen.py`). Which are long follows from sizes alone, so that a run gives the
same numbers each time.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from tailcut.execution.cpu import codegen
from tailcut.execution.cpu.codegen import Form, rounded
from tailcut.execution.cpu.compiled import in_threads, padded, pieces, widened
from tailcut.execution.ir.programs import AFFINE, Array, Program

Values = Mapping[int, Tensor]
Arrays = tuple[Array, ...]


class Call(NamedTuple):
    """Arguments of a loop.

    Attributes:
        form: of the loop that is written for the program.
        sources: what is read at each position: low-rank sources together, then maps in memory.
        parameters: what is read for each channel: matrices, shifts and scales, the projection.
        columns: of each matrix, as they stand side by side.
        ranges: of positions, one for each piece of work.
    """

    form: Form
    sources: Arrays
    parameters: Arrays
    columns: tuple[int, ...]
    ranges: list[tuple[int, int]]


def pays(program: Program, num_out: int, num_positions: int, *, is_projected: bool) -> bool:
    """Return whether a call is worth a loop of its own; `num_out` rows are written, if projected those of a matrix."""
    form = form_of(program, num_out if is_projected else 0)
    return codegen.pays(form, _flops(program, num_out) * num_positions)


def add_forward(program: Program, matrix: Tensor | None, values: Values, result: Tensor) -> None:
    """Add matrix @ program to `result`, (num_out, positions); without a matrix write the program there.

    Args:
        program: see `program_of`.
        matrix: (num_out, channels), or None.
        values: by identity, for all tensors of the program: sources as (rows, positions), others as they are.
        result: changed.
    """
    call = _call(program, matrix, values, result)
    arguments = _rows(program), call.sources, call.parameters, result.numpy()
    in_threads(codegen.forward_loop(call.form), arguments, call.ranges)


def backward(
    program: Program, matrix: Tensor | None, values: Values, gradient: Tensor, *, of_matrix: bool = True
) -> Iterator[tuple[Tensor, Tensor]]:
    """Return pairs of a tensor of the program (or the matrix itself) and a part of its gradient; parts add up.

    Args:
        program: see `program_of`.
        matrix: what the program is multiplied by, or None.
        values: as for `add_forward`, and with the matrix.
        gradient: (num_out, positions), of the loss for the product, or for the program itself.
        of_matrix: the matrix's own gradient is wanted.
    """
    call = _call(program, matrix, values, gradient)
    of_sources = tuple(np.empty_like(array) for array in call.sources)
    sums = [np.zeros((len(call.ranges), *array.shape)) for array in call.parameters]
    numbers = {begin: number for number, (begin, _) in enumerate(call.ranges)}
    kernel = codegen.backward_loop(call.form, of_projection=of_matrix)
    arguments = _rows(program), call.sources, call.parameters, _array(gradient), of_sources

    def work(begin: int, end: int) -> None:
        kernel(*arguments, tuple(part[numbers[begin]] for part in sums), begin, end)

    in_threads(work, (), call.ranges)
    of_z, *of_given = (torch.from_numpy(array) for array in of_sources)
    totals = [torch.from_numpy(part.sum(0)).to(gradient.dtype) for part in sums]
    yield from _split(program.low_rank, of_z)
    yield from zip(program.given, of_given, strict=True)
    for part, own in zip(program.matrices, totals[0][: program.channels].split(call.columns, dim=1), strict=True):
        yield part, own[:, : part.shape[1]]
    for column, factor in enumerate(program.factors):
        if factor is not None:
            yield factor, totals[1][: program.channels, column]
    if matrix is not None and of_matrix:
        yield matrix, totals[2][: matrix.shape[0], : program.channels]


def _call(program: Program, matrix: Tensor | None, values: Values, product: Tensor) -> Call:
    """Return the loop and its arguments; `product`, (num_out, positions), is the result or its gradient."""
    num_out, num_positions = product.shape
    form = form_of(program, 0 if matrix is None else num_out)
    columns = tuple(rounded(part.shape[1]) for part in program.matrices)
    parameters = _parameters(program, matrix, values, columns, form.num_out)
    ranges = pieces(num_positions, _flops(program, num_out))
    return Call(form, _sources(program, values), parameters, columns, ranges)


def _flops(program: Program, num_out: int) -> float:
    rows = sum(source.shape[0] for source in program.low_rank)
    return 2.0 * program.channels * (rows + num_out)


def form_of(program: Program, num_out: int) -> Form:
    """Return the form of a program, sizes rounded; `num_out` is the size of its projection, 0 if it is written."""
    places, own = {}, 0
    for first, source in _first_rows(program):
        places[first] = own
        own += rounded(source.shape[0])
    code, column = [], 0
    for op, *arguments in program.code.tolist():
        if op == AFFINE:
            first, k, _, shift = arguments
            arguments = [places[first], rounded(k), column, shift]
            column += rounded(k)
        code.append((op, *arguments))
    bounds = tuple((low, high) for low, high in program.bounds.tolist())
    sizes = own, column, len(program.factors), len(program.given), rounded(num_out)
    return Form(tuple(code), bounds, *sizes)


def _first_rows(program: Program) -> Iterator[tuple[int, Tensor]]:
    first = 0
    for source in program.low_rank:
        yield first, source
        first += source.shape[0]


def _rows(program: Program) -> Array:
    """Return the row of the low-rank sources at each place of the form's, -1 for zeros."""
    rows: list[int] = []
    for first, source in _first_rows(program):
        size = source.shape[0]
        rows += [*range(first, first + size), *[-1] * (rounded(size) - size)]
    return np.array(rows, dtype=np.int64)


def _split(tensors: Sequence[Tensor], joined: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    return zip(tensors, joined.split([tensor.shape[0] for tensor in tensors]), strict=True)


def _sources(program: Program, values: Values) -> Arrays:
    low_rank = [values[id(source)].detach() for source in program.low_rank]
    z = _array(low_rank[0] if len(low_rank) == 1 else torch.cat(low_rank))
    return z, *(_array(values[id(source)]) for source in program.given)


def _parameters(
    program: Program, matrix: Tensor | None, values: Values, columns: Sequence[int], num_out: int
) -> Arrays:
    """Pad the matrices to `columns` columns and the projection to `num_out` rows, with zeros."""
    parts = [values[id(part)].detach() for part in program.matrices]
    matrices = torch.cat([widened(part, 1, size) for part, size in zip(parts, columns, strict=True)], dim=1)
    zero = matrices.new_zeros(program.channels)
    factors = [zero if part is None else values[id(part)].detach() for part in program.factors]
    projection = matrices.new_zeros(0, 0) if matrix is None else widened(padded(values[id(matrix)], 1), 0, num_out)
    return padded(matrices, 0).numpy(), padded(torch.stack(factors, dim=1), 0).numpy(), projection.numpy()


def _array(tensor: Tensor) -> Array:
    array: Array = tensor.detach().contiguous().numpy()
    return array
