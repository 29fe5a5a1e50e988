"""Strategies for one call of a regularised layer, the cost of each, and the choice of the cheapest."""

from typing import NamedTuple

from torch import Tensor

from tailcut.execution.ir.cost import NUMBER_BYTES, Costs, Work
from tailcut.execution.ir.geometry import Geometry
from tailcut.execution.layers.factorization import TruncatedWeight
from tailcut.execution.lazy.context import Context
from tailcut.execution.lazy.lazy_map import LazyMap


class Strategy(NamedTuple):
    """Strategy of one call of a layer.

    Attributes:
        project: the input is projected on its cosines first; else it is taken whole.
        low_rank: the output stays low-rank; else it is made whole at once.
        work: what it costs.
    """

    project: bool
    low_rank: bool
    work: Work


class Plan(NamedTuple):
    """Decision for calls of some sizes: their geometry, the best strategy, and the dense one."""

    geometry: Geometry
    best: Strategy
    dense: Strategy


def possible_strategies(geometry: Geometry, weights: TruncatedWeight, x: Tensor, context: Context) -> list[Strategy]:
    """Return the strategies that exist for this call, the dense one first."""
    axes = weights.tensor.axes
    input_axis, output_axis = (0, 1) if weights.swapped else (1, 0)
    can_project = input_axis in axes and geometry.groups * weights.num_in < geometry.in_channels
    can_low_rank = output_axis in axes and geometry.groups * weights.num_out < geometry.out_channels
    return [
        _strategy(geometry, weights, x, context, project=project, low_rank=low_rank)
        for project in ([False, True] if can_project else [False])
        for low_rank in ([False, True] if can_low_rank else [False])
    ]


def choose(strategies: list[Strategy], context: Context) -> Strategy | None:
    """Return the cheapest strategy: dense unless another is clearly cheaper, or the context asks for "low_rank"."""
    if context.strategy == "low_rank" and len(strategies) > 1:
        strategies = strategies[1:]
    best = min(strategies, key=lambda strategy: strategy.work.seconds, default=None)
    if (
        best is None
        or context.strategy == "low_rank"
        or context.costs.is_clearly_less(best.work.seconds, strategies[0].work.seconds)
    ):
        return best
    return strategies[0]


def _strategy(
    geometry: Geometry, weights: TruncatedWeight, x: Tensor, context: Context, *, project: bool, low_rank: bool
) -> Strategy:
    costs, groups = context.costs, geometry.groups
    inner = groups * weights.num_in if project else geometry.in_channels
    outer = groups * weights.num_out if low_rank else geometry.out_channels
    positions, written = geometry.positions, NUMBER_BYTES * geometry.out_positions * outer
    total = _reading(geometry, x, costs, project=project)
    if project and geometry.is_one_position and groups == 1 and outer <= inner:
        # Core and cosines of the input are one matrix, for those positions alone that are read.
        part = geometry.out_positions / positions
        total = Work(total.seconds * part, total.macs * part, total.moved_bytes + written)
        made = NUMBER_BYTES * outer * geometry.in_channels
        rebuilding = costs.rebuild(2.0 * inner * outer * geometry.in_channels, made, is_whole=False)
        total = total.plus(Work(rebuilding, 0, 0))
        rows, positions, core_inner = outer, geometry.out_positions, 0
    else:
        rows, core_inner = inner, inner
    if project:
        total = total.plus(_projecting(geometry, x, costs, positions, rows))
    if core_inner > 0:
        sides = {"project": project, "low_rank": low_rank}
        total = total.plus(_convolving(geometry, weights, costs, core_inner, outer, **sides))
    seconds = total.seconds
    if low_rank:  # its reader will make the full map, in tiles
        full = geometry.out_positions * geometry.out_channels
        seconds += costs.tiles(2.0 * outer * full / groups, full)
        seconds += costs.move(NUMBER_BYTES * outer * geometry.out_channels / groups)
    else:  # its reader will read and write it again
        seconds += costs.move(2 * written)
    if project or low_rank:
        seconds += costs.overhead()
    return Strategy(project, low_rank, Work(seconds, total.macs, total.moved_bytes))


def _reading(geometry: Geometry, x: Tensor, costs: Costs, *, project: bool) -> Work:
    """Return the cost of an input: a lazy map is made in tiles, and written unless projected; a full one is read."""
    read = NUMBER_BYTES * geometry.positions * geometry.in_channels
    if not isinstance(x, LazyMap) or x._full is not None:
        return Work(0, 0, read)
    making = sum(part.flops for part in x.parts) * geometry.positions
    seconds = costs.tiles(making, sum(part.elements for part in x.parts) * geometry.positions)
    return Work(seconds, making / 2, 0) if project else Work(seconds + costs.move(2 * read), making / 2, 2 * read)


def _projecting(geometry: Geometry, x: Tensor, costs: Costs, positions: int, rows: int) -> Work:
    """Return the cost of a matrix of so many rows times the input at so many positions."""
    channels, groups = geometry.in_channels, geometry.groups
    products = 2.0 * positions * rows * channels / groups
    if isinstance(x, LazyMap) and x._full is None:
        seconds = costs.tiles(products, 0)
    else:
        read = NUMBER_BYTES * geometry.positions * channels
        seconds = costs.product(products, read, channels // groups, rows // groups)
    seconds += costs.move(NUMBER_BYTES * rows * channels / groups)
    return Work(seconds, products / 2, 2 * NUMBER_BYTES * positions * rows)


def _convolving(
    geometry: Geometry, weights: TruncatedWeight, costs: Costs, inner: int, outer: int, *, project: bool, low_rank: bool
) -> Work:
    groups = geometry.groups
    products = 2.0 * geometry.taps * inner * outer / groups
    written = NUMBER_BYTES * geometry.out_positions * outer
    weight_bytes = NUMBER_BYTES * geometry.kernel_size * inner * outer / groups
    maps = written + NUMBER_BYTES * geometry.positions * inner
    seconds = costs.product(products, maps + weight_bytes, inner // groups, outer // groups)
    if project or low_rank:  # its operands are transposed from channels first to batch first, and back
        seconds += costs.move(maps)
    if not (project and low_rank):
        making = _rebuilding(geometry, weights, project=project, low_rank=low_rank)
        seconds += costs.rebuild(making, weight_bytes, is_whole=not (project or low_rank))
    return Work(seconds, products / 2, written + weight_bytes)


def _rebuilding(geometry: Geometry, weights: TruncatedWeight, *, project: bool, low_rank: bool) -> float:
    """Return the operations to multiply the core by the cosines of one side, or of both."""
    num_in, num_out = weights.num_in, weights.num_out
    of_input = 2.0 * geometry.kernel_size * num_in * num_out * (geometry.in_channels // geometry.groups)
    of_output = 2.0 * geometry.kernel_size * num_out * geometry.out_channels
    of_output *= num_in if project else geometry.in_channels // geometry.groups
    return (0.0 if project else of_input) + (0.0 if low_rank else of_output)
