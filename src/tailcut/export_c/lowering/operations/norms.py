"""Norms by the numbers of the input itself that are no batch norm: layer norm, RMS norm and group norm."""

from typing import Any

import numpy as np
from torch import fx

from tailcut.errors import StructureError
from tailcut.export_c.lowering.graph import rank
from tailcut.export_c.lowering.lowering import Handlers, Lowering, has_channels
from tailcut.export_c.lowering.sequences import given_order, given_shape
from tailcut.export_c.program.program import Kind, Op, Operation, Value
from tailcut.export_c.program.weights import Floats

HANDLERS = Handlers()


@HANDLERS.register("layer_norm")
def _layer_norm(
    low: Lowering,
    node: fx.Node,
    x: fx.Node,
    shape: Any,
    weight: Any = None,
    bias: Any = None,
    epsilon: float = 1e-5,
    cudnn: bool = False,
) -> Value:
    letters = set(given_order(x)[-len(shape) :])
    gamma, beta = low.constant(weight), low.constant(bias)
    if letters == {"c"}:
        return _affine(_of_channels(low, x, Kind.LAYER_NORM, epsilon), gamma, beta)
    sizes = dict(zip(given_order(x), given_shape(x), strict=False))
    others = {letter for letter, size in sizes.items() if letter != "n" and size > 1}
    if rank(x) != 4 or "n" in letters or not others - {"c"} <= letters:
        raise _unknown(x, shape)
    value = low.value(x)
    groups = 1 if "c" in letters else value.channels
    made = low.stored(value, Kind.GROUP_NORM, epsilon=epsilon, groups=groups)
    return _affine(made, *(_same_in_all_places(part, x, shape) for part in (gamma, beta)))


@HANDLERS.register("rms_norm")
def _rms_norm(
    low: Lowering, node: fx.Node, x: fx.Node, shape: Any, weight: Any = None, epsilon: float | None = None
) -> Value:
    if set(given_order(x)[-len(shape) :]) != {"c"}:
        raise _unknown(x, shape)
    least = float(np.finfo(np.float32).eps) if epsilon is None else epsilon
    return _affine(_of_channels(low, x, Kind.RMS_NORM, least), low.constant(weight), None)


@HANDLERS.register("group_norm")
def _group_norm(
    low: Lowering,
    node: fx.Node,
    x: fx.Node,
    groups: int,
    weight: Any = None,
    bias: Any = None,
    epsilon: float = 1e-5,
    cudnn: bool = False,
) -> Value:
    value = _with_channels(low, x, [groups])
    made = low.stored(value, Kind.GROUP_NORM, epsilon=epsilon, groups=groups)
    return _affine(made, low.constant(weight), low.constant(bias))


def _of_channels(low: Lowering, x: fx.Node, kind: Kind, epsilon: float) -> Value:
    return low.stored(_with_channels(low, x, given_shape(x)[-1:]), kind, epsilon=epsilon)


def _with_channels(low: Lowering, x: fx.Node, shape: Any) -> Value:
    """Return what a norm over this shape reads, whose axis 1 is that of the channels."""
    value = low.value(x)
    if value.mixes_places:
        raise StructureError(
            f"a norm of {given_shape(x)}, a flattened map; C code knows it before `flatten`, over (channels, height, "
            "width)"
        )
    if not has_channels(x, value):
        raise _unknown(x, shape)
    return value


def _unknown(x: fx.Node, shape: Any) -> StructureError:
    return StructureError(
        f"a norm over {list(shape)} of {given_shape(x)}; C code knows it over the channels, over all of a map, "
        "and over groups of channels"
    )


def _affine(value: Value, gamma: Floats | None, beta: Floats | None) -> Value:
    if gamma is None and beta is None:
        return value
    return value.then(Op(Operation.SCALE, scale=gamma, shift=beta))


def _same_in_all_places(numbers: Floats | None, x: fx.Node, shape: Any) -> Floats | None:
    """Return the number of each channel, where all places have the same."""
    if numbers is None:
        return None
    channels = x.meta["val"].shape[1]
    order = given_order(x)[-len(shape) :]
    if "c" not in order:  # each channel, one of a map of one included, has the same for its places
        rows = np.broadcast_to(numbers.reshape(1, -1), (channels, numbers.size))
    else:
        rows = np.moveaxis(numbers, order.index("c"), 0).reshape(channels, -1)
    if not (rows == rows[:, :1]).all():
        raise StructureError(
            f"a norm over {list(shape)} with a weight for each place; C code knows one for each channel, "
            "or none (elementwise_affine)"
        )
    return np.ascontiguousarray(rows[:, 0])
