"""Activations in a program."""

from typing import Any

import numpy as np
from torch import fx

from tailcut.errors import StructureError
from tailcut.export_c.lowering.graph import rank
from tailcut.export_c.lowering.lowering import LARGEST, Handlers, Lowering, has_channels
from tailcut.export_c.lowering.sequences import axis_of, given_target
from tailcut.export_c.program.program import Kind, Op, Operation, Value

HANDLERS = Handlers()


def _clamp(low: Lowering, x: fx.Node, least: float, most: float) -> Value:
    if isinstance(least, fx.Node) or isinstance(most, fx.Node):
        raise StructureError("bounds that are tensors; C code knows numbers")
    return low.value(x).then(Op(Operation.CLAMP, low=max(least, -LARGEST), high=min(most, LARGEST)))


@HANDLERS.register("relu", "relu_")
def _relu(low: Lowering, node: fx.Node, x: fx.Node) -> Value:
    return _clamp(low, x, 0.0, LARGEST)


@HANDLERS.register("relu6", "relu6_")
def _relu6(low: Lowering, node: fx.Node, x: fx.Node) -> Value:
    return _clamp(low, x, 0.0, 6.0)


@HANDLERS.register("hardtanh", "hardtanh_")
def _hardtanh(low: Lowering, node: fx.Node, x: fx.Node, least: float = -1.0, most: float = 1.0) -> Value:
    return _clamp(low, x, least, most)


@HANDLERS.register("clamp", "clamp_")
def _clamp_to(low: Lowering, node: fx.Node, x: fx.Node, min: Any = None, max: Any = None) -> Value:
    return _clamp(low, x, -LARGEST if min is None else min, LARGEST if max is None else max)


@HANDLERS.register("clamp_min", "clamp_min_")
def _clamp_min(low: Lowering, node: fx.Node, x: fx.Node, min: Any) -> Value:
    return _clamp(low, x, min, LARGEST)


@HANDLERS.register("clamp_max", "clamp_max_")
def _clamp_max(low: Lowering, node: fx.Node, x: fx.Node, max: Any) -> Value:
    return _clamp(low, x, -LARGEST, max)


@HANDLERS.register("leaky_relu", "leaky_relu_")
def _leaky_relu(low: Lowering, node: fx.Node, x: fx.Node, negative_slope: float = 0.01) -> Value:
    return low.value(x).then(Op(Operation.LEAKY, low=negative_slope))


@HANDLERS.register("prelu")
def _prelu(low: Lowering, node: fx.Node, x: fx.Node, slope: fx.Node) -> Value:
    value, numbers = low.value(x), low.constant(slope)
    if numbers is None or len(numbers) not in (1, value.channels):
        raise StructureError("PReLU with another number of slopes than channels")
    return value.then(Op(Operation.LEAKY, scale=np.broadcast_to(numbers, value.channels).copy()))


@HANDLERS.register("hardsigmoid", "hardsigmoid_")
def _hardsigmoid(low: Lowering, node: fx.Node, x: fx.Node) -> Value:
    value = low.value(x).then(Op(Operation.SCALE, low=1 / 6, high=0.5))
    return value.then(Op(Operation.CLAMP, low=0.0, high=1.0))


def _register_functions() -> None:
    kinds = {
        "sigmoid": Operation.SIGMOID,
        "tanh": Operation.TANH,
        "silu": Operation.SILU,
        "hardswish": Operation.HARDSWISH,
        "mish": Operation.MISH,
    }
    for name, kind in kinds.items():

        def handler(low: Lowering, node: fx.Node, x: fx.Node, kind: Operation = kind) -> Value:
            return low.value(x).then(Op(kind))

        HANDLERS[name] = HANDLERS[f"{name}_"] = handler


_register_functions()


@HANDLERS.register("gelu", "gelu_")
def _gelu(low: Lowering, node: fx.Node, x: fx.Node, approximate: str = "none") -> Value:
    return low.value(x).then(Op(Operation.GELU if approximate == "none" else Operation.GELU_TANH))


@HANDLERS.register("elu", "elu_")
def _elu(
    low: Lowering, node: fx.Node, x: fx.Node, alpha: float = 1.0, scale: float = 1.0, input_scale: float = 1.0
) -> Value:
    value = low.value(x).then(Op(Operation.ELU, low=alpha, high=input_scale))
    return value if scale == 1 else value.then(Op(Operation.SCALE, low=scale))


@HANDLERS.register("selu", "selu_")
def _selu(low: Lowering, node: fx.Node, x: fx.Node) -> Value:
    return _elu(low, node, x, 1.6732632423543772, 1.0507009873554805)


@HANDLERS.register("celu", "celu_")
def _celu(low: Lowering, node: fx.Node, x: fx.Node, alpha: float = 1.0) -> Value:
    return _elu(low, node, x, alpha, 1.0, 1.0 / alpha)


@HANDLERS.register("softplus")
def _softplus(low: Lowering, node: fx.Node, x: fx.Node, beta: float = 1.0, threshold: float = 20.0) -> Value:
    return low.value(x).then(Op(Operation.SOFTPLUS, low=beta, high=threshold))


@HANDLERS.register("log_sigmoid")
def _log_sigmoid(low: Lowering, node: fx.Node, x: fx.Node) -> Value:
    value = low.value(x).then(Op(Operation.SCALE, low=-1.0)).then(Op(Operation.SOFTPLUS, low=1.0, high=20.0))
    return value.then(Op(Operation.SCALE, low=-1.0))


@HANDLERS.register("softmax", "log_softmax")
def _softmax(low: Lowering, node: fx.Node, x: fx.Node, axis: int, dtype: Any = None) -> Value:
    value, is_log = low.value(x), "log" in str(given_target(node))
    place = axis % rank(x)
    if rank(x) == 4 and place in (2, 3) and value.size[3 - place] == 1 and not is_log:
        return low.stored(value, Kind.SOFTMAX_OF_PLACES)
    if not has_channels(x, value) or place != 1:
        raise StructureError(
            f"{'log ' if is_log else ''}softmax along {axis_of(x, axis)}; C code knows that of the channels"
            + ("" if is_log else ", or of all places in a row or column")
        )
    return low.stored(value, Kind.LOG_SOFTMAX if is_log else Kind.SOFTMAX)
