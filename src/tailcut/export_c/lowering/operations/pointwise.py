"""Arithmetic in a program: sums, differences and products of maps and numbers."""

from dataclasses import replace
from typing import Any

import numpy as np
from torch import fx

from tailcut.errors import StructureError
from tailcut.export_c.lowering.graph import rank
from tailcut.export_c.lowering.lowering import LARGEST, Handlers, Lowering, has_channels
from tailcut.export_c.lowering.operations.edges import times_ones
from tailcut.export_c.lowering.operations.places import table_of, with_table
from tailcut.export_c.lowering.sequences import axis_of, given_constant, given_shape
from tailcut.export_c.program.program import Op, Operation, Resampling, Segment, Value

HANDLERS = Handlers()


def _binary(low: Lowering, one: Any, two: Any, kind: Operation, factor: float = 1.0) -> Value:
    """Return a sum or product of two maps, the second times a factor."""
    values = _of_one_shape(low, one, two)
    return _of_two(low, [values[0], values[1] if factor == 1 else _scaled(values[1], factor, 0.0)], kind)


def _of_one_shape(low: Lowering, one: Any, two: Any) -> list[Value]:
    """Return two maps as plain values of one shape."""
    values = [low.plain(one), low.plain(two)]
    if rank(one) == rank(two) == 4:
        values = [_as_large_as(low, *pair) for pair in (values, values[::-1])]
    if rank(one) == rank(two) in (2, 4):
        values = [_as_many_as(low, *pair) for pair in (values, values[::-1])]
    if (values[0].channels, values[0].size) != (values[1].channels, values[1].size):
        shapes = [given_shape(part) for part in (one, two)]
        if shapes[0] == shapes[1]:
            raise StructureError(
                f"two maps of shape {shapes[0]} whose numbers lie in different orders; C code knows them in the same "
                "one: permute the axes of one before it is flattened"
            )
        raise StructureError(
            f"two maps of different shapes, {shapes[0]} and {shapes[1]}; "
            "C code knows equal ones, or one row, one column, one channel or one number of each channel with a map"
        )
    return values


def _of_two(low: Lowering, values: list[Value], kind: Operation) -> Value:
    """Return a sum or product of two plain values of one shape."""
    limited = [value if len(value.segments) == 1 else low.stored(value) for value in values]
    if sum(len(value.leaves()) for value in limited) > 4:
        largest = max(range(2), key=lambda place: len(limited[place].leaves()))
        limited[largest] = low.stored(limited[largest])
    ops = (*limited[0].segments[0].ops, *limited[1].segments[0].ops, Op(kind))
    return replace(limited[0], segments=(Segment(limited[0].channels, ops),))


def _as_large_as(low: Lowering, value: Value, other: Value) -> Value:
    """Return a map of one row, one column or both as large as another: gates of squeeze and excitation, other means."""
    fits = all(own in (1, full) for own, full in zip(value.size, other.size, strict=True))
    if not fits or value.size == other.size or value.channels != other.channels:
        return value
    return low.stored(replace(low.unresized(value), size=other.size, resampling=Resampling.NEAREST))


def _as_many_as(low: Lowering, value: Value, other: Value) -> Value:
    """Return a map of one channel with as many channels as another: gates for each place."""
    if value.channels != 1 or value.channels == other.channels or value.size != other.size:
        return value
    return times_ones(low, value, other.channels)


def _factors(low: Lowering, node: Any, x: fx.Node) -> Any:
    """Return a number, or one for each channel of what x gives."""
    if isinstance(node, (int, float)):
        return np.float64(node)
    numbers, channels = low.constant(node), low.value(x).channels
    along = (channels, 1, 1) if rank(x) == 4 else (channels,)
    if numbers is None or (numbers.size > 1 and (numbers.size, numbers.shape[-len(along) :]) != (channels, along)):
        given = given_constant(node)
        shape = None if numbers is None else tuple(given.meta["val"].shape) if given is not node else numbers.shape
        raise StructureError(
            f"{low.name_of(node)} of shape {shape}; C code knows one number, or one for each of the {channels} channels"
        )
    return numbers.reshape(-1).astype(np.float64) if numbers.size > 1 else np.float64(numbers.reshape(-1)[0])


def _scaled(value: Value, scale: Any, shift: Any) -> Value:
    arrays = [np.asarray(part, np.float64) for part in (scale, shift)]
    given = [part.astype(np.float32) if part.ndim else None for part in arrays]
    low, high = (0.0 if part.ndim else float(part) for part in arrays)
    return value.then(Op(Operation.SCALE, None, given[0], given[1], low, high))


def _is_map(low: Lowering, node: Any) -> bool:
    return isinstance(node, fx.Node) and node.name in low.values


