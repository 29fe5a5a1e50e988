"""The ways in which one call of a regularised layer can be done, what each costs, and the cheapest of them."""

from typing import NamedTuple

from torch import Tensor

from tailcut.execution.ir.cost import NUMBER_BYTES, Costs, Work
from tailcut.execution.ir.geometry import Geometry
from tailcut.execution.layers.factorization import TruncatedWeight
from tailcut.execution.lazy.context import Context
from tailcut.execution.lazy.lazy_map import LazyMap


class Strategy(NamedTuple):
    """How one call of a layer is done.

    Attributes:
        project: the input is projected on its cosines first; else it is taken whole.
        narrow: the output stays narrow; else it is made whole at once.
        work: what it costs.
    """

    project: bool
    narrow: bool
    work: Work


class Plan(NamedTuple):
    """What was decided for calls of some sizes: their geometry, the best way, and the dense one."""

    geometry: Geometry
    best: Strategy
    dense: Strategy


def possible_strategies(geometry: Geometry, weights: TruncatedWeight, x: Tensor, context: Context) -> list[Strategy]:
    """The ways that exist for this call, the dense one first."""
    strategies = [_way(geometry, weights, x, context, project=False, narrow=False)]
    if context.strategy == "dense":
        return strategies
    axes = weights.tensor.axes
    input_axis, output_axis = (0, 1) if weights.swapped else (1, 0)
    can_project = input_axis in axes and geometry.groups * weights.num_in < geometry.in_channels
    can_narrow = output_axis in axes and geometry.groups * weights.num_out < geometry.out_channels
    projects = [False, True] if can_project else [False]
    narrows = [False, True] if can_narrow else [False]
    for project in projects:
        for narrow in narrows:
            if project or narrow:
                strategies.append(_way(geometry, weights, x, context, project=project, narrow=narrow))
    return strategies


def choose(strategies: list[Strategy], context: Context) -> Strategy | None:
    """The cheapest way, the dense one unless another is clearly cheaper; with way "narrow" the cheapest other one."""
    if context.strategy == "narrow" and len(strategies) > 1:
        strategies = strategies[1:]
    best = min(strategies, key=lambda strategy: strategy.work.seconds, default=None)
    if (
        best is None
        or context.strategy == "narrow"
        or context.costs.is_clearly_less(best.work.seconds, strategies[0].work.seconds)
    ):
        return best
    return strategies[0]


def _way(
    geometry: Geometry, weights: TruncatedWeight, x: Tensor, context: Context, *, project: bool, narrow: bool
) -> Strategy:
    costs, groups = context.costs, geometry.groups
    inner = groups * weights.num_in if project else geometry.in_channels
    outer = groups * weights.num_out if narrow else geometry.out_channels
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
        sides = {"project": project, "narrow": narrow}
        total = total.plus(_convolving(geometry, weights, costs, core_inner, outer, **sides))
    seconds = total.seconds
    if narrow:  # sooner or later somebody makes the wide map of it, in tiles
        wide = geometry.out_positions * geometry.out_channels
        seconds += costs.tiles(2.0 * outer * wide / groups, wide)
        seconds += costs.move(NUMBER_BYTES * outer * geometry.out_channels / groups)
    else:  # sooner or later somebody reads it and writes it again
        seconds += costs.move(2 * written)
    if project or narrow:
        seconds += costs.overhead()
    return Strategy(project, narrow, Work(seconds, total.macs, total.moved_bytes))


def _reading(geometry: Geometry, x: Tensor, costs: Costs, *, project: bool) -> Work:
    """A narrow map is made in tiles, and written and read again unless it is projected; a wide one is read."""
    read = NUMBER_BYTES * geometry.positions * geometry.in_channels
    if not isinstance(x, LazyMap) or x._wide is not None:
        return Work(0, 0, read)
    making = sum(part.flops for part in x.parts) * geometry.positions
    seconds = costs.tiles(making, sum(part.elements for part in x.parts) * geometry.positions)
    return Work(seconds, making / 2, 0) if project else Work(seconds + costs.move(2 * read), making / 2, 2 * read)


def _projecting(geometry: Geometry, x: Tensor, costs: Costs, positions: int, rows: int) -> Work:
    """A matrix of so many rows times the input at so many positions."""
    channels, groups = geometry.in_channels, geometry.groups
    products = 2.0 * positions * rows * channels / groups
    if isinstance(x, LazyMap) and x._wide is None:
        seconds = costs.tiles(products, 0)
    else:
        read = NUMBER_BYTES * geometry.positions * channels
        seconds = costs.product(products, read, channels // groups, rows // groups)
    seconds += costs.move(NUMBER_BYTES * rows * channels / groups)
    return Work(seconds, products / 2, 2 * NUMBER_BYTES * positions * rows)


def _convolving(
    geometry: Geometry,
    weights: TruncatedWeight,
    costs: Costs,
    inner: int,
    outer: int,
    *,
    project: bool,
    narrow: bool,
) -> Work:
    """The convolution from `inner` to `outer` channels."""
    groups = geometry.groups
    products = 2.0 * geometry.taps * inner * outer / groups
    written = NUMBER_BYTES * geometry.out_positions * outer
    weight_bytes = NUMBER_BYTES * geometry.kernel_size * inner * outer / groups
    maps = written + NUMBER_BYTES * geometry.positions * inner
    seconds = costs.product(products, maps + weight_bytes, inner // groups, outer // groups)
    if project or narrow:  # its operands are turned from channels first to what a convolution wants, and back
        seconds += costs.move(maps)
    if not (project and narrow):
        making = _rebuilding(geometry, weights, project=project, narrow=narrow)
        seconds += costs.rebuild(making, weight_bytes, is_whole=not (project or narrow))
    return Work(seconds, products / 2, written + weight_bytes)


def _rebuilding(geometry: Geometry, weights: TruncatedWeight, *, project: bool, narrow: bool) -> float:
    """Operations to put the cosines of one side, or of both, into the core."""
    num_in, num_out = weights.num_in, weights.num_out
    of_input = 2.0 * geometry.kernel_size * num_in * num_out * (geometry.in_channels // geometry.groups)
    of_output = 2.0 * geometry.kernel_size * num_out * geometry.out_channels
    of_output *= num_in if project else geometry.in_channels // geometry.groups
    return (0.0 if project else of_input) + (0.0 if narrow else of_output)
