"""Regularised layers in a fused network: each call takes the cheapest way that the cost model sees."""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from tailcut.execution.calls import is_plain
from tailcut.execution.cost import NUMBER_BYTES, Costs, Work
from tailcut.execution.expression import Affine, is_pointwise, map_sources
from tailcut.execution.factors import Factors, TruncatedWeight, block_diagonal, grouped_outward
from tailcut.execution.geometry import Geometry, geometry_of
from tailcut.execution.narrow import NarrowMap, project_wide, shape_of
from tailcut.execution.run import Run, current_run
from tailcut.weights import TruncatedTensor

# What a layer's sizes depend on beside its weight; and for so many different calls it remembers its way.
_SETTINGS = ("stride", "padding", "dilation", "groups", "padding_mode", "output_padding")
MAX_PLANS = 256


class DenseTwin:
    """A module like a regularised one, whose regularised parameters are dense tensors of its own.

    Attributes:
        module: an instance of the class the original had before, sharing all its other state.
        name: the original's name in the network.

    Two of one module may share what they keep (`like`): each has children of its own.
    """

    def __init__(
        self, source: nn.Module, name: str, tensors: dict[str, TruncatedTensor], *, like: "DenseTwin | None" = None
    ) -> None:
        kind: Any = type(source).__bases__[0]
        self.module: nn.Module = kind.__new__(kind)
        children = {key: child for key, child in source._modules.items() if key != "parametrizations"}
        self.module.__dict__ = {**source.__dict__, "_modules": children}
        self.name = name
        self._weights: dict[str, TruncatedWeight] = (
            {key: TruncatedWeight(tensor, source) for key, tensor in tensors.items()} if like is None else like._weights
        )

    def states(self) -> list[Callable[[], object]]:
        """Functions that tell what changes whenever the dense tensors would; see `TruncatedWeight.state`."""
        return [weight.state for weight in self._weights.values()]

    def refresh(self, run: Run) -> None:
        """Put the dense tensors, as the coefficients are now, where the module's forward looks for them."""
        for attribute, weight in self._weights.items():
            self.module.__dict__[attribute] = weight.dense(run)


class Way(NamedTuple):
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
    best: Way
    dense: Way


class StandIn(nn.Module):
    """What stands for a regularised layer in a fused network; it reads the layer's present state."""

    # The layer is not registered as a child: it belongs to the network that is shared.
    source: Any

    def __init__(self, source: nn.Module, name: str, tensor: TruncatedTensor, twin: DenseTwin) -> None:
        super().__init__()
        hooks = {key: value for key, value in source.__dict__.items() if key.endswith(("_hooks", "_with_kwargs"))}
        self.__dict__.update(hooks, source=source)
        self.twin = twin
        self.name = name
        self.weights = TruncatedWeight(tensor, source)

    @property
    def weight(self) -> Tensor:
        """The dense weight, for code that reads it from outside."""
        return self.weights.dense(current_run())

    @property  # type: ignore[misc]
    def __class__(self) -> type:
        """The class that the layer had, for code that asks `isinstance(module, nn.Conv2d)`."""
        source = self.__dict__.get("source")
        return type(self) if source is None else type(source).__bases__[0]

    def __getattr__(self, name: str) -> Any:
        """Sizes, settings and bias are those of the layer."""
        return getattr(self.__dict__["source"], name)


