"""Handlers of torch's functions on lazy maps: elementwise functions, pooling, concatenation, padding, sums.

Each handler has the signature of torch's function, and gives NotImplemented where it would need the full map.
"""

import itertools
import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from tailcut.execution.ir.cost import NUMBER_BYTES
from tailcut.execution.ir.expression import (
    Affine,
    Expression,
    Function,
    Given,
    OnSource,
    Pointwise,
    Scaled,
    add_affine,
    given,
    grid_of,
    is_pointwise,
    map_sources,
    on_channels_first,
    resample,
)
from tailcut.execution.ir.geometry import pooled_size
from tailcut.execution.lazy.context import current_context
from tailcut.execution.lazy.lazy_map import HANDLERS, LazyMap, handles, shape_of

_INFINITY = math.inf
_FUNCTIONS = (
    Function("relu", torch.relu, torch.relu_, True, 1, (0.0, _INFINITY)),
    Function("relu6", functional.relu6, lambda x: x.clamp_(0, 6), True, 1, (0.0, 6.0)),
    Function("hardtanh", functional.hardtanh, lambda x: x.clamp_(-1, 1), True, 1, (-1.0, 1.0)),
    Function("clamp", torch.clamp, increasing=True),
    Function("leaky_relu", functional.leaky_relu, operations=2),
    Function("elu", functional.elu, operations=8),
    Function("selu", functional.selu, increasing=True, operations=8),
    Function("celu", functional.celu, operations=8),
    Function("gelu", functional.gelu, operations=16),
    Function("silu", functional.silu, operations=8),
    Function("mish", functional.mish, operations=16),
    Function("softplus", functional.softplus, operations=8),
    Function("softsign", functional.softsign, increasing=True, operations=3),
    Function("hardswish", functional.hardswish, operations=4),
    Function("hardsigmoid", functional.hardsigmoid, increasing=True, operations=3),
    Function("hardshrink", functional.hardshrink, operations=2),
    Function("softshrink", functional.softshrink, operations=2),
    Function("tanhshrink", functional.tanhshrink, operations=8),
    Function("logsigmoid", functional.logsigmoid, increasing=True, operations=8),
    Function("threshold", functional.threshold),
    Function("sigmoid", torch.sigmoid, torch.sigmoid_, True, 8),
    Function("tanh", torch.tanh, torch.tanh_, True, 8),
    Function("exp", torch.exp, torch.exp_, True, 8),
    Function("abs", torch.abs, torch.abs_),
    Function("neg", torch.neg, torch.neg_),
    Function("square", torch.square),
    Function("pow", torch.pow, operations=8),
)


