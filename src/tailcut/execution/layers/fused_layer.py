"""Regularised layers in a fused network: each call takes the cheapest strategy by the cost model."""

import functools
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.modules.conv import _ConvNd

from tailcut.execution.ir.expression import Affine, is_pointwise, map_sources
from tailcut.execution.ir.geometry import Geometry, geometry_of
from tailcut.execution.layers.factorization import Factorization, TruncatedWeight, block_diagonal, grouped_outward
from tailcut.execution.layers.module_copy import shallow_copy
from tailcut.execution.layers.strategies import Plan, Strategy, choose, possible_strategies
from tailcut.execution.lazy.context import Context, current_context
from tailcut.execution.lazy.lazy_map import LazyMap, project_full, shape_of
from tailcut.execution.lazy.unsupported import is_autocast, is_plain, is_transformed, refuse_unsupported
from tailcut.weights import TruncatedTensor

# Number of different calls for which a layer remembers its strategy.
MAX_PLANS = 256
_KINDS: dict[tuple[type[nn.Module], type[nn.Module]], type[nn.Module]] = {}


class DenseLayer:
    """A copy of a regularised module whose regularised parameters are dense tensors.

    Attributes:
        module: the copy, an instance of the class that the original had before.
        name: the original's name in the network.
        held: names of the dense tensors, and of its other parameters.

    `making` is held by a thread that calls the network with gradients, and while the dense tensors are set.

    Two of one module may share what they keep (`like`): each has children of its own.
    """

    def __init__(
        self,
        source: nn.Module,
        name: str,
        tensors: dict[str, TruncatedTensor],
        making: AbstractContextManager[Any],
        *,
        like: "DenseLayer | None" = None,
    ) -> None:
        kind = _plain_kind(source)
        # Torch's own layers have no hooks here, so their forward is called directly.
        self.module = shallow_copy(source, _kind_with(_CalledDirectly, kind) if _is_torchs(kind) else kind)
        self.name = name
        self._making = making
        self._attributes = self.module.__dict__
        self._attributes.update(dict.fromkeys(tensors), **self.module._parameters)
        self.held = frozenset({*tensors, *self.module._parameters})
        self._weights: dict[str, TruncatedWeight] = (
            {key: TruncatedWeight(tensor, source) for key, tensor in tensors.items()} if like is None else like._weights
        )

    def truncated(self, attribute: str) -> TruncatedWeight | None:
        """Return a truncated tensor of the module by its attribute; None where that is an ordinary parameter."""
        return self._weights.get(attribute)

    def refresh(self, context: Context) -> None:
        """Hold the dense tensors, as the coefficients are now, for the module's forward."""
        with self._making:
            for attribute, weight in self._weights.items():
                self._attributes[attribute] = weight.dense(context)
            # In `__dict__`, where Python finds it at once; torch looks for parameters only after all else.
            self._attributes.update(self.module._parameters)


class _CalledDirectly(nn.Module):
    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if self._forward_hooks or self._forward_pre_hooks or self._backward_hooks or self._backward_pre_hooks:
            return super().__call__(*args, **kwargs)  # the network's forward has registered one for this call
        return self.forward(*args, **kwargs)


class FusedLayer(nn.Module):
    """A copy of a regularised layer that can run without its dense weight; `fused_layer` makes it.

    It is of a subclass of the layer's own class. Settings, bias and hooks are the layer's.

    Attributes:
        dense: the copy that runs with a dense weight.
        name: the layer's name in the network.
        weights: its weight, as factors or dense.
    """

    dense: DenseLayer
    name: str
    weights: TruncatedWeight

    @property
    def weight(self) -> Tensor:
        """The dense weight, for code that reads it from outside."""
        return self.weights.dense(current_context())

    def _why_dense(self, context: Context) -> str:
        """Return the reason why this call must run densely, whatever it costs; empty if there is none.

        Raises:
            UnsupportedError: not only this call has to.
        """
        refuse_unsupported()
        if self.weights.is_blank:
            return "its network has no memory yet"
        if is_autocast(self.weights.vector.device.type):
            return "autocast is on where it is called"
        if is_transformed():
            return "torch.func or forward-mode differentiation looks into it"
        return "" if isinstance(self.weights.vector, nn.Parameter) else "its vector is no parameter"


