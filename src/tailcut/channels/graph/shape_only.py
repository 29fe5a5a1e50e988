"""Shape-only forwards and backwards: products with weights give zeros of the right shape, at no cost.

Convolutions, matrix products, batch norms and activations are nearly all of a network's time. Whether a narrowed
network runs does not depend on what they give, so that they give zeros of the right shape here, and batch norm leaves
its statistics alone; all else is computed as ever. Sizes that do not fit are left to the operation, which says so.
Code that reads numbers (`.item()`, `nonzero`) may take another way with zeros: `ShapesOnly` notes that it did, and the
caller runs it again in full.
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

aten = torch.ops.aten
_NUMPY_TYPES = {torch.float32: np.float32, torch.float64: np.float64}

# Operations whose outcome, or the size of it, depends on numbers.
_READING = """
_local_scalar_dense nonzero nonzero_static masked_select equal is_nonzero allclose _unique2 unique_dim
unique_consecutive bincount repeat_interleave
"""
READING = {getattr(aten, name) for name in _READING.split() if hasattr(aten, name)}


class ShapesOnly(TorchDispatchMode):
    """Within the block convolutions, matrix products, batch norms and activations give zeros.

    Attributes:
        has_read: whether code read numbers within the block.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.has_read = False

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        self.has_read |= func.overloadpacket in READING
        return zeros_for(func, args, kwargs or {})


def attempt(run: Callable[[], Any], *, shapes_only: bool) -> Any:
    """Run a function for its shapes, and in full where it turns out to read numbers.

    Args:
        run: may run twice.
        shapes_only: False runs it in full at once.

    Returns:
        What the function gives.
    """
    mode = ShapesOnly() if shapes_only else None
    context: AbstractContextManager[object] = nullcontext() if mode is None else mode
    try:
        with context:
            result = run()
    except Exception:
        if mode is None or not mode.has_read:
            raise
    else:
        if mode is None or not mode.has_read:
            return result
    return run()


