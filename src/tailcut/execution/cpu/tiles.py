"""Engine that makes, uses and drops full maps one range of positions (a tile) at a time.

`project` multiplies a full map by a matrix over its channels without writing the map to memory; `write` writes it.
Both are differentiable: the backward pass makes each tile again instead of storing it.
"""

import functools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from tailcut.execution.cpu import compiled, program_calls
from tailcut.execution.ir import programs
from tailcut.execution.ir.expression import (
    Affine,
    Expression,
    Given,
    Pointwise,
    Resampled,
    Scaled,
    children,
    nodes,
    on_channels_first,
    parameters,
    sources,
)
from tailcut.execution.ir.programs import Program

# A tile of the widest map takes this many bytes: two or three of them fit a core's second-level cache.
TILE_BYTES = 1 << 20
DEVICE_TILE_BYTES = 1 << 26
MIN_TILE = 256
# Tiles are an odd number of cache lines long: rows a power of two apart would share a few places of a cache.
LINE = 16
ALIASED_BYTES = 4096
_SECOND = b"fused layers have no second derivatives; use the model itself"


@dataclass(frozen=True)
class Term:
    """One summand of a projection: matrix @ expression; the expression itself where the matrix is None."""

    expression: Expression
    matrix: Tensor | None


def project(parts: Sequence[Expression], matrix: Tensor, *, engine: str = "torch") -> Tensor:
    """Compute matrix @ (the stacked parts), position by position.

    Args:
        parts: expressions over one grid, `Resampled` ones too; their channels add up to the matrix's columns.
        matrix: (num_out, channels).
        engine: "torch", or "compiled" to use compiled loops where they pay, for what they know.

    Returns:
        (num_out, batch, *spatial).
    """
    return functools.reduce(torch.add, _summands(parts, matrix, engine))


def _summands(parts: Sequence[Expression], matrix: Tensor, engine: str) -> Iterator[Tensor]:
    terms: list[Term] = []
    for part, own in zip(parts, torch.split(matrix, [part.channels for part in parts], dim=1), strict=True):
        if isinstance(part, Resampled):
            yield on_channels_first(part.operation, project([part.child], own, engine=engine))
        elif isinstance(part, Affine):
            yield _fold(part, own)
        else:
            terms.append(Term(part, own))
    if terms:
        yield _run(terms, matrix.shape[0], engine)


def write(part: Expression, *, engine: str = "torch") -> Tensor:
    """Compute the full map, (channels, batch, *spatial)."""
    if isinstance(part, Given):
        return part.source
    if isinstance(part, Resampled):
        return on_channels_first(part.operation, write(part.child, engine=engine))
    return _run([Term(part, None)], part.channels, engine)


def _fold(part: Affine, matrix: Tensor) -> Tensor:
    """Compute matrix @ (A z + b) as (matrix A) z + matrix b, without a full value."""
    flat = part.source.flatten(1)
    small = matrix @ part.matrix
    result = small @ flat if part.shift is None else torch.addmm((matrix @ part.shift)[:, None], small, flat)
    return result.reshape(matrix.shape[0], *part.source.shape[1:])


def _run(terms: Sequence[Term], num_out: int, engine: str) -> Tensor:
    order = nodes([term.expression for term in terms])
    over_positions = sources(order)
    over_channels = parameters(order) + [term.matrix for term in terms if term.matrix is not None]
    grid = over_positions[0].shape[1:]
    tensors = [*(source.flatten(1) for source in over_positions), *over_channels]
    originals = [*over_positions, *over_channels]
    wants = torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors)
    known = _programs(terms, order, num_out, tensors[0]) if engine == "compiled" else None
    names = tuple(id(tensor) for tensor in originals)
    plan = _Plan(tuple(terms), num_out, tuple(order), names, len(over_positions), known)
    if wants:
        result: Tensor = _Tiles.apply(plan, *tensors)  # type: ignore[no-untyped-call]
        return result.reshape(num_out, *grid)
    return plan.forward(tensors).reshape(num_out, *grid)