class LowRankLayer(FusedLayer):
    """A regularised linear layer or convolution: cosines of the input, a small core, cosines of the output."""

    plans: dict[object, Plan | None]

    @property
    def bias(self) -> Tensor | None:
        """The layer's bias, made dense where it is truncated too."""
        truncated = self.dense.truncated("bias")
        return self._parameters["bias"] if truncated is None else truncated.dense(current_context())

    def forward(self, input: Tensor, output_size: Any = None) -> Tensor:
        """Run the layer on an ordinary tensor or a lazy map, and return one or the other."""
        context, x = current_context(), input
        args = () if output_size is None else (tuple(output_size),)
        why_dense = self._why_dense(context)
        if not is_plain(x):
            return self._dense(x, args, context, None)
        if isinstance(x, LazyMap):
            x.check_history()
            if x.channel_axis != (x.ndim - 1 if isinstance(self, nn.Linear) else 1):
                x = x.materialize("its channels lie on another axis")
        plan = self._plan(x, args, context)
        if why_dense or plan is None or not (plan.best.project or plan.best.low_rank):
            return self._dense(x, args, context, None if plan is None else plan.dense, why_dense)
        return self._low_rank(x, plan.geometry, plan.best, plan.dense, context)

    def _plan(self, x: Tensor, args: tuple[Any, ...], context: Context) -> Plan | None:
        """Return the strategy of this call, None where there is only the dense one; computed once for each key."""
        unwritten = x.parts if isinstance(x, LazyMap) and x._full is None else ()
        making = tuple((part.flops, part.elements) for part in unwritten)
        key = (shape_of(x), making, context.strategy, context.costs, self.weights.num_in, self.weights.num_out, args)
        if key not in self.plans:
            if len(self.plans) >= MAX_PLANS:
                self.plans.clear()
            geometry = geometry_of(self, tuple(shape_of(x)), args)
            strategies = [] if geometry is None else possible_strategies(geometry, self.weights, x, context)
            best = choose(strategies, context)
            self.plans[key] = None if geometry is None or best is None else Plan(geometry, best, strategies[0])
        return self.plans[key]

    def _dense(
        self, x: Tensor, args: tuple[Any, ...], context: Context, strategy: Strategy | None, reason: str = ""
    ) -> Tensor:
        reason = reason or "the cost model prefers it"
        record = context.record(
            self.name, "dense", reason if strategy is not None else "this use of it has no fused form"
        )
        if strategy is not None:
            record.count(strategy.work, strategy.work)
        full = x.materialize(f"{self.name} is dense") if isinstance(x, LazyMap) else x
        self.dense.refresh(context)
        result: Tensor = self.dense.module.forward(full, *args)
        return result

    def _low_rank(self, x: Tensor, geometry: Geometry, strategy: Strategy, dense: Strategy, context: Context) -> Tensor:
        factors = self.weights.factors(context)
        from_map = isinstance(x, LazyMap) and x._full is None
        is_fused = from_map == strategy.project
        reason = "a full map is read from memory" if not is_fused else "no full map is written"
        record = context.record(self.name, "fused" if is_fused else "factored", reason)
        record.count(strategy.work, dense.work)
        result = self._folded(x, geometry, factors, strategy)
        if result is None:
            y = self._projected(x, geometry, factors, strategy)
            result = self._core(y, geometry, factors, strategy)
        if not strategy.low_rank:
            return result.movedim(0, geometry.channel_axis).contiguous()
        outward = grouped_outward(factors.outward, geometry.out_channels, geometry.groups, factors.core)
        part = Affine(geometry.out_channels, result, outward, self.bias)
        return LazyMap([part], geometry.channel_axis, [self.name])

    def _folded(self, x: Tensor, geometry: Geometry, factors: Factorization, strategy: Strategy) -> Tensor | None:
        """Run a 1 x 1 kernel: core and input cosines are one matrix, which the tiles apply."""
        if not geometry.is_one_position or geometry.groups > 1 or not strategy.project or factors.inward is None:
            return None
        rows = factors.core.shape[0] if strategy.low_rank or factors.outward is None else factors.outward.shape[0]
        if rows > factors.core.shape[1]:
            return None
        make = functools.partial(_folded_matrix, factors, low_rank=strategy.low_rank)
        matrix = self.weights.derived(f"folded, low-rank: {strategy.low_rank}", make)
        result = project_any(_strided(x, geometry), matrix, geometry)
        return result if strategy.low_rank or self.bias is None else result + _along(self.bias, result)

    def _projected(self, x: Tensor, geometry: Geometry, factors: Factorization, strategy: Strategy) -> Tensor:
        """Return the input of the core, (channels, batch, *spatial)."""
        if strategy.project and factors.inward is not None:
            return project_any(x, block_diagonal(factors.inward, geometry.groups), geometry)
        full = x.materialize(f"{self.name} takes its input whole") if isinstance(x, LazyMap) else x
        return full.movedim(geometry.channel_axis, 0)

    def _core(self, y: Tensor, geometry: Geometry, factors: Factorization, strategy: Strategy) -> Tensor:
        """Apply the small convolution; (channels, batch, *spatial) to (channels, batch, *spatial)."""
        key = f"core, projected: {strategy.project}, low-rank: {strategy.low_rank}"
        core = self.weights.derived(key, functools.partial(_core_of, factors, strategy))
        if strategy.low_rank and geometry.groups > 1:
            core = core.repeat(geometry.groups, *([1] * (core.ndim - 1)))
        return geometry.convolve(y, core, None if strategy.low_rank else self.bias)


