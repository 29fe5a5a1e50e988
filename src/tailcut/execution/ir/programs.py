"""Expressions as programs for compiled loops.

A program is a list of nodes, children first; each gives the map's channels at a position: an affine function of a few
numbers, a map in memory, a scaled child, a clamp (ReLU, ReLU6, hard tanh), a sum or a maximum of two children.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from tailcut.execution.ir.expression import Affine, Expression, Given, Pointwise, Scaled, nodes

AFFINE, GIVEN, SCALED, CLAMP, ADD, MAXIMUM = range(6)
MAX_GIVEN = 2
Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Program:
    """An expression as the arrays that loops are written from.

    Attributes:
        code: (nodes, 5) of int64: the operation and its arguments. Affine: first row among the low-rank sources, number
            of rows, first column of the matrix, column of the shift. Given: its number. Scaled: child, column of the
            scale, column of the shift. Clamp: child. Sum and maximum: both children.
        bounds: (nodes, 2), of clamps.
        low-rank: the sources of affine nodes, as they are stacked.
        given: maps in memory.
        matrices: of the affine nodes, as they stand side by side.
        factors: shifts and scales, as they stand side by side; None for a shift of zero.
        channels: of the map.
    """

    code: Array
    bounds: Array
    low_rank: tuple[Tensor, ...]
    given: tuple[Tensor, ...]
    matrices: tuple[Tensor, ...]
    factors: tuple[Tensor | None, ...]
    channels: int


def program_of(root: Expression) -> Program | None:
    """Compile the expression to a program; None if the loops do not support one of its nodes."""
    writer = _Writer()
    for node in nodes([root]):
        if not writer.add(node):
            return None
    if not writer.matrices or len(writer.given) > MAX_GIVEN:
        return None
    code = np.array([[*row, 0, 0, 0, 0][:5] for row in writer.code], dtype=np.int64)
    parts = tuple(writer.low_rank), tuple(writer.given), tuple(writer.matrices), tuple(writer.factors)
    return Program(code, np.array(writer.bounds), *parts, root.channels)


class _Writer:
    def __init__(self) -> None:
        self.code: list[tuple[int, ...]] = []
        self.bounds: list[tuple[float, float]] = []
        self.low_rank: list[Tensor] = []
        self.given: list[Tensor] = []
        self.matrices: list[Tensor] = []
        self.factors: list[Tensor | None] = []
        self._place: dict[int, int] = {}

    def add(self, node: Expression) -> bool:
        """Add a node whose children are there; False if there is no operation for it."""
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
        """Add a function of many arguments, two by two."""
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
        for known in self.low_rank:
            if known is source:
                return first
            first += known.shape[0]
        self.low_rank.append(source)
        return first

    def _factor(self, factor: Tensor | None) -> int:
        self.factors.append(factor)
        return len(self.factors) - 1


_OF_TWO = {"add": ADD, "maximum": MAXIMUM}