@HANDLERS.register("add", "add_")
def _add(low: Lowering, node: fx.Node, one: Any, two: Any, alpha: float = 1) -> Value:
    if _is_map(low, one) and _is_map(low, two):
        return _binary(low, one, two, Operation.ADD, alpha)
    if _is_map(low, one) and (table := table_of(low, two, one, alpha)) is not None:
        return with_table(low, low.value(one), table)
    if _is_map(low, two) and (table := table_of(low, one, two)) is not None:
        return with_table(low, _scaled(low.value(two), float(alpha), 0.0) if alpha != 1 else low.value(two), table)
    if _is_map(low, one):
        return _scaled(low.value(one), 1.0, alpha * _factors(low, two, one))
    return _scaled(low.value(two), float(alpha), _factors(low, one, two))


@HANDLERS.register("sub", "sub_")
def _sub(low: Lowering, node: fx.Node, one: Any, two: Any, alpha: float = 1) -> Value:
    return _add(low, node, one, two, -alpha)


@HANDLERS.register("rsub")
def _rsub(low: Lowering, node: fx.Node, one: Any, two: Any, alpha: float = 1) -> Value:
    return _add(low, node, two, one, -alpha)


@HANDLERS.register("neg", "neg_")
def _neg(low: Lowering, node: fx.Node, x: fx.Node) -> Value:
    return _scaled(low.value(x), -1.0, 0.0)


@HANDLERS.register("mul", "mul_")
def _mul(low: Lowering, node: fx.Node, one: Any, two: Any) -> Value:
    if _is_map(low, one) and _is_map(low, two):
        return _binary(low, one, two, Operation.MULTIPLY)
    x, other = (one, two) if _is_map(low, one) else (two, one)
    return _scaled(low.value(x), _factors(low, other, x), 0.0)


@HANDLERS.register("square", "square_")
def _square(low: Lowering, node: fx.Node, x: fx.Node) -> Value:
    return _binary(low, x, x, Operation.MULTIPLY)


@HANDLERS.register("abs", "abs_")
def _abs(low: Lowering, node: fx.Node, x: fx.Node) -> Value:
    return low.value(x).then(Op(Operation.LEAKY, low=-1.0))


@HANDLERS.register("maximum")
def _maximum(low: Lowering, node: fx.Node, one: fx.Node, two: fx.Node) -> Value:
    return larger(low, one, two)


@HANDLERS.register("minimum")
def _minimum(low: Lowering, node: fx.Node, one: fx.Node, two: fx.Node) -> Value:
    return smaller(low, one, two)


def larger(low: Lowering, one: fx.Node, two: fx.Node) -> Value:
    """Return the larger numbers of two maps, at each place: two + relu(one - two)."""
    values = _of_one_shape(low, one, two)
    return _of_two(low, [_above(low, values), values[1]], Operation.ADD)


def smaller(low: Lowering, one: fx.Node, two: fx.Node) -> Value:
    """Return the smaller numbers of two maps, at each place: one - relu(one - two)."""
    values = _of_one_shape(low, one, two)
    return _of_two(low, [_scaled(_above(low, values), -1.0, 0.0), values[0]], Operation.ADD)


def _above(low: Lowering, values: list[Value]) -> Value:
    """Return by how much the first of two plain values is above the second, else 0."""
    difference = _of_two(low, [values[0], _scaled(values[1], -1.0, 0.0)], Operation.ADD)
    return difference.then(Op(Operation.CLAMP, low=0.0, high=LARGEST))


@HANDLERS.register("pow", "pow_")
def _pow(low: Lowering, node: fx.Node, x: fx.Node, exponent: Any) -> Value:
    if exponent != 2:
        raise StructureError(f"a power of {low.name_of(exponent)}; C code knows squares")
    return _square(low, node, x)


@HANDLERS.register("glu")
def _glu(low: Lowering, node: fx.Node, x: fx.Node, axis: int = -1) -> Value:
    value = low.plain(x)
    if not has_channels(x, value) or axis % rank(x) != 1:
        raise StructureError(f"GLU along {axis_of(x, axis)}; C code knows that of the channels")
    half = value.channels // 2
    gate = value.of_channels(half, value.channels).then(Op(Operation.SIGMOID))
    return _of_two(low, [value.of_channels(0, half), gate], Operation.MULTIPLY)


@HANDLERS.register("div", "div_")
def _div(low: Lowering, node: fx.Node, one: Any, two: Any, rounding_mode: str | None = None) -> Value:
    if rounding_mode is not None:
        raise StructureError(f"a quotient with rounding_mode={rounding_mode!r}; C code divides without rounding")
    value = low.value(one)
    if _is_map(low, two):
        raise StructureError("a quotient of maps; C code divides by numbers, parameters and constants")
    return _scaled(value, 1.0 / _factors(low, two, one), 0.0)
