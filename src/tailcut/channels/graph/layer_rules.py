"""Propagation of channel labels through layers, and the axes of their tensors that follow from it."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Protocol, cast

import torch
from torch import Tensor, nn

from tailcut.channels.graph.coupling import Coupling, along, fixed
from tailcut.channels.layer_kinds import (
    ChannelNorm,
    ChannelSlope,
    Convolution,
    Dense,
    FeatureNorm,
    GroupedNorm,
    Norm,
    PaddedShortcut,
    Table,
    TransposedDense,
    layer_kind,
)


@dataclass
class TracedLayer:
    """A layer that ran.

    Attributes:
        name: of the module.
        module: the layer.
        axes: attribute of a tensor -> axis -> the channel at each place along it.
        inner: the channel of each input channel, where the layer has input channels of its own.
        outer: the channel of each output channel, where it has any.
        originates: its output channels are new ones, and not those of its input.
        positions: how often each number of the weight is used in one forward.
        why: why the layer is kept whole, None if it may be narrowed.
    """

    name: str
    module: nn.Module
    axes: dict[str, dict[int, Tensor]] = field(default_factory=dict)
    inner: Tensor | None = None
    outer: Tensor | None = None
    originates: bool = False
    positions: int = 0
    why: str | None = None

    def path(self, attribute: str) -> str:
        """Return the name of one of its tensors in the network."""
        return f"{self.name}.{attribute}" if self.name else attribute

    def labels(self) -> Iterator[Tensor]:
        """Yield the labels of all its tensors."""
        for axes in self.axes.values():
            yield from axes.values()


@dataclass
class Alignment:
    """A shortcut that puts `before` channels of zeros before those of its input, and others after them."""

    name: str
    module: nn.Module
    before: int
    inner: Tensor
    outer: Tensor


class Network(Protocol):
    """The part of a trace that layers are written down in."""

    coupling: Coupling
    layers: dict[str, TracedLayer]
    alignments: dict[str, Alignment]


@dataclass(frozen=True)
class _Pass:
    """One run of a layer."""

    network: Network
    name: str
    module: nn.Module
    x: Tensor
    labels: Tensor
    output: Tensor

    @property
    def coupling(self) -> Coupling:
        return self.network.coupling

    def channels(self, axis: int) -> Tensor | None:
        """Return the channel at each place along an axis, None where channels lie along other axes only."""
        axis %= self.x.ndim
        labels = self.coupling.tidy(self.labels)
        varied = set(self.coupling.varied(labels))
        if varied and axis not in varied:
            return None
        others = sorted(varied - {axis})
        labels = self.coupling.couple_along(labels, others, f"goes into {self.name} with fixed entries")
        for other in reversed(range(self.x.ndim)):
            if other != axis:
                labels = labels.select(other, 0)
        return labels.contiguous()

    def refuse(self, why: str) -> Tensor:
        """Lock the layer and its input channels."""
        self.coupling.lock(self.labels, f"goes into {self.name}: {why}")
        self.network.layers[self.name] = TracedLayer(self.name, self.module, why=why)
        return fixed(self.output.shape)

    def write(self, layer: TracedLayer) -> TracedLayer:
        """Note the layer; a second run couples its channels with those of the first."""
        known = self.network.layers.get(self.name)
        if known is None:
            self.network.layers[self.name] = layer
            return layer
        reason = f"goes into {self.name}, which also takes fixed entries"
        for one, other in zip(known.labels(), layer.labels(), strict=True):
            self.coupling.couple(one, other, reason)
        for first, second in ((known.inner, layer.inner), (known.outer, layer.outer)):
            if first is not None and second is not None:
                self.coupling.couple(first, second, reason)
        known.positions += layer.positions
        return known

    def tensors(self, **axes: dict[int, Tensor]) -> dict[str, dict[int, Tensor]]:
        """Those of the named tensors that the layer has."""
        return {name: at for name, at in axes.items() if isinstance(getattr(self.module, name, None), Tensor)}


def pass_layer(network: Network, name: str, module: nn.Module, x: Tensor, labels: Tensor, output: Tensor) -> Tensor:
    """Labels of a layer's output; the layer is written down in `network`.

    Args:
        network: the trace so far.
        name: of the layer.
        module: the layer, of one of the kinds.
        x: its input.
        labels: those of the input.
        output: what it gave.
    """
    run, known = _Pass(network, name, module, x, labels, output), network.layers.get(name)
    if known is not None and known.why is not None:
        return run.refuse(known.why)
    if not x.numel():
        return run.refuse("it got no inputs")
    return _RULES[type(layer_kind(module))](run)


def write_norm(
    network: Network, name: str, module: nn.Module, x: Tensor, labels: Tensor, output: Tensor, own: dict[str, Tensor]
) -> None:
    """Write down a norm whose forward was followed operation by operation; arguments as for `pass_layer`.

    `own` are the labels of its scales, shifts and statistics, which its operations coupled with channels.
    """
    run = _Pass(network, name, module, x, labels, output)
    coupling, kind = network.coupling, layer_kind(module)
    axes = coupling.varied(labels)
    if not isinstance(kind, Norm) or len(axes) != 1 or x.shape[axes[0]] != kind.num_channels(module):
        run.refuse("its channels do not lie along one axis")
        return
    channels = coupling.roots(labels.movedim(axes[0], 0).flatten(1)[:, 0])
    if any(not torch.equal(coupling.roots(vector), channels) for vector in own.values()):
        run.refuse("its scales were not seen to go with the channels of its input")
        return
    tensors = {attribute: {0: vector} for attribute, vector in own.items()}
    run.write(TracedLayer(name, module, tensors, inner=channels, outer=channels))


def couple_tied(model: nn.Module, network: Network) -> None:
    """Couple the uses of a tied parameter or buffer, so that it is narrowed in all its layers or in none."""
    seen: dict[int, dict[int, Tensor]] = {}
    for name, module in model.named_modules():
        for attribute, x in (*module._parameters.items(), *module._buffers.items()):
            if x is None:
                continue
            layer = network.layers.get(name)
            axes = layer.axes.get(attribute, {}) if layer is not None else {}
            first = seen.setdefault(id(x), axes)
            if first is axes:
                continue
            if isinstance(x, nn.Parameter) or (first and axes):
                _couple_uses(network, first, axes)
            else:  # another name of a buffer, which follows that of a layer
                seen[id(x)] = first or axes


def _couple_uses(network: Network, first: dict[int, Tensor], second: dict[int, Tensor]) -> None:
    """Couple the labels along the axes of one tensor in two layers; those that one alone has stay whole."""
    reason = "a tensor of it is shared with a layer that is kept whole"
    for axis in {*first, *second}:
        here, there = first.get(axis), second.get(axis)
        if here is not None and there is not None:
            network.coupling.couple(here, there, reason)
        else:
            network.coupling.lock(here if here is not None else there, reason)  # type: ignore[arg-type]


def _convolution(run: _Pass) -> Tensor:
    module = run.module
    num_axes = len(module.kernel_size)  # type: ignore[arg-type]
    axis = run.x.ndim - num_axes - 1
    inner = run.channels(axis)
    if inner is None:
        return run.refuse("other channels lie along the axes of its maps")
    groups, size = int(module.groups), int(module.out_channels)  # type: ignore[arg-type]
    is_depthwise = groups == len(inner) > 1
    if is_depthwise:
        outer, narrow = inner.repeat_interleave(size // groups), None
    elif groups == 1:
        outer, narrow = _new_outer(run, size), inner
    else:
        reason = f"goes into {run.name}, whose groups are equally wide, with fixed entries"
        narrow = run.coupling.couple_along(inner.view(groups, -1), [0], reason)[0]
        outer = _new_outer(run, size // groups).repeat(groups)
    if module.transposed:
        weight = {0: inner} if is_depthwise else {0: inner, 1: outer[: size // groups]}
        positions = run.x.numel() // len(inner)
    else:
        weight = {0: outer} if narrow is None else {0: outer, 1: narrow}
        positions = run.output.numel() // size
    axes = run.tensors(weight=weight, bias={0: outer})
    layer = TracedLayer(run.name, module, axes, inner, outer, not is_depthwise, positions)
    known = run.write(layer)
    return along(_present(known.outer), axis, run.output.shape)


def _dense(run: _Pass) -> Tensor:
    inner = run.channels(-1)
    kind = cast(Dense, layer_kind(run.module))
    num_inner, size = kind.features(kind.sizes(run.module))
    out_axis, in_axis = kind.output_axis, 1 - kind.output_axis
    outer = _new_outer(run, size)
    positions = run.output.numel() // size
    if inner is None:
        # It mixes along another axis than the channels', so that each channel passes separately.
        run.coupling.lock(outer, "its outputs lie across the channels of other layers")
        kept = fixed([num_inner])
        axes = run.tensors(weight={out_axis: outer, in_axis: kept}, bias={0: outer})
        run.write(TracedLayer(run.name, run.module, axes, kept, outer, True, positions))
        return run.coupling.tidy(run.labels).narrow(-1, 0, 1).expand(run.output.shape)
    axes = run.tensors(weight={out_axis: outer, in_axis: inner}, bias={0: outer})
    known = run.write(TracedLayer(run.name, run.module, axes, inner, outer, True, positions))
    return along(_present(known.outer), -1, run.output.shape)


def _channel_norm(run: _Pass) -> Tensor:
    size = int(run.module.num_features)  # type: ignore[arg-type]
    return _each_channel(run, size, ("weight", "bias", "running_mean", "running_var"))


def _grouped_norm(run: _Pass) -> Tensor:
    size, groups = int(run.module.num_channels), int(run.module.num_groups)  # type: ignore[arg-type]
    channels = run.channels(1)
    if channels is not None and 1 < groups < size:
        reason = f"goes into {run.name}, whose groups are equally wide, with fixed entries"
        run.coupling.couple_along(channels.view(groups, -1), [0], reason)
    return _each_channel(run, size, ("weight", "bias"))


def _channel_slope(run: _Pass) -> Tensor:
    size = int(run.module.num_parameters)  # type: ignore[arg-type]
    return run.coupling.tidy(run.labels) if size == 1 else _each_channel(run, size, ("weight",))


def _each_channel(run: _Pass, size: int, names: tuple[str, ...]) -> Tensor:
    """Layers that treat the channels along axis 1 one by one."""
    channels = run.channels(1) if run.x.ndim > 1 else None
    if channels is None or len(channels) != size:
        return run.refuse("its channels do not lie along axis 1")
    axes = run.tensors(**{name: {0: channels} for name in names})
    run.write(TracedLayer(run.name, run.module, axes, inner=channels, outer=channels))
    return run.coupling.tidy(run.labels)


def _feature_norm(run: _Pass) -> Tensor:
    channels = run.channels(-1)
    if channels is not None:
        axes = run.tensors(weight={0: channels}, bias={0: channels})
        run.write(TracedLayer(run.name, run.module, axes, inner=channels, outer=channels))
    return run.coupling.tidy(run.labels)


def _table(run: _Pass) -> Tensor:
    outer = _new_outer(run, int(run.module.embedding_dim))  # type: ignore[arg-type]
    run.write(TracedLayer(run.name, run.module, run.tensors(weight={1: outer}), None, outer, True))
    return along(outer, -1, run.output.shape)


def _padded_shortcut(run: _Pass) -> Tensor:
    inner = run.channels(1)
    before, after = int(run.module.pad_before), int(run.module.pad_after)  # type: ignore[arg-type]
    if inner is None or run.output.shape[1] != before + len(inner) + after or min(before, after) < 0:
        return run.refuse("it does not give pad_before + channels + pad_after channels along axis 1")
    known = run.network.alignments.get(run.name)
    if known is not None:
        run.coupling.couple(inner, known.inner, f"goes into {run.name}, which also takes fixed entries")
        return along(known.outer, 1, run.output.shape)
    outer = run.coupling.new(run.output.shape[1])
    run.network.alignments[run.name] = Alignment(run.name, run.module, before, inner, outer)
    run.write(TracedLayer(run.name, run.module))
    return along(outer, 1, run.output.shape)


def _new_outer(run: _Pass, size: int) -> Tensor:
    """Return the labels of a layer's output channels: those of its first call."""
    known = run.network.layers.get(run.name)
    if known is not None and known.outer is not None:
        return known.outer[:size]
    return run.coupling.new(size)


def _present(labels: Tensor | None) -> Tensor:
    return torch.empty(0, dtype=torch.int64, device="cpu") if labels is None else labels


_RULES: dict[type, Callable[[_Pass], Tensor]] = {
    Convolution: _convolution,
    Dense: _dense,
    ChannelNorm: _channel_norm,
    FeatureNorm: _feature_norm,
    GroupedNorm: _grouped_norm,
    ChannelSlope: _channel_slope,
    Table: _table,
    TransposedDense: _dense,
    PaddedShortcut: _padded_shortcut,
}