def _with_arguments(function: Function, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Function:
    bounds = None
    if function.name == "hardtanh":
        limits = dict(zip(("min_val", "max_val"), args, strict=False)) | kwargs
        bounds = float(limits.get("min_val", -1.0)), float(limits.get("max_val", 1.0))
    return Function(
        function.name,
        lambda x: function.call(x, *args, **kwargs),
        None if bounds is None else lambda x: x.clamp_(*bounds),
        function.increasing,
        function.operations,
        bounds,
    )


def _elementwise(function: Function) -> Callable[..., Any]:
    def handler(input: Any, *args: Any, inplace: bool = False, **kwargs: Any) -> Any:
        plain = all(isinstance(value, (int, float, bool, str, type(None))) for value in (*args, *kwargs.values()))
        if not isinstance(input, LazyMap) or not plain or not all(map(is_pointwise, input.parts)):
            return NotImplemented
        chosen = _with_arguments(function, args, kwargs) if args or kwargs else function
        result = input.like([Pointwise(part.channels, chosen, (part,)) for part in input.parts])
        return input.become(result) if inplace else result

    return handler


for _entry in _FUNCTIONS:
    handles(_entry.name)(_elementwise(_entry))
    handles(f"{_entry.name}_")(partial(_elementwise(_entry), inplace=True))
# Aliases of torch's functions.
_ALIASES = {"log_sigmoid": "logsigmoid", "_threshold": "threshold", "__pow__": "pow", "__neg__": "neg"}
for _alias, _name in _ALIASES.items():
    HANDLERS[_alias] = HANDLERS[_name]


@handles("dropout", "dropout1d", "dropout2d", "dropout3d", "alpha_dropout", "feature_alpha_dropout")
def dropout(input: Any, p: float = 0.5, training: bool = True, inplace: bool = False) -> Any:
    """Return the map itself in evaluation."""
    return input if isinstance(input, LazyMap) and (not training or p == 0) else NotImplemented


@handles("contiguous")
def contiguous(input: Any, **kwargs: Any) -> Any:
    """Return another map of the same expressions, which torch may have in the same memory or not."""
    return NotImplemented if kwargs else input.link(input.like(input.parts))


@handles("clone")
def clone(input: Any, **kwargs: Any) -> Any:
    """Return another map of the same expressions."""
    return input.like(input.parts)


@handles("cat", "concat", "concatenate")
def cat(tensors: Sequence[Tensor], dim: int = 0, **kwargs: Any) -> Any:
    """Concatenate the parts; ordinary tensors become parts too."""
    # Torch leaves out empty tensors of one axis.
    tensors = [tensor for tensor in tensors if shape_of(tensor) != (0,)]
    first = next(tensor for tensor in tensors if isinstance(tensor, LazyMap))
    axis = first.channel_axis
    if kwargs or dim % len(shape_of(first)) != axis or any(tensor.dtype != first.dtype for tensor in tensors):
        return NotImplemented
    parts: list[Expression] = []
    makers: list[str] = []
    for tensor in tensors:
        if isinstance(tensor, LazyMap):
            if tensor.channel_axis != axis:
                return NotImplemented
            parts += tensor.parts
            makers += tensor.makers
        else:
            parts.append(given(tensor, axis))
    if len({grid_of(part) for part in parts}) > 1:
        return NotImplemented
    return LazyMap(parts, axis, makers)


def _binary(function: Function, *, inplace: bool) -> Callable[..., Any]:
    def handler(first: Any, second: Any, *, alpha: float = 1, out: Any = None) -> Any:
        if alpha != 1 or out is not None or (inplace and not isinstance(first, LazyMap)):
            return NotImplemented
        if isinstance(first, LazyMap) and isinstance(second, LazyMap):
            result = _of_two(function, first, second)
        elif isinstance(first, LazyMap):
            result = _with_other(function, first, second)
        elif function.name != "sub":
            result = _with_other(function, second, first)
        else:
            return NotImplemented
        return first.become(result) if inplace and result is not NotImplemented else result

    return handler


for _entry in (Function("add", torch.add), Function("sub", torch.sub), Function("mul", torch.mul)):
    handles(_entry.name, f"__{_entry.name}__")(_binary(_entry, inplace=False))
    handles(f"{_entry.name}_", f"__i{_entry.name}__")(_binary(_entry, inplace=True))
    if _entry.name != "sub":
        handles(f"__r{_entry.name}__")(_binary(_entry, inplace=False))


def _of_two(function: Function, first: LazyMap, second: LazyMap) -> Any:
    """Combine two maps part by part. Two affine parts make one; a chain that grows too costly is written once."""
    if shape_of(first) != shape_of(second) or first.channel_axis != second.channel_axis or first.dtype != second.dtype:
        return NotImplemented
    for operand in (first, second):
        _write_if_costly(operand)
    splits = [part.channels for part in first.parts] == [part.channels for part in second.parts]
    if not splits or not all(map(is_pointwise, (*first.parts, *second.parts))):
        return NotImplemented
    parts: list[Expression] = []
    for one, two in zip(first.parts, second.parts, strict=True):
        if function.name == "add" and isinstance(one, Affine) and isinstance(two, Affine):
            parts.append(add_affine(one, two))
        else:
            parts.append(Pointwise(one.channels, function, (one, two)))
    return LazyMap(parts, first.channel_axis, (*first.makers, *second.makers))


def _with_other(function: Function, lazy: LazyMap, other: Any) -> Any:
    """Combine a map with a number, one number per channel, or an ordinary map of the same shape."""
    if not all(map(is_pointwise, lazy.parts)):
        return NotImplemented
    if isinstance(other, (int, float)):
        other = torch.tensor(float(other), dtype=lazy.dtype, device=lazy.device)
    if not isinstance(other, Tensor) or other.dtype != lazy.dtype:
        return NotImplemented
    channels = shape_of(lazy)[lazy.channel_axis]
    if other.shape == shape_of(lazy) and len(lazy.parts) == 1:
        return lazy.like([Pointwise(channels, function, (lazy.parts[0], given(other, lazy.channel_axis)))])
    shape = [1] * (len(shape_of(lazy)) - other.ndim) + list(other.shape)
    if len(shape) > len(shape_of(lazy)) or any(
        size != 1 and not (axis == lazy.channel_axis and size == channels) for axis, size in enumerate(shape)
    ):
        return NotImplemented
    values = other.reshape(-1).expand(channels).clone()  # for the reason that `given` copies
    one, zero = torch.ones_like(values), torch.zeros_like(values)
    scale, shift = {"add": (one, values), "sub": (one, -values), "mul": (values, zero)}[function.name]
    return lazy.like(scale_parts(lazy.parts, scale, shift))


def scale_parts(parts: Sequence[Expression], scale: Tensor, shift: Tensor) -> list[Expression]:
    """Compute parts * scale + shift, one number per channel, folded where a part is affine."""
    result: list[Expression] = []
    first = 0
    for part in parts:
        own = slice(first, first + part.channels)
        if isinstance(part, Affine):
            moved = shift[own] if part.shift is None else torch.addcmul(shift[own], part.shift, scale[own])
            result.append(Affine(part.channels, part.source, part.matrix * scale[own, None], moved))
        else:
            result.append(Scaled(part.channels, part, scale[own], shift[own]))
        first += part.channels
    return result


def _write_if_costly(lazy: LazyMap) -> None:
    """Write a map that would cost more to recompute than to write once and read twice."""
    costs = current_context().costs
    work = sum(part.flops for part in lazy.parts)
    made = sum(part.elements for part in lazy.parts)
    is_costly = costs.is_costly(work, made, NUMBER_BYTES * shape_of(lazy)[lazy.channel_axis])
    if is_costly and len(lazy.parts) == 1 and not isinstance(lazy.parts[0], (Affine, Given)):
        lazy.write_parts("a long chain of additions is written once")


# Of torch's functions by the number of axes that they pool. A map of one axis fewer is one image without a batch to
# them, whose channels are rows; it is written.
_AXES = {"1d": 1, "2d": 2, "3d": 3}


def _max_pool(
    axes: int,
    input: Any,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    dilation: Any = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> Any:
    """Compute the maximum over phases: maps read at the first, second, ... position of each window.

    A position of a window outside the map is moved to the nearest inside, which lies in the same window.
    """
    if return_indices or not isinstance(input, LazyMap) or input.channel_axis != 1 or input.ndim != 2 + axes:
        return NotImplemented
    if not all(map(is_pointwise, input.parts)):
        return NotImplemented
    sizes = shape_of(input)[2:]
    kernel, pads, steps = (_per_axis(value, len(sizes)) for value in (kernel_size, padding, dilation))
    strides = _per_axis(stride, len(sizes)) if stride not in (None, ()) else kernel
    if max(steps) > 1 or math.prod(kernel) > 4 * math.prod(strides):
        return NotImplemented
    outs = [pooled_size(*axis, ceil_mode=ceil_mode) for axis in zip(sizes, kernel, strides, pads, strict=True)]
    if min(outs) < 1 or any(2 * pad > extent for pad, extent in zip(pads, kernel, strict=True)):
        return NotImplemented  # torch says what is wrong
    per_axis = [
        [_window_index(size, out, offset - pad, step) for offset in range(extent)]
        for size, out, extent, pad, step in zip(sizes, outs, kernel, pads, strides, strict=True)
    ]
    return input.like([_pooled(part, list(itertools.product(*per_axis))) for part in input.parts])


for _name, _axes in _AXES.items():
    handles(f"max_pool{_name}")(partial(_max_pool, _axes))

Index = slice | Tensor


def _window_index(size: int, out: int, offset: int, step: int) -> Index:
    last = offset + (out - 1) * step
    if offset >= 0 and last < size:
        return slice(offset, last + 1, step)
    return (torch.arange(out, device="cpu") * step + offset).clamp(0, size - 1)


def _pooled(part: Expression, phases: Sequence[tuple[Index, ...]]) -> Expression:
    """Compute the maximum of a part over phases, below increasing functions, which are then called once."""
    if isinstance(part, Pointwise) and part.function.increasing and len(part.children) == 1:
        return Pointwise(part.channels, part.function, (_pooled(part.children[0], phases),))
    children = tuple(map_sources(part, _reader(phase)) for phase in phases)
    return Pointwise(part.channels, _MAXIMUM, children)


def _reader(phase: tuple[Index, ...]) -> OnSource:
    def read(source: Tensor) -> Tensor:
        for axis, index in enumerate(phase):
            if isinstance(index, slice):
                source = source[(slice(None),) * (2 + axis) + (index,)]
            else:
                source = source.index_select(2 + axis, index.to(source.device))
        return source.contiguous()

    return read


def _maximum(*tensors: Tensor) -> Tensor:
    result = tensors[0]
    for tensor in tensors[1:]:
        result = torch.maximum(result, tensor)
    return result


_MAXIMUM = Function("maximum", _maximum, increasing=True)


def _per_axis(value: Any, num: int) -> tuple[int, ...]:
    return (value,) * num if isinstance(value, int) else tuple(value) * (num if len(value) == 1 else 1)


def _resampled(input: Any, operation: OnSource) -> Any:
    if not isinstance(input, LazyMap) or input.channel_axis != 1 or len(shape_of(input)) < 3:
        return NotImplemented
    return input.like([resample(part, operation) for part in input.parts])


def _average_pool(function: Callable[..., Tensor], axes: int) -> Callable[..., Any]:
    """Linear, the same for each channel: done after the next projection."""

    def handler(input: Any, *args: Any, **kwargs: Any) -> Any:
        fits = input.ndim == 2 + axes
        return _resampled(input, lambda x: function(x, *args, **kwargs)) if fits else NotImplemented

    return handler


for _name, _axes in _AXES.items():
    for _pool in (f"avg_pool{_name}", f"adaptive_avg_pool{_name}"):
        handles(_pool)(_average_pool(getattr(functional, _pool), _axes))


@handles("interpolate", "upsample")
def interpolate(input: Any, *args: Any, **kwargs: Any) -> Any:
    """Linear, the same for each channel: done after the next projection."""
    return _resampled(input, lambda x: functional.interpolate(x, *args, **kwargs))


@handles("pad")
def pad(input: Any, pad: Sequence[int], mode: str = "constant", value: float | None = None) -> Any:
    """Pad the spatial axes with zeros or copies of the border, which are both linear."""
    if not isinstance(input, LazyMap) or len(pad) > 2 * (input.ndim - 2) or value not in (None, 0):
        return NotImplemented
    if not any(pad):
        return input.like(input.parts)  # of its own, as torch's is
    return _resampled(input, lambda x: functional.pad(x, list(pad), mode=mode))


@handles("mean")
def mean(input: Any, dim: Any = None, keepdim: bool = False, **kwargs: Any) -> Any:
    """Compute the mean over all spatial axes."""
    dims = sorted(axis % input.ndim for axis in ([dim] if isinstance(dim, int) else dim or []))
    if kwargs or dims != list(range(2, input.ndim)) or not dims:
        return NotImplemented
    return _resampled(input, lambda x: x.mean(dims, keepdim=keepdim))


@handles("flatten")
def flatten(input: Any, start_dim: int = 0, end_dim: int = -1) -> Any:
    """Merge the spatial axes, or drop them where each has size 1."""
    if not isinstance(input, LazyMap) or input.channel_axis != 1:
        return NotImplemented
    shape = shape_of(input)
    start, end = start_dim % len(shape), end_dim % len(shape)
    if end != len(shape) - 1 or start not in (1, 2) or len(shape) < 3:
        return NotImplemented
    if start == 1 and math.prod(shape[2:]) > 1:
        return NotImplemented
    return input.link(_regrid(input, lambda x: x.flatten(start)))


@handles("swapaxes")
def swapaxes(input: Any, axis0: int, axis1: int) -> Any:
    """`transpose` by NumPy's names."""
    return transpose(input, axis0, axis1)


@handles("transpose")
def transpose(input: Any, dim0: int, dim1: int) -> Any:
    """Swap channels and positions: (batch, channels, positions) to (batch, positions, channels), or back."""
    if input.ndim != 3 or {dim0 % 3, dim1 % 3} != {1, 2}:
        return NotImplemented
    return input.link(LazyMap(input.parts, 3 - input.channel_axis, input.makers))


def _regrid(input: LazyMap, operation: OnSource) -> LazyMap:
    """Apply an operation on (batch, channels, *spatial) that only renumbers positions."""
    known: dict[Any, Any] = {}
    on_source = partial(on_channels_first, operation)
    return input.like(
        [
            map_sources(part, on_source, known) if is_pointwise(part) else resample(part, operation)
            for part in input.parts
        ]
    )
