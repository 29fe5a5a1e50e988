"""Convolutions and linear layers with custom forwards: padding, standardised weights, a parallel path.

The one operation in it that multiplies by the weight is taken for the layer; what stands around it is followed as the
rest of the network is. The weight's labels hold its output channels only, so a weight that was computed from it counts
as long as each output channel of it came from the same one of the layer's.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd
from torch.utils import _pytree as pytree

from tailcut.channels.graph.coupling import FIXED, Coupling, along
from tailcut.channels.graph.memory_layout import RESHAPES
from tailcut.channels.layer_kinds import channel_tensors

WHY = "it has a custom forward, in which its weight is not seen to multiply"

aten = torch.ops.aten
_CONVOLUTION = aten.convolution.default
_PRODUCT = aten.mm.default
_SUM_OF_PRODUCT = aten.addmm.default
# What leaves each number of a weight where it is.
_IN_PLACE = {
    *(aten.clone, aten.detach, aten.alias, aten._to_copy, aten.to, aten.lift_fresh),
    *(aten.expand, aten.unsqueeze, aten.squeeze, aten.contiguous),
}
_TURNS = {aten.t, aten.transpose, aten.permute, aten.flip, aten.roll}
# What gives as many numbers, each of which depends on others beside it.
_OVER_SEVERAL = {
    *(aten._softmax, aten._log_softmax, aten.native_batch_norm, aten._native_batch_norm_legit),
    *(aten._native_batch_norm_legit_no_training, aten.native_group_norm, aten.native_layer_norm),
    *(aten.cudnn_batch_norm, aten.miopen_batch_norm),
}


class WeightCall(NamedTuple):
    """The operation of a layer.

    Attributes:
        x: the input.
        weight: of the layer's shape, for products transposed.
        bias: None if there is none.
        axis: of the weight along which the output channels lie.
    """

    x: Tensor
    weight: Tensor
    bias: Tensor | None
    axis: int

    def has_own_channels(self, coupling: Coupling, labels: Tensor) -> bool:
        """Return whether the weight's labels differ along the axis of the output channels alone, and none is fixed."""
        labels = coupling.tidy(labels)
        return set(coupling.varied(labels)) <= {self.axis} and not bool((labels == FIXED).any())


def is_followed(module: nn.Module) -> bool:
    """Return whether it is a layer that this module handles, given that its forward is not torch's."""
    return isinstance(module, (_ConvNd, nn.Linear))


def own_labels(module: nn.Module, outer: Tensor) -> dict[str, Tensor]:
    """Labels of a layer's weight and bias, by attribute: those of its output channels, shape (channels,).

    None for grouped transposed convolutions, in whose weight each place stands for an output channel of every group.
    """
    axes = {"weight": 0, "bias": 0}
    if isinstance(module, _ConvTransposeNd):
        if module.groups > 1:
            return {}
        axes["weight"] = 1
    return {name: along(outer, axes[name], x.shape) for name, x in channel_tensors(module).items()}


def weight_call(func: Any, given: Mapping[str, Any], module: nn.Module) -> WeightCall | None:
    """Return the role of an operation inside a layer's custom forward, or None for an unknown one.

    Args:
        func: the operation.
        given: its arguments by name.
        module: the layer.
    """
    shape = tuple(module.weight.shape)  # type: ignore[arg-type]
    if isinstance(module, _ConvNd) and func is _CONVOLUTION:
        call = WeightCall(given["input"], given["weight"], given["bias"], 1 if module.transposed else 0)
        is_alike = (given["groups"], given["transposed"]) == (module.groups, module.transposed)
        return call if is_alike and tuple(call.weight.shape) == shape else None
    if isinstance(module, nn.Linear) and func in (_PRODUCT, _SUM_OF_PRODUCT):
        has_sum = func is _SUM_OF_PRODUCT
        x, bias = (given["mat1"], given["self"]) if has_sum else (given["self"], None)
        is_alike = not has_sum or (given["alpha"], given["beta"]) == (1, 1)
        return WeightCall(x, given["mat2"], bias, 1) if is_alike and tuple(given["mat2"].shape) == shape[::-1] else None
    return None


class ComputedWeights:
    """What the forwards of layers compute of their weights, by the kind of its operations."""

    def __init__(self) -> None:
        self._known: dict[int, tuple[Tensor, _Past]] = {}  # by identity

    def note(self, module: nn.Module, func: Any, given: Mapping[str, Any], results: Sequence[Tensor]) -> None:
        """Note an operation in the forward of a layer, if the layer's weight goes into it; arguments by name."""
        weight = module.weight
        inputs = [x for x in pytree.tree_leaves(dict(given)) if isinstance(x, Tensor)]
        pasts = [self._past(x) for x in inputs if x is weight or id(x) in self._known]
        if not pasts or not isinstance(weight, Tensor):
            return
        kind = func.overloadpacket
        past = _Past(*map(any, zip(*pasts, strict=True)))
        keeps = kind in _IN_PLACE or torch.Tag.pointwise in func.tags
        if kind in RESHAPES:  # which keep the order of what lies there
            past = past._replace(moved=past.moved or past.turned)
        elif kind in _TURNS:
            is_plain = weight.ndim == 2 and kind not in (aten.flip, aten.roll)
            past = past._replace(turned=True, moved=past.moved or not (is_plain or _is_spatial(given, weight.ndim)))
        elif not keeps and (kind in _OVER_SEVERAL or all(x.numel() < weight.numel() for x in results)):
            past = past._replace(reduced=True)
        elif not keeps:
            past = past._replace(moved=True)
        self._known.update({id(x): (x, past) for x in results})

    def _past(self, weight: Tensor) -> "_Past":
        known = self._known.get(id(weight))
        return _Past() if known is None else known[1]

    def moves(self, weight: Tensor) -> bool:
        """Return whether numbers of a computed weight may stand elsewhere than in the layer's."""
        return self._past(weight).moved

    def reduces(self, weight: Tensor) -> bool:
        """Return whether numbers of a computed weight come from several of the layer's."""
        return self._past(weight).reduced


class _Past(NamedTuple):
    """What was done to a weight: axes turned, numbers moved along the input channels, several made into one."""

    turned: bool = False
    moved: bool = False
    reduced: bool = False


def _is_spatial(given: Mapping[str, Any], ndim: int) -> bool:
    """Return whether an operation moves numbers along a kernel's axes alone."""
    dims = given.get("dims", [given.get("dim0"), given.get("dim1")])
    return all(isinstance(axis, int) and axis % ndim >= 2 for axis in dims)
