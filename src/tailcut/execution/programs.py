"""Expressions as programs for compiled loops, forward and backward: how a training step avoids wide maps on a CPU.

A program is a list of nodes, children first; each gives the map's channels at a position: an affine function of a few
numbers, a map in memory, a scaled child, a clamp (ReLU, ReLU6, hard tanh), a sum or a maximum of two children.
"""

import functools
import importlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tailcut.execution.compiled import in_threads, padded, pieces
from tailcut.execution.expression import Affine, Expression, Given, Pointwise, Scaled, nodes

AFFINE, GIVEN, SCALED, CLAMP, ADD, MAXIMUM = range(6)
MAX_GIVEN = 2
Array = np.ndarray[Any, Any]
Values = Mapping[int, Tensor]


@dataclass(frozen=True)
class Program:
    """An expression in the form the loops know.

    Attributes:
        code: (nodes, 5) of int64: the operation and its arguments. Affine: first row among the narrow sources, number
            of rows, first column of the matrix, column of the shift. Given: its number. Scaled: child, column of the
            scale, column of the shift. Clamp: child. Sum and maximum: both children.
        bounds: (nodes, 2), of clamps.
        narrow: the sources of affine nodes, as they are stacked.
        given: maps in memory.
        matrices: of the affine nodes, as they stand side by side.
        factors: shifts and scales, as they stand side by side; None for a shift of zero.
        channels: of the map.
    """

    code: Array
    bounds: Array
    narrow: tuple[Tensor, ...]
    given: tuple[Tensor, ...]
    matrices: tuple[Tensor, ...]
    factors: tuple[Tensor | None, ...]
    channels: int


def program_of(root: Expression) -> Program | None:
    """The expression as a program; None if the loops do not know one of its nodes."""
    writer = _Writer()
    for node in nodes([root]):
        if not writer.add(node):
            return None
    if not writer.matrices or len(writer.given) > MAX_GIVEN:
        return None
    code = np.array([[*row, 0, 0, 0, 0][:5] for row in writer.code], dtype=np.int64)
    parts = tuple(writer.narrow), tuple(writer.given), tuple(writer.matrices), tuple(writer.factors)
    return Program(code, np.array(writer.bounds), *parts, root.channels)


class _Writer:
    def __init__(self) -> None:
        self.code: list[tuple[int, ...]] = []
        self.bounds: list[tuple[float, float]] = []
        self.narrow: list[Tensor] = []
        self.given: list[Tensor] = []
        self.matrices: list[Tensor] = []
        self.factors: list[Tensor | None] = []
        self._place: dict[int, int] = {}

    def add(self, node: Expression) -> bool:
        """Write one node below its children; False if there is no operation for it."""
        bounds = (-np.inf, np.inf)
        row: tuple[int, ...]
        if isinstance(node, Affine):
            column = sum(matrix.shape[1] for matrix in self.matrices)
            row = (AFFINE, self._row_of(node.source), node.matrix.shape[1], column, self._factor(node.shift))
            self.matrices.append(node.matrix)
        elif isinstance(node, Given):
            row = (GIVEN, len(self.given))
            self.given.append(node.source)
        elif isinstance(node, Scaled):
            row = (SCALED, self._place[id(node.child)], self._factor(node.scale), self._factor(node.shift))
        elif isinstance(node, Pointwise) and node.function.bounds is not None:
            bounds = node.function.bounds
            row = (CLAMP, self._place[id(node.children[0])])
        elif isinstance(node, Pointwise) and node.function.name in _OF_TWO and len(node.children) > 1:
            return self._chain(_OF_TWO[node.function.name], node)
        else:
            return False
        self._write(node, row, bounds)
        return True

    def _chain(self, operation: int, node: Pointwise) -> bool:
        """A function of many arguments, taken two by two."""
        before = self._place[id(node.children[0])]
        for child in node.children[1:]:
            self._write(node, (operation, before, self._place[id(child)]), (-np.inf, np.inf))
            before = self._place[id(node)]
        return True

    def _write(self, node: Expression, row: tuple[int, ...], bounds: tuple[float, float]) -> None:
        self._place[id(node)] = len(self.code)
        self.code.append(row)
        self.bounds.append(bounds)

    def _row_of(self, source: Tensor) -> int:
        first = 0
        for known in self.narrow:
            if known is source:
                return first
            first += known.shape[0]
        self.narrow.append(source)
        return first

    def _factor(self, factor: Tensor | None) -> int:
        self.factors.append(factor)
        return len(self.factors) - 1