def _folded_matrix(factors: Factorization, *, low_rank: bool) -> Tensor:
    """Multiply the core of a 1 x 1 kernel by the input's cosines, and by the output's unless it stays low-rank."""
    core = factors.core.flatten(1)
    core = core if factors.inward is None else core @ factors.inward
    return core if low_rank or factors.outward is None else factors.outward @ core


def _core_of(factors: Factorization, strategy: Strategy) -> Tensor:
    """Multiply the core by the cosines of those sides that are not kept low-rank: (out, in, *kernel)."""
    core = factors.core
    if not strategy.project and factors.inward is not None:
        core = torch.tensordot(core, factors.inward, dims=([1], [0])).movedim(-1, 1)
    if not strategy.low_rank and factors.outward is not None:
        core = torch.tensordot(factors.outward, core, dims=([1], [0]))
    return core


def project_any(x: Tensor, matrix: Tensor, geometry: Geometry) -> Tensor:
    """Compute matrix @ x over the channels of an ordinary tensor or of a lazy map."""
    if isinstance(x, LazyMap):
        return x.project(matrix)
    return project_full(x, matrix, geometry.channel_axis)


def _strided(x: Tensor, geometry: Geometry) -> Tensor:
    """Return the positions that a 1 x 1 kernel with strides reads."""
    if all(step == 1 for step in geometry.stride):
        return x
    index = (slice(None), slice(None), *(slice(None, None, step) for step in geometry.stride))
    if not isinstance(x, LazyMap):
        return x[index]
    if x._full is not None or not all(map(is_pointwise, x.parts)):
        return x.materialize("strides over a resampled map")[index]
    known: dict[Any, Any] = {}
    return x.like([map_sources(part, lambda source: source[index].contiguous(), known) for part in x.parts])


def _along(bias: Tensor, channels_first: Tensor) -> Tensor:
    return bias.reshape(-1, *([1] * (channels_first.ndim - 1)))


class LowRankEmbedding(FusedLayer):
    """A regularised embedding: the cosines at the index, times the core; expanded when the full map is needed."""

    max_norm: float | None
    padding_idx: int | None
    embedding_dim: int

    def forward(self, input: Tensor) -> Tensor:
        """Look up (...) integers; returns (..., channels)."""
        context, index = current_context(), input
        special = self.max_norm is not None or self.padding_idx is not None
        size = self.embedding_dim
        why_dense = self._why_dense(context) or ("it has special rows" if special else "")
        if why_dense or index.ndim != 2 or self.weights.num_out >= size:
            context.record(self.name, "dense", why_dense or "the cost model prefers it")
            self.dense.refresh(context)
            result: Tensor = self.dense.module.forward(index)
            return result
        factors = self.weights.factors(context)
        context.record(self.name, "fused", "rows are made from cosines at the index")
        picked = index.flatten()
        # Looked up as the network does, which refuses what is no index.
        table = factors.core if factors.inward is None else factors.inward
        columns = functional.embedding(picked, table.T).T.contiguous()
        low_rank = columns if factors.inward is None else factors.core @ columns
        outward = factors.outward
        if outward is None:
            return low_rank.T.reshape(*index.shape, size)
        part = Affine(size, low_rank.reshape(low_rank.shape[0], *index.shape), outward, None)
        return LazyMap([part], index.ndim, [self.name])


def fused_layer(source: nn.Module, name: str, tensor: TruncatedTensor, dense: DenseLayer) -> FusedLayer | None:
    """Return the fused form of a layer; None for kinds that have none."""
    kind = _plain_kind(source)
    if kind is nn.Embedding and isinstance(source, nn.Embedding):
        if source.sparse or source.scale_grad_by_freq:
            return None
        form: type[FusedLayer] = LowRankEmbedding
    elif _is_torchs(kind):
        form = LowRankLayer
    else:
        return None
    made = shallow_copy(source, _kind_with(form, kind))
    made.__dict__.update(dense=dense, name=name, weights=TruncatedWeight(tensor, source), plans={})
    return made if isinstance(made, FusedLayer) else None


def _plain_kind(source: nn.Module) -> type[nn.Module]:
    """Return the class that a module had before it was parametrised."""
    kind: type[nn.Module] = type(source).__bases__[0]
    return kind


def _is_torchs(kind: type[nn.Module]) -> bool:
    """Return whether it is torch's own linear layer or a convolution of torch's."""
    return kind is nn.Linear or (kind.__module__ == nn.Conv2d.__module__ and issubclass(kind, _ConvNd))


def _kind_with(form: type[nn.Module], kind: type[nn.Module]) -> type[nn.Module]:
    """Return the subclass of a kind of layers that runs in a form; the same one each time."""
    if (form, kind) not in _KINDS:
        _KINDS[form, kind] = type(f"{form.__name__}{kind.__name__}", (form, kind), {})
    return _KINDS[form, kind]