def _programs(
    terms: Sequence[Term], order: Sequence[Expression], num_out: int, like: Tensor
) -> tuple[Program, ...] | None:
    """Return the terms as programs for the compiled loops; None if these do not know a node or would not pay."""
    ranks = [node.source.shape[0] for node in order if isinstance(node, Affine)]
    ranks += [term.matrix.shape[0] for term in terms if term.matrix is not None]
    made = [term.expression.channels for term in terms if not isinstance(term.expression, Affine)]
    if not ranks or not compiled.pays(like, like.shape[1] * sum(made), max(ranks)):
        return None
    found = []
    for term in terms:
        program = programs.program_of(term.expression)
        is_projected = term.matrix is not None
        if program is None or not program_calls.pays(program, num_out, like.shape[1], is_projected=is_projected):
            return None
        found.append(program)
    return tuple(found)


@dataclass(frozen=True)
class _Plan:
    """A sum of terms over tensors that are known by their identity: first those over positions.

    `order`: the nodes of all terms, children first. `programs`: the terms for the compiled loops, None where tiles are
    to do it.
    """

    terms: tuple[Term, ...]
    num_out: int
    order: tuple[Expression, ...]
    names: tuple[int, ...]
    num_sources: int
    programs: tuple[Program, ...] | None = None

    def ranges(self, tensors: Sequence[Tensor]) -> Iterator[slice]:
        """Yield the tiles, as ranges of positions."""
        widest = max(node.channels for node in self.order)
        like = tensors[0]
        size = TILE_BYTES if like.device.type == "cpu" else DEVICE_TILE_BYTES
        length = max(MIN_TILE, size // (widest * like.element_size())) // LINE * LINE
        length -= LINE * (length // LINE % 2 == 0)
        for start in range(0, like.shape[1], length):
            yield slice(start, min(start + length, like.shape[1]))

    def tile(self, tensors: Sequence[Tensor], into: Tensor | None = None) -> Tensor:
        """Compute the sum at one tile: sources are (channels, positions of the tile). Written to `into` if given."""
        values = dict(zip(self.names, tensors, strict=True))
        roots = [term.expression for term in self.terms]
        evaluation = _Evaluation(values, self.order, roots, overwrite=into is not None)
        total: Tensor | None = None
        for term in self.terms:
            full = evaluation.value(term.expression)
            if term.matrix is None:
                total = full if into is None else into.copy_(full)
                continue
            matrix = values[id(term.matrix)]
            if into is not None:
                total = torch.mm(matrix, full, out=into) if total is None else total.addmm_(matrix, full)
            else:
                total = matrix @ full if total is None else torch.addmm(total, matrix, full)
        if total is None:
            raise ValueError("a sum without terms")
        return total

    def at(self, tensors: Sequence[Tensor], positions: slice) -> list[Tensor]:
        """Return the tensors of one tile."""
        return [_columns(tensor, positions) if n < self.num_sources else tensor for n, tensor in enumerate(tensors)]

    def forward(self, tensors: Sequence[Tensor]) -> Tensor:
        """Compute the whole sum, (num_out, positions), without a graph."""
        if self.programs is not None:
            values = dict(zip(self.names, tensors, strict=True))
            shape = self.num_out, tensors[0].shape[1]
            writes = self.terms[0].matrix is None
            result = tensors[0].new_empty(shape) if writes else tensors[0].new_zeros(shape)
            for term, program in zip(self.terms, self.programs, strict=True):
                program_calls.add_forward(program, term.matrix, values, result)
            return result
        result = tensors[0].new_empty(self.num_out, tensors[0].shape[1])
        with torch.no_grad():
            for positions in self.ranges(tensors):
                self.tile(self.at(tensors, positions), result[:, positions])
        return result

    def backward(self, tensors: Sequence[Tensor], gradient: Tensor, needed: Sequence[bool]) -> list[Tensor | None]:
        """Compute the gradients of the sum, by compiled loops; of matrices only those that are needed."""
        values = dict(zip(self.names, tensors, strict=True))
        wanted = {name for name, is_needed in zip(self.names, needed, strict=True) if is_needed}
        sums: dict[int, Tensor] = {}
        for term, program in zip(self.terms, self.programs or (), strict=True):
            for tensor, part in program_calls.backward(
                program, term.matrix, values, gradient, of_matrix=id(term.matrix) in wanted
            ):
                name = id(tensor)
                sums[name] = sums[name] + part if name in sums else part
        return [sums.get(name) for name in self.names]


def _columns(tensor: Tensor, positions: slice) -> Tensor:
    """Return some columns; copied where rows lie a power of two apart, since they would share few cache lines."""
    part = tensor[:, positions]
    is_aliased = part.stride(0) * part.element_size() % ALIASED_BYTES == 0 and part.shape[0] > 1
    return part.contiguous() if is_aliased and tensor.device.type == "cpu" else part


def once_differentiable(backward: Callable[..., Any]) -> Callable[..., Any]:
    """Decorate a backward pass whose gradients have none themselves: asked for those, torch raises an error.

    Torch's own decorator does so only where the gradient that comes in has one, which that of a mean has not.
    """

    @functools.wraps(backward)
    def run(ctx: Any, *gradients: Tensor) -> Any:
        with torch.no_grad():
            found = backward(ctx, *gradients)
        if not torch.is_grad_enabled():  # no graph of the gradients is asked for
            return found
        outputs = found if isinstance(found, tuple) else (found,)
        made = [each.detach().requires_grad_() for each in outputs if each is not None]
        refused = torch._C._functions.DelayedError(_SECOND, len(made))(*made)
        left = iter((refused,) if isinstance(refused, Tensor) else refused)
        results = tuple(None if each is None else next(left) for each in outputs)
        return results if isinstance(found, tuple) else results[0]

    return run


class _Tiles(torch.autograd.Function):
    """The sum of a plan, with a backward pass that recomputes every tile."""

    @staticmethod
    def forward(ctx: Any, plan: _Plan, *tensors: Tensor) -> Tensor:
        ctx.plan = plan
        ctx.save_for_backward(*tensors)
        return plan.forward(tensors)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        plan: _Plan = ctx.plan
        tensors: tuple[Tensor, ...] = ctx.saved_tensors
        if plan.programs is not None:
            return None, *plan.backward(tensors, gradient, ctx.needs_input_grad[1:])
        wanted = [n for n, needed in enumerate(ctx.needs_input_grad[1:]) if needed]
        sums: list[Tensor | None] = [None] * len(tensors)
        for n in wanted:
            sums[n] = torch.empty_like(tensors[n]) if n < plan.num_sources else torch.zeros_like(tensors[n])
        for positions in plan.ranges(tensors):
            leaves = [tensor.detach() for tensor in plan.at(tensors, positions)]
            for n in wanted:
                leaves[n].requires_grad_()
            with torch.enable_grad():
                value = plan.tile(leaves)
            parts = torch.autograd.grad(value, [leaves[n] for n in wanted], _columns(gradient, positions))
            for n, part in zip(wanted, parts, strict=True):
                total = sums[n]
                if total is not None:
                    (total[:, positions].copy_ if n < plan.num_sources else total.add_)(part)
        return None, *sums


class _Evaluation:
    """The values of nodes at one tile, each computed once."""

    def __init__(
        self, values: dict[int, Tensor], order: Sequence[Expression], roots: Sequence[Expression], *, overwrite: bool
    ) -> None:
        self.values = values
        self.overwrite = overwrite
        self.done: dict[int, Tensor] = {}
        self.uses: dict[int, int] = {}
        for used in (*roots, *(child for node in order for child in children(node))):
            self.uses[id(used)] = self.uses.get(id(used), 0) + 1

    def value(self, node: Expression) -> Tensor:
        """Return the node's value, (channels, positions of the tile)."""
        if id(node) not in self.done:
            self.done[id(node)] = self._compute(node)
        return self.done[id(node)]

    def _compute(self, node: Expression) -> Tensor:
        if isinstance(node, Affine):
            matrix, source = self.values[id(node.matrix)], self.values[id(node.source)]
            if node.shift is None:
                return matrix @ source
            return torch.addmm(self.values[id(node.shift)][:, None], matrix, source)
        if isinstance(node, Given):
            return self.values[id(node.source)]
        if isinstance(node, Scaled):
            scale, shift = self.values[id(node.scale)][:, None], self.values[id(node.shift)][:, None]
            return torch.addcmul(shift, self.value(node.child), scale)
        if isinstance(node, Pointwise):
            arguments = [self.value(child) for child in node.children]
            in_place = node.function.in_place
            if in_place is not None and self._may_overwrite(node.children[0]):
                return in_place(*arguments)
            return node.function.call(*arguments)
        raise TypeError(f"{type(node).__name__} has a grid of its own")

    def _may_overwrite(self, child: Expression) -> bool:
        return self.overwrite and not isinstance(child, Given) and self.uses[id(child)] == 1