_OF_TWO = {"add": ADD, "maximum": MAXIMUM}


def add_forward(program: Program, matrix: Tensor | None, values: Values, result: Tensor) -> None:
    """Add matrix @ program to `result`, (num_out, positions); without a matrix write the program there.

    Args:
        program: see `program_of`.
        matrix: (num_out, channels), or None.
        values: by identity, for all tensors of the program: sources as (rows, positions), others as they are.
        result: changed.
    """
    sources, parameters = _sources(program, values), _parameters(program, matrix, values)
    arguments = (
        program.code,
        program.bounds.astype(sources[0].dtype),
        sources,
        parameters,
        matrix is None,
        result.numpy(),
    )
    in_threads(_loops().forward_strips, arguments, _pieces(program, sources, result))


def backward(
    program: Program, matrix: Tensor | None, values: Values, gradient: Tensor
) -> Iterator[tuple[Tensor, Tensor]]:
    """Pairs of a tensor of the program (or the matrix itself) and a part of its gradient; parts add up.

    Args:
        program: see `program_of`.
        matrix: what the program is multiplied by, or None.
        values: as for `add_forward`, and with the matrix.
        gradient: (num_out, positions), of the loss for the product, or for the program itself.
    """
    sources, parameters = _sources(program, values), _parameters(program, matrix, values)
    ranges = _pieces(program, sources, gradient)
    numbers = {begin: number for number, (begin, _) in enumerate(ranges)}
    of_sources = tuple(np.empty_like(array) for array in sources)
    sums = [np.zeros((len(numbers), *array.shape)) for array in parameters]
    bounds, incoming = program.bounds.astype(sources[0].dtype), _array(gradient)
    kernel = _loops().backward_strips

    def work(begin: int, end: int) -> None:
        own = tuple(part[numbers[begin]] for part in sums)
        kernel(program.code, bounds, sources, parameters, matrix is None, incoming, of_sources, own, begin, end)

    in_threads(work, (), ranges)
    of_z, *of_given = (torch.from_numpy(array) for array in of_sources)
    totals = [torch.from_numpy(part.sum(0)).to(gradient.dtype) for part in sums]
    yield from _split(program.narrow, of_z, 0)
    yield from zip(program.given, of_given, strict=False)
    yield from _split(program.matrices, totals[0][: program.channels], 1)
    for column, factor in enumerate(program.factors):
        if factor is not None:
            yield factor, totals[1][: program.channels, column]
    if matrix is not None:
        yield matrix, totals[2][:, : program.channels]


def _pieces(program: Program, sources: tuple[Array, ...], result: Tensor) -> list[tuple[int, int]]:
    num_out, num_positions = result.shape
    return pieces(num_positions, 2 * program.channels * (sources[0].shape[0] + num_out))


def _split(tensors: Sequence[Tensor], joined: Tensor, axis: int) -> Iterator[tuple[Tensor, Tensor]]:
    sizes = [tensor.shape[axis] for tensor in tensors]
    return zip(tensors, joined.split(sizes, dim=axis), strict=True)


def _sources(program: Program, values: Values) -> tuple[Array, ...]:
    """What the loops read at each position: narrow sources together, then maps in memory."""
    narrow = [values[id(source)].detach() for source in program.narrow]
    z = _array(narrow[0] if len(narrow) == 1 else torch.cat(narrow))
    given = [_array(values[id(source)]) for source in program.given]
    return z, *given, *(np.empty((0, 0), z.dtype) for _ in range(MAX_GIVEN - len(given)))


def _parameters(program: Program, matrix: Tensor | None, values: Values) -> tuple[Array, ...]:
    """What the loops read for each channel: matrices, shifts and scales, the projection."""
    matrices = torch.cat([values[id(part)].detach() for part in program.matrices], dim=1)
    zero = matrices.new_zeros(program.channels)
    columns = [zero if part is None else values[id(part)].detach() for part in program.factors]
    factors = torch.stack(columns, dim=1)
    projection = matrices.new_zeros(0, 0) if matrix is None else padded(values[id(matrix)], 1)
    return padded(matrices, 0).numpy(), padded(factors, 0).numpy(), projection.numpy()


def _array(tensor: Tensor) -> Array:
    array: Array = tensor.detach().contiguous().numpy()
    return array


@functools.cache
def _loops() -> Any:
    return importlib.import_module("tailcut.execution.program_loops")