class NarrowLayer(StandIn):
    """A regularised linear layer or convolution: cosines of the input, a small core, cosines of the output."""

    def __init__(self, source: nn.Module, name: str, tensor: TruncatedTensor, twin: DenseTwin) -> None:
        super().__init__(source, name, tensor, twin)
        self._plans: dict[object, Plan | None] = {}

    def forward(self, input: Tensor, output_size: Any = None) -> Tensor:
        """As the original's: from an ordinary tensor or a narrow map, to one or the other."""
        run, x = current_run(), input
        args = () if output_size is None else (tuple(output_size),)
        if not is_plain(x):
            return self._dense(x, args, run, None)
        if isinstance(x, NarrowMap) and x.channel_axis != (x.ndim - 1 if isinstance(self.source, nn.Linear) else 1):
            x = x.wide("its channels lie on another axis")
        plan = self._plan(x, args, run)
        if plan is None or not (plan.best.project or plan.best.narrow):
            return self._dense(x, args, run, None if plan is None else plan.best)
        return self._narrow(x, plan.geometry, plan.best, plan.dense, run)

    def _plan(self, x: Tensor, args: tuple[Any, ...], run: Run) -> Plan | None:
        """The way of this call, None where there is but the dense one. It is thought out once for each key."""
        unwritten = x.parts if isinstance(x, NarrowMap) and x._wide is None else ()
        making = tuple((part.flops, part.elements) for part in unwritten)
        settings = tuple(map(self.source.__dict__.get, _SETTINGS))
        key = shape_of(x), making, run.way, run.costs, self.weights.num_in, self.weights.num_out, settings, args
        if key not in self._plans:
            if len(self._plans) >= MAX_PLANS:
                self._plans.clear()
            geometry = geometry_of(self.source, tuple(shape_of(x)), args)
            ways = [] if geometry is None else possible_ways(geometry, self.weights, x, run)
            best = choose(ways, run)
            self._plans[key] = None if geometry is None or best is None else Plan(geometry, best, ways[0])
        return self._plans[key]

    def _dense(self, x: Tensor, args: tuple[Any, ...], run: Run, way: Way | None) -> Tensor:
        reason = run.way_reason if run.way == "dense" else "the cost model prefers it"
        record = run.record(self.name, "dense", reason if way is not None else "this use of it has no narrow way")
        if way is not None:
            record.count(way.work, way.work)
        wide = x.wide(f"{self.name} is dense") if isinstance(x, NarrowMap) else x
        self.twin.refresh(run)
        result: Tensor = self.twin.module.forward(wide, *args)
        return result

    def _narrow(self, x: Tensor, geometry: Geometry, way: Way, dense: Way, run: Run) -> Tensor:
        factors = self.weights.factors(run)
        from_map = isinstance(x, NarrowMap) and x._wide is None
        is_fused = from_map == way.project
        reason = "a wide map is read from memory" if not is_fused else "no wide map is written"
        record = run.record(self.name, "fused" if is_fused else "factored", reason)
        record.count(way.work, dense.work)
        result = self._folded(x, geometry, factors, way)
        if result is None:
            y = self._projected(x, geometry, factors, way)
            result = self._core(y, geometry, factors, way)
        if not way.narrow:
            return _to_batch_first(result, geometry)
        outward = grouped_outward(factors.outward, geometry.out_channels, geometry.groups, factors.core)
        part = Affine(geometry.out_channels, result, outward, self.bias)
        return NarrowMap([part], geometry.channel_axis, [self.name])

    def _folded(self, x: Tensor, geometry: Geometry, factors: Factors, way: Way) -> Tensor | None:
        """For kernels of one position: core and input cosines are one matrix, which the tiles apply."""
        if not geometry.is_one_position or geometry.groups > 1 or not way.project or factors.inward is None:
            return None
        rows = factors.core.shape[0] if way.narrow or factors.outward is None else factors.outward.shape[0]
        if rows > factors.core.shape[1]:
            return None
        matrix = self.weights.derived("folded", factors, lambda found: _folded_matrix(found, narrow=way.narrow))
        result = project_any(_strided(x, geometry), matrix, geometry)
        return result if way.narrow or self.bias is None else result + _along(self.bias, result)

    def _projected(self, x: Tensor, geometry: Geometry, factors: Factors, way: Way) -> Tensor:
        """(channels, batch, *spatial) of what the core works on."""
        if way.project and factors.inward is not None:
            return project_any(x, block_diagonal(factors.inward, geometry.groups), geometry)
        wide = x.wide(f"{self.name} takes its input whole") if isinstance(x, NarrowMap) else x
        return wide.movedim(geometry.channel_axis, 0)

    def _core(self, y: Tensor, geometry: Geometry, factors: Factors, way: Way) -> Tensor:
        """The small convolution; (channels, batch, *spatial) to (channels, batch, *spatial)."""
        key = f"core, input {'narrow' if way.project else 'wide'}, output {'narrow' if way.narrow else 'wide'}"
        core = self.weights.derived(key, factors, lambda found: _core_of(found, way))
        if way.narrow and geometry.groups > 1:
            core = core.repeat(geometry.groups, *([1] * (core.ndim - 1)))
        return geometry.convolve(y, core, None if way.narrow else self.bias)


def _folded_matrix(factors: Factors, *, narrow: bool) -> Tensor:
    """Of a kernel of one position: core and cosines of the input, and of the output unless it stays narrow."""
    core = factors.core.flatten(1)
    core = core if factors.inward is None else core @ factors.inward
    return core if narrow or factors.outward is None else factors.outward @ core


def _core_of(factors: Factors, way: Way) -> Tensor:
    """The core with the cosines of those sides that are taken whole: (out, in, *kernel)."""
    core = factors.core
    if not way.project and factors.inward is not None:
        core = torch.tensordot(core, factors.inward, dims=([1], [0])).movedim(-1, 1)
    if not way.narrow and factors.outward is not None:
        core = torch.tensordot(factors.outward, core, dims=([1], [0]))
    return core


def project_any(x: Tensor, matrix: Tensor, geometry: Geometry) -> Tensor:
    """Matrix @ x over the channels of an ordinary tensor or of a narrow map."""
    if isinstance(x, NarrowMap):
        return x.project(matrix)
    return project_wide(x, matrix, geometry.channel_axis)


def _strided(x: Tensor, geometry: Geometry) -> Tensor:
    """Only the positions that a kernel of one position with strides reads."""
    if all(step == 1 for step in geometry.stride):
        return x
    index = (slice(None), slice(None), *(slice(None, None, step) for step in geometry.stride))
    if not isinstance(x, NarrowMap):
        return x[index]
    if x._wide is not None or not all(map(is_pointwise, x.parts)):
        return x.wide("strides over a resampled map")[index]
    known: dict[Any, Any] = {}
    return x.like([map_sources(part, lambda source: source[index].contiguous(), known) for part in x.parts])


