"""Truncated tensors as nodes of an ONNX graph: from the coefficients, which are stored, to weights or their factors.

Cosines and positions are computed in the graph: the file holds the coefficients and a few sizes. Needs the extra
`onnx`.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir

from tailcut.transform.order import flat_positions, l1_order_index
from tailcut.weights import TruncatedTensor

# In numbers of 4 bytes, what the nodes take that put coefficients in their places, which layers of one shape share,
SCATTER_NUMBERS = 64
# and those that make a weight of a corner.
WEIGHT_NUMBERS = 128


@dataclass(frozen=True)
class Corner:
    """Stored part of a truncated tensor.

    Attributes:
        name: of the tensor.
        shape: sizes of the dense tensor.
        sizes: sizes of the corner.
        axes: the transformed axes.
        values: the coefficients by their position in the corner, row-major, times the scales of their cosines.
        strides: one integer per axis. The sum of index times stride grows along the order of coefficients.
        last: that sum at the last coefficient.
        dtype: type that weights are computed in: float32, or float64 for a float64 network.
    """

    name: str
    shape: tuple[int, ...]
    sizes: tuple[int, ...]
    axes: tuple[int, ...]
    values: np.ndarray
    strides: tuple[int, ...]
    last: int
    dtype: ir.DataType

    @classmethod
    def of(cls, tensor: TruncatedTensor) -> "Corner":
        """Return the stored part of `tensor`, which is not changed."""
        order_weights = tensor.truncation.order_weights
        index = l1_order_index(tensor.shape, tensor.num_kept, axes=tensor.axes, weights=order_weights)
        largest = index.max(axis=0) + 1
        sizes = tuple(int(largest[axis]) if axis in tensor.axes else size for axis, size in enumerate(tensor.shape))
        coefficients = tensor.coefficients().detach().cpu().numpy()
        values = coefficients.astype(np.float64) * _scales(index, tensor.shape, tensor.axes)
        row_major = np.argsort(flat_positions(index, sizes))
        strides = _order_strides(sizes, tensor.axes, order_weights)
        dtype = coefficients.dtype if coefficients.dtype == np.float64 else np.dtype(np.float32)
        return cls(
            tensor.name,
            tensor.shape,
            sizes,
            tensor.axes,
            values[row_major].astype(dtype),
            strides,
            int(index[-1] @ np.array(strides, dtype=np.int64)),
            ir.DataType.from_numpy(dtype),
        )

    @property
    def is_smaller(self) -> bool:
        """True if coefficients, and the nodes that read them, take less than the dense tensor."""
        return len(self.values) + WEIGHT_NUMBERS < math.prod(self.shape)

    @property
    def is_full(self) -> bool:
        """True if the whole corner, with zeros, takes no more than values and computed positions."""
        return math.prod(self.sizes) <= len(self.values) + SCATTER_NUMBERS

    def filled(self) -> np.ndarray:
        """Return the corner with zeros between its values."""
        index = np.indices(self.sizes).reshape(len(self.sizes), -1)
        corner = np.zeros(math.prod(self.sizes), dtype=self.values.dtype)
        corner[np.array(self.strides, dtype=np.int64) @ index <= self.last] = self.values
        return corner.reshape(self.sizes)


def _scales(index: np.ndarray, shape: Sequence[int], axes: Sequence[int]) -> np.ndarray:
    """Return the norm of each coefficient's cosine, (num,): the cosines in the graph are bare, without factors."""
    scales = np.ones(len(index))
    for axis in axes:
        scales *= np.where(index[:, axis] == 0, math.sqrt(1 / shape[axis]), math.sqrt(2 / shape[axis]))
    return scales


def _order_strides(sizes: Sequence[int], axes: Sequence[int], order_weights: Sequence[int]) -> tuple[int, ...]:
    """Return strides under which the canonical order is that of the sums.

    Frequencies come by their weighted sum, then lexicographically; axes that are not transformed come last.
    """
    whole = [axis for axis in range(len(sizes)) if axis not in axes]
    strides = [0] * len(sizes)
    step = 1
    for axis in reversed(whole):
        strides[axis] = step
        step *= sizes[axis]
    norm = step * math.prod(sizes[axis] for axis in axes)
    for axis, weight in zip(reversed(axes), reversed(order_weights), strict=True):
        strides[axis] = norm * weight + step
        step *= sizes[axis]
    return tuple(strides)


