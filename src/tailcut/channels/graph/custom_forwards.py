"""Convolutions and linear layers with custom forwards: padding, standardised weights, a parallel path.

The one operation in it that multiplies by the weight is taken for the layer; what stands around it is followed as the
rest of the network is. The weight's labels hold its output channels only, so a weight that was computed from it counts
as long as each output channel of it came from the same one of the layer's.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from tailcut.channels.graph.coupling import FIXED, Coupling, along
from tailcut.channels.graph.layer_kinds import channel_tensors

WHY = "it has a custom forward, in which its weight is not seen to multiply"

_CONVOLUTION = torch.ops.aten.convolution.default
_PRODUCT = torch.ops.aten.mm.default
_SUM_OF_PRODUCT = torch.ops.aten.addmm.default


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
