"""Expressions that give the channels of a full map at a pixel from a few numbers there.

Every node gives `channels` values at each position of one grid, (batch, *spatial). Sources are stored with the
channels first, (channels, batch, *spatial), so that any range of positions is one matrix with positions as columns.
All nodes but `Resampled` work position by position; `Resampled` stands only at the top of an expression.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import torch
from torch import Tensor

OnSource = Callable[[Tensor], Tensor]


@dataclass(frozen=True, eq=False)
class Expression:
    """Node of an expression; `channels` is the number of its values at a position."""

    channels: int

    @cached_property
    def flops(self) -> int:
        """Number of multiplications and additions of the whole expression at one position."""
        return sum(map(_own_flops, nodes([self])))

    @cached_property
    def elements(self) -> int:
        """Number of values that the whole expression makes or reads at one position; in-place functions add none."""
        return sum(map(_own_elements, nodes([self])))


@dataclass(frozen=True, eq=False)
class Affine(Expression):
    """matrix @ source + shift.

    Attributes:
        source: (rank, batch, *spatial).
        matrix: (channels, rank).
        shift: (channels,), or None for zero.
    """

    source: Tensor
    matrix: Tensor
    shift: Tensor | None


@dataclass(frozen=True, eq=False)
class Given(Expression):
    """A map that lies in memory: source (channels, batch, *spatial)."""

    source: Tensor


@dataclass(frozen=True, eq=False)
class Scaled(Expression):
    """child * scale + shift, both (channels,)."""

    child: Expression
    scale: Tensor
    shift: Tensor


@dataclass(frozen=True)
class Function:
    """A function of one or more numbers, done element by element.

    Attributes:
        name: its name in torch.
        call: of tensors of one shape; returns a new one of that shape.
        in_place: the same for one tensor that may be overwritten, None if there is no such function.
        increasing: it never decreases where its argument grows, so that it may change places with a maximum.
        operations: arithmetic operations per element, roughly.
        bounds: it is min(max(x, bounds[0]), bounds[1]), if not None.
    """

    name: str
    call: Callable[..., Tensor]
    in_place: Callable[[Tensor], Tensor] | None = None
    increasing: bool = False
    operations: int = 1
    bounds: tuple[float, float] | None = None


@dataclass(frozen=True, eq=False)
class Pointwise(Expression):
    """function(*children); the children have the same channels and grid."""

    function: Function
    children: tuple[Expression, ...]


@dataclass(frozen=True, eq=False)
class Resampled(Expression):
    """operation(child): linear, the same for every channel, from one grid to another (padding, mean, zoom).

    Such an operation may change places with any matrix over the channels.

    Attributes:
        operation: (batch, channels, *spatial of the child) to (batch, channels, *own spatial).
        grid: (batch, *own spatial).
    """

    operation: OnSource
    child: Expression
    grid: tuple[int, ...]


def given(tensor: Tensor, channel_axis: int) -> Given:
    """Return an ordinary tensor as a part of a map. It is copied: it may change before the map is read."""
    source = tensor.movedim(channel_axis, 0).clone(memory_format=torch.contiguous_format)
    return Given(source.shape[0], source)


def children(node: Expression) -> tuple[Expression, ...]:
    """Return the direct children of a node."""
    if isinstance(node, Pointwise):
        return node.children
    if isinstance(node, (Scaled, Resampled)):
        return (node.child,)
    return ()


def nodes(roots: Sequence[Expression]) -> list[Expression]:
    """Return all nodes of the expressions, each once, children before parents."""
    found: dict[int, Expression] = {}
    for root in roots:
        _collect(root, found)
    return list(found.values())


def _collect(node: Expression, found: dict[int, Expression]) -> None:
    # Not a function within `nodes`: one that calls itself is a cycle, which would keep all tensors until Python's
    # garbage collection finds it.
    if id(node) not in found:
        for child in children(node):
            _collect(child, found)
        found[id(node)] = node


def sources(nodes: Sequence[Expression]) -> list[Tensor]:
    """Return the tensors over positions that the nodes read, each once."""
    read = [node.source for node in nodes if isinstance(node, (Affine, Given))]
    return list({id(source): source for source in read}.values())


def parameters(nodes: Sequence[Expression]) -> list[Tensor]:
    """Return the tensors over channels that the nodes read, each once."""
    read: list[Tensor | None] = []
    for node in nodes:
        if isinstance(node, Affine):
            read += [node.matrix, node.shift]
        elif isinstance(node, Scaled):
            read += [node.scale, node.shift]
    return list({id(tensor): tensor for tensor in read if tensor is not None}.values())


def map_sources(root: Expression, function: OnSource, known: dict[Any, Any] | None = None) -> Expression:
    """Return the expression over another grid: each source is replaced by function(source), once per source."""
    known = {} if known is None else known
    if id(root) not in known:
        known[id(root)] = _map_one(root, function, known)
    mapped: Expression = known[id(root)]
    return mapped


def _map_one(node: Expression, function: OnSource, known: dict[Any, Any]) -> Expression:
    if isinstance(node, (Affine, Given)):
        place = "source", id(node.source)
        if place not in known:
            known[place] = function(node.source)
        source: Tensor = known[place]
        if isinstance(node, Given):
            return Given(node.channels, source)
        return Affine(node.channels, source, node.matrix, node.shift)
    if isinstance(node, Scaled):
        return Scaled(node.channels, map_sources(node.child, function, known), node.scale, node.shift)
    if isinstance(node, Pointwise):
        mapped = tuple(map_sources(child, function, known) for child in node.children)
        return Pointwise(node.channels, node.function, mapped)
    raise TypeError(f"{type(node).__name__} has a grid of its own")


def a_source(root: Expression) -> Tensor:
    """Return one of the tensors over positions that it reads: type and device are those of all."""
    while not isinstance(root, (Affine, Given)):
        root = children(root)[0]
    return root.source


def grid_of(root: Expression) -> tuple[int, ...]:
    """Return the grid of the expression, (batch, *spatial)."""
    return root.grid if isinstance(root, Resampled) else tuple(a_source(root).shape[1:])


def on_channels_first(operation: OnSource, source: Tensor) -> Tensor:
    """Apply an operation on (batch, channels, *spatial) to (channels, batch, *spatial)."""
    return operation(source.transpose(0, 1)).transpose(0, 1).contiguous()


def resample(root: Expression, operation: OnSource) -> Expression:
    """Apply the operation to the expression, at its sources where that gives the same."""
    if isinstance(root, Resampled):
        before = root.operation
        return resample(root.child, lambda x: operation(before(x)))
    if isinstance(root, (Given, Affine)) and getattr(root, "shift", None) is None:
        return map_sources(root, partial(on_channels_first, operation))
    # One channel of zeros gives the size. On the meta device torch would import 800 modules for its first operation.
    after = operation(torch.zeros(grid_of(root), device="cpu").unsqueeze(1)).squeeze(1)
    return Resampled(root.channels, operation, root, tuple(after.shape))


def is_pointwise(root: Expression) -> bool:
    """Return whether every node works position by position."""
    return not isinstance(root, Resampled)


def add_affine(first: Affine, second: Affine) -> Affine:
    """Add two affine expressions: their sources are stacked."""
    source = torch.cat([first.source, second.source])
    matrix = torch.cat([first.matrix, second.matrix], dim=1)
    shifts = [shift for shift in (first.shift, second.shift) if shift is not None]
    shift = None if not shifts else shifts[0] if len(shifts) == 1 else shifts[0] + shifts[1]
    return Affine(first.channels, source, matrix, shift)


def _own_flops(node: Expression) -> int:
    if isinstance(node, Affine):
        return 2 * node.channels * node.matrix.shape[1]
    if isinstance(node, Scaled):
        return 2 * node.channels
    if isinstance(node, Pointwise):
        return node.function.operations * node.channels * len(node.children)
    return 0


def _own_elements(node: Expression) -> int:
    if isinstance(node, Pointwise):
        is_in_place = node.function.in_place is not None
        return node.channels * (len(node.children) - is_in_place if len(node.children) == 1 else len(node.children) - 1)
    return 0 if isinstance(node, Resampled) else node.channels