def zeros_for(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Return the result of an operation, with zeros of the same shape in place of a product."""
    rule = _RULES.get(func)
    found = rule(*args) if rule is not None and not kwargs and _is_plain(func, args) else None
    return func(*args, **kwargs) if found is None else found


def _is_plain(func: Any, args: tuple[Any, ...]) -> bool:
    """Return whether all tensors have one type and device, and the result lies in memory as the rule makes it."""
    tensors = [x for x in args if isinstance(x, Tensor)]
    first = tensors[0]
    is_channels_last = first.ndim == 4 and first.is_contiguous(memory_format=torch.channels_last)
    lies_well = func in _PRODUCTS or first.is_contiguous() or (func is _CONVOLUTION and is_channels_last)
    return lies_well and all(x.dtype == first.dtype and x.device == first.device for x in tensors)


def _suggests_channels_last(x: Tensor) -> bool:
    """Return what torch asks for the layout of a convolution's result: the strides of axes of size 1 count here."""
    least = 0
    for axis in (1, 3, 2, 0):
        if x.stride(axis) < least:
            return False
        least = x.stride(axis) * max(1, x.shape[axis])
    return True


def _zeros(x: Tensor, sizes: int | Sequence[int]) -> Tensor:
    """Return zeros of the type and on the device of `x`; on the CPU they take memory only once they are looked at."""
    kind = _NUMPY_TYPES.get(x.dtype) if x.device.type == "cpu" else None
    return x.new_zeros(sizes) if kind is None else torch.from_numpy(np.zeros(sizes, dtype=kind))


def _convolution(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    transposed: bool,
    output_padding: Sequence[int],
    groups: int,
) -> Tensor | None:
    num_axes = weight.ndim - 2
    if x.ndim != weight.ndim or not weight.is_contiguous():
        return None
    inner, outer = (0, 1) if transposed else (1, 0)
    num_inner = weight.shape[inner] * (1 if transposed else groups)
    num_outer = weight.shape[outer] * (groups if transposed else 1)
    if x.shape[1] != num_inner or num_outer % groups or (bias is not None and bias.shape != (num_outer,)):
        return None
    sizes = [x.shape[0], num_outer]
    for axis in range(num_axes):
        reach = dilation[axis % len(dilation)] * (weight.shape[2 + axis] - 1)
        step, pad = stride[axis % len(stride)], padding[axis % len(padding)]
        size = x.shape[2 + axis]
        if transposed:
            sizes.append((size - 1) * step - 2 * pad + reach + output_padding[axis % len(output_padding)] + 1)
        else:
            sizes.append((size + 2 * pad - reach - 1) // step + 1)
    if min(sizes) <= 0:
        return None
    if x.is_contiguous() or not _suggests_channels_last(x):
        return _zeros(x, sizes)
    return _zeros(x, (sizes[0], *sizes[2:], sizes[1])).movedim(-1, 1)


def _mm(first: Tensor, second: Tensor) -> Tensor | None:
    if first.shape[1] != second.shape[0]:
        return None
    return _zeros(first, (first.shape[0], second.shape[1]))


def _addmm(bias: Tensor, first: Tensor, second: Tensor) -> Tensor | None:
    found = _mm(first, second)
    return found if found is not None and bias.ndim == 1 and bias.shape[0] == found.shape[1] else None


def _bmm(first: Tensor, second: Tensor) -> Tensor | None:
    if first.shape[0] != second.shape[0] or first.shape[2] != second.shape[1]:
        return None
    return _zeros(first, (first.shape[0], first.shape[1], second.shape[2]))


def _convolution_backward(
    gradient: Tensor, x: Tensor, weight: Tensor, bias_sizes: Sequence[int] | None, *rest: Any
) -> tuple[Tensor | None, ...]:
    wanted = rest[-1]
    bias = _zeros(gradient, bias_sizes or gradient.shape[1]) if wanted[2] else None
    return (_zeros(x, x.shape) if wanted[0] else None, _zeros(weight, weight.shape) if wanted[1] else None, bias)


def _batch_norm(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    mean: Tensor | None,
    variance: Tensor | None,
    training: bool,
    *rest: Any,
) -> tuple[Tensor, Tensor, Tensor] | None:
    size = x.shape[1] if x.ndim > 1 else 0
    if not size or not _fit(size, weight, bias, mean, variance):
        return None
    saved = _zeros(x, size if training else 0)
    return _zeros(x, x.shape), saved, _zeros(saved, saved.shape)


def _batch_norm_backward(gradient: Tensor, x: Tensor, weight: Tensor | None, *rest: Any) -> tuple[Tensor | None, ...]:
    wanted = rest[-1]
    scale = _zeros(x, x.shape[1])
    return (
        _zeros(x, x.shape) if wanted[0] else None,
        scale if wanted[1] else None,
        _zeros(scale, scale.shape) if wanted[2] else None,
    )


def _fit(size: int, *vectors: Tensor | None) -> bool:
    return all(vector is None or vector.shape == (size,) for vector in vectors)


def _activation(x: Tensor, *rest: Any) -> Tensor:
    return _zeros(x, x.shape)


def _unchanged(x: Tensor, *rest: Any) -> Tensor:
    return x


_ACTIVATIONS = (
    *("relu", "hardtanh", "silu", "hardswish", "hardsigmoid"),
    *("sigmoid", "leaky_relu", "elu", "gelu", "mish"),
)

_CONVOLUTION = aten.convolution.default
_PRODUCTS = (aten.mm.default, aten.addmm.default, aten.bmm.default)  # lie in order, wherever their inputs lie

_RULES: dict[Any, Callable[..., Any]] = {
    **{getattr(aten, name).default: _activation for name in _ACTIVATIONS},
    **{getattr(aten, f"{name}_").default: _unchanged for name in _ACTIVATIONS},
    **{
        getattr(aten, f"{name}_backward").default: _activation
        for name in ("threshold", "hardtanh", "silu", "hardswish")
    },
    aten.native_batch_norm.default: _batch_norm,
    aten.native_batch_norm_backward.default: _batch_norm_backward,
    _CONVOLUTION: _convolution,
    aten.mm.default: _mm,
    aten.addmm.default: _addmm,
    aten.bmm.default: _bmm,
    aten.convolution_backward.default: _convolution_backward,
}