def _along(bias: Tensor, channels_first: Tensor) -> Tensor:
    return bias.reshape(-1, *([1] * (channels_first.ndim - 1)))


def _to_batch_first(result: Tensor, geometry: Geometry) -> Tensor:
    return result.movedim(0, geometry.channel_axis).contiguous()


def possible_ways(geometry: Geometry, weights: TruncatedWeight, x: Tensor, run: Run) -> list[Way]:
    """The ways that exist for this call, the dense one first."""
    ways = [_way(geometry, weights, x, run, project=False, narrow=False)]
    if run.way == "dense":
        return ways
    axes = weights.tensor.axes
    input_axis, output_axis = (0, 1) if weights.swapped else (1, 0)
    can_project = input_axis in axes and geometry.groups * weights.num_in < geometry.in_channels
    can_narrow = output_axis in axes and geometry.groups * weights.num_out < geometry.out_channels
    projects = [False, True] if can_project else [False]
    narrows = [False, True] if can_narrow else [False]
    for project in projects:
        for narrow in narrows:
            if project or narrow:
                ways.append(_way(geometry, weights, x, run, project=project, narrow=narrow))
    return ways


def choose(ways: list[Way], run: Run) -> Way | None:
    """The cheapest way, the dense one unless another is clearly cheaper; with way "narrow" the cheapest other one."""
    if run.way == "narrow" and len(ways) > 1:
        ways = ways[1:]
    best = min(ways, key=lambda way: way.work.seconds, default=None)
    if best is None or run.way == "narrow" or run.costs.is_clearly_less(best.work.seconds, ways[0].work.seconds):
        return best
    return ways[0]


def _way(geometry: Geometry, weights: TruncatedWeight, x: Tensor, run: Run, *, project: bool, narrow: bool) -> Way:
    costs, groups = run.costs, geometry.groups
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
    return Way(project, narrow, Work(seconds, total.macs, total.moved_bytes))


def _reading(geometry: Geometry, x: Tensor, costs: Costs, *, project: bool) -> Work:
    """A narrow map is made in tiles, and written and read again unless it is projected; a wide one is read."""
    read = NUMBER_BYTES * geometry.positions * geometry.in_channels
    if not isinstance(x, NarrowMap) or x._wide is not None:
        return Work(0, 0, read)
    making = sum(part.flops for part in x.parts) * geometry.positions
    seconds = costs.tiles(making, sum(part.elements for part in x.parts) * geometry.positions)
    return Work(seconds, making / 2, 0) if project else Work(seconds + costs.move(2 * read), making / 2, 2 * read)


def _projecting(geometry: Geometry, x: Tensor, costs: Costs, positions: int, rows: int) -> Work:
    """A matrix of so many rows times the input at so many positions."""
    channels, groups = geometry.in_channels, geometry.groups
    products = 2.0 * positions * rows * channels / groups
    if isinstance(x, NarrowMap) and x._wide is None:
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


class NarrowEmbedding(StandIn):
    """A regularised embedding: the cosines at the index, times the core; expanded when somebody needs it whole."""

    def forward(self, input: Tensor) -> Tensor:
        """(...) of integers to (..., channels)."""
        run, index = current_run(), input
        source = self.source
        special = source.max_norm is not None or source.padding_idx is not None
        size: int = source.embedding_dim
        if run.way == "dense" or special or index.ndim != 2 or self.weights.num_out >= size:
            run.record(self.name, "dense", "the cost model prefers it" if not special else "it has special rows")
            self.twin.refresh(run)
            result: Tensor = self.twin.module.forward(index)
            return result
        factors = self.weights.factors(run)
        run.record(self.name, "fused", "rows are made from cosines at the index")
        picked = index.flatten()
        narrow = factors.core[:, picked] if factors.inward is None else factors.core @ factors.inward[:, picked]
        outward = factors.outward
        if outward is None:
            return narrow.T.reshape(*index.shape, size)
        part = Affine(size, narrow.reshape(-1, *index.shape), outward, None)
        return NarrowMap([part], index.ndim, [self.name])


def narrow_layer(source: nn.Module, name: str, tensor: TruncatedTensor, twin: DenseTwin) -> nn.Module | None:
    """The narrow way of a layer; None for kinds that have none, and for layers with a forward of their own."""
    kind = type(source).__bases__[0]
    if "forward" in source.__dict__:
        return None
    if kind is nn.Embedding and isinstance(source, nn.Embedding):
        if source.sparse or source.scale_grad_by_freq:
            return None
        return NarrowEmbedding(source, name, tensor, twin)
    if kind is nn.Linear or (kind.__module__ == nn.Conv2d.__module__ and isinstance(source, _ConvNd)):
        return NarrowLayer(source, name, tensor, twin)
    return None