class WeightNodes:
    """Nodes that depend on no input of the network; equal ones are made once."""

    def __init__(self) -> None:
        self._tape = ir.tape.Tape()
        self._known: dict[object, ir.Value] = {}

    def insert(self, graph: ir.Graph) -> None:
        """Put all nodes at the beginning of the graph (changes the graph)."""
        for value in self._tape.initializers:
            graph.register_initializer(value)
        if self._tape.nodes and len(graph):
            graph.insert_before(graph[0], self._tape.nodes)

    def op(self, kind: str, inputs: Sequence[ir.Value], **attributes: Any) -> ir.Value:
        """Add a node, or find an equal one, and return its output."""
        key = (kind, *map(id, inputs), repr(sorted(attributes.items())))
        if key not in self._known:
            self._known[key] = self._tape.op(kind, list(inputs), attributes)
        return self._known[key]

    def constant(self, array: np.ndarray, name: str | None = None) -> ir.Value:
        """Add a stored tensor."""
        key = (array.dtype.str, array.shape, array.tobytes(), name)
        if key not in self._known:
            name = name or f"constant {len(self._tape.initializers)}"
            self._known[key] = self._tape.initializer(ir.tensor(array, name=name))
        return self._known[key]

    def numbers(self, *values: int) -> ir.Value:
        """Add a stored vector of integers."""
        return self.constant(np.array(values, dtype=np.int64))

    def scalar(self, value: int) -> ir.Value:
        """Add a stored integer."""
        return self.constant(np.array(value, dtype=np.int64))

    def cosines(self, size: int, num_kept: int, dtype: ir.DataType) -> ir.Value:
        """Build cos(pi (2 y + 1) x / (2 size)), shape (num_kept, size), row x, column y.

        The phase is reduced as an integer, first to one period, then to where the sine is monotonic: so that the
        argument in float32 is at most pi / 2, and the result as good as rounded.
        """
        columns = self._range(1, 2 * size, 2)
        rows = self.op("Unsqueeze", [self._range(0, num_kept, 1), self.numbers(1)])
        phase = self.op("Mod", [self.op("Mul", [rows, columns]), self.scalar(4 * size)])
        from_half = self.op("Abs", [self.op("Sub", [phase, self.scalar(2 * size)])])
        reduced = self.op("Sub", [from_half, self.scalar(size)])
        unit = self.constant(np.array(math.pi / (2 * size), dtype=dtype.numpy()))
        angle = self.op("Mul", [self.op("Cast", [reduced], to=int(dtype)), unit])
        return self.op("Sin", [angle])

    def corner(self, corner: Corner) -> ir.Value:
        """Build the corner of coefficients, zeros between."""
        if corner.is_full:
            return self.constant(corner.filled(), corner.name)
        values = self.constant(corner.values, corner.name)
        zero = ir.tensor(np.zeros(1, dtype=corner.values.dtype))
        empty = self.op("ConstantOfShape", [self.numbers(*corner.sizes)], value=zero)
        return self.op("ScatterND", [empty, self._positions(corner), values])

    def weight(self, corner: Corner, expanded: Sequence[int], order: Sequence[int] | None = None) -> ir.Value:
        """Build the tensor with the axes `expanded` in full size and the others as in the corner.

        Args:
            corner: of the tensor.
            expanded: axes to expand; those that are not transformed have their size anyway.
            order: how to order the axes of the result.
        """
        order = range(len(corner.shape)) if order is None else order
        letters = [chr(ord("a") + axis) for axis in range(len(corner.shape))]
        operands, terms, result = [self.corner(corner)], ["".join(letters)], list(letters)
        # The axis that grows least comes first: the intermediate results stay small.
        for axis in sorted(expanded, key=lambda axis: corner.shape[axis] / corner.sizes[axis]):
            if axis in corner.axes and corner.shape[axis] > 1:
                operands.append(self.cosines(corner.shape[axis], corner.sizes[axis], corner.dtype))
                result[axis] = letters[axis].upper()
                terms.append(letters[axis] + result[axis])
        target = "".join(result[axis] for axis in order)
        if len(operands) == 1 and target == terms[0]:
            return operands[0]
        return self.op("Einsum", operands, equation=f"{','.join(terms)}->{target}")

    def rebuilt(self, corner: Corner, like: ir.Value) -> ir.Value:
        """Build the dense tensor, in the type of `like`."""
        whole = self.weight(corner, range(len(corner.shape)))
        return whole if like.dtype is None else self.cast(whole, corner, like.dtype)

    def cast(self, value: ir.Value, corner: Corner, dtype: ir.DataType) -> ir.Value:
        """Cast the value to the type of the network."""
        return value if corner.dtype == dtype else self.op("Cast", [value], to=int(dtype))

    def _range(self, start: int, end: int, step: int) -> ir.Value:
        return self.op("Range", [self.scalar(start), self.scalar(end), self.scalar(step)])

    def _positions(self, corner: Corner) -> ir.Value:
        """Return the places of the coefficients in the corner, (num, axes): sums up to the last one's."""
        sums: ir.Value | None = None
        for axis, (size, stride) in enumerate(zip(corner.sizes, corner.strides, strict=True)):
            others = [other for other in range(len(corner.sizes)) if other != axis]
            own = self._range(0, size * stride, stride)
            own = self.op("Unsqueeze", [own, self.numbers(*others)]) if others else own
            sums = own if sums is None else self.op("Add", [sums, own])
        if sums is None:
            raise ValueError(f"{corner.name} has no axes")
        kept = self.op("LessOrEqual", [sums, self.scalar(corner.last)])
        return self.op("Transpose", [self.op("NonZero", [kept])], perm=[1, 0])
