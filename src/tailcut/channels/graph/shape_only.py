"""Shape-only forwards and backwards: products with weights give zeros of the right shape, at no cost.

Convolutions, matrix products, batch norms and activations are nearly all of a network's time. Whether a narrowed
network runs does not depend on what they give, so that they give zeros of the right shape here, and batch norm leaves
its statistics alone; all else is computed as ever. Sizes that do not fit are left to the operation, which says so.
Code that reads numbers (`.item()`, `nonzero`) may take another way with zeros: `ShapesOnly` notes that it did, and the
caller runs it again in full.
"""

import functools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from tailcut.channels.graph.memory_layout import Layout

aten = torch.ops.aten
_NUMPY_TYPES = {torch.float32: np.float32, torch.float64: np.float64}

# Operations whose outcome, or the size of it, depends on numbers.
_READING = """
_local_scalar_dense nonzero nonzero_static masked_select equal is_nonzero allclose _unique2 unique_dim
unique_consecutive bincount repeat_interleave
"""
READING = {getattr(aten, name) for name in _READING.split() if hasattr(aten, name)}
# What gives a tensor's numbers to Python without an operation.
_TO_PYTHON = {Tensor.tolist, Tensor.numpy, Tensor.__array__}


def reads_numbers(func: Any, args: tuple[Any, ...]) -> bool:
    """Return whether an operation's outcome, or the size of it, depends on numbers."""
    if func.overloadpacket is aten.index:  # by a mask it gives as many rows as the mask says
        return any(isinstance(x, Tensor) and x.dtype in (torch.bool, torch.uint8) for x in args[1])
    return func.overloadpacket in READING


class ToPython(TorchFunctionMode):
    """Within the block, tells of tensors whose numbers go to Python: `tolist`, `numpy`.

    Args:
        told: is called with each.
    """

    def __init__(self, told: Callable[[Tensor], None]) -> None:
        super().__init__()
        self._told = told

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func in _TO_PYTHON:
            self._told(args[0])
        return func(*args, **(kwargs or {}))


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
        self.has_read |= reads_numbers(func, args)
        return zeros_for(func, args, kwargs or {})

    def note_read(self, x: Tensor) -> None:
        """Note that a tensor's numbers were read."""
        self.has_read = True


def attempt(run: Callable[[], Any], *, shapes_only: bool) -> Any:
    """Run a function for its shapes, and in full where it turns out to read numbers.

    Args:
        run: may run twice.
        shapes_only: False runs it in full at once.

    Returns:
        What the function gives.
    """
    if shapes_only:
        mode = ShapesOnly()
        try:
            with ToPython(mode.note_read), mode:
                result = run()
        except Exception:
            if not mode.has_read:
                raise
        else:
            if not mode.has_read:
                return result
    return run()


def zeros_for(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Return the result of an operation, with zeros of the same shape in place of a product."""
    if kwargs or not _is_plain(func, args):
        return func(*args, **kwargs)
    if func in _IN_PLACE:
        return args[0]
    dtype, device = args[0].dtype, args[0].device
    try:
        layouts = _layouts(func, dtype, *map(_hashable, args))
    except (RuntimeError, ValueError, IndexError):  # of sizes that do not fit: on the CPU it has other words
        return func(*args)
    found = [None if layout is None else _zeros(layout, dtype, device) for layout in layouts]
    return tuple(found) if len(found) > 1 else found[0]


def _hashable(value: Any) -> Any:
    if isinstance(value, Tensor):
        return Layout.of(value)
    return tuple(value) if isinstance(value, list) else value


@functools.lru_cache(maxsize=1 << 12)
def _layouts(func: Any, dtype: torch.dtype, *args: Any) -> list[Layout | None]:
    """Return how the results of an operation lie in memory; raise where its sizes do not fit."""
    given = [
        torch.empty_strided(x.sizes, x.strides, dtype=dtype, device="meta") if isinstance(x, Layout) else x
        for x in args
    ]
    made = func(*given)
    if func is _CONVOLUTION:
        x, _, bias, *_, groups = given
        if made.shape[1] % groups or (bias is not None and bias.shape != made.shape[1:2]):
            raise ValueError("the outputs do not fit the groups or the bias")
        if not x.is_contiguous() and _suggests_channels_last(x):
            made = made.contiguous(memory_format=torch.channels_last)
    return [None if x is None else Layout.of(x) for x in (made if isinstance(made, tuple) else [made])]


def _is_plain(func: Any, args: tuple[Any, ...]) -> bool:
    """Return whether its result need not be computed: all tensors have one type and device, and lie in order."""
    if func not in _SKIPPED:
        return False
    tensors = [x for x in args if isinstance(x, Tensor)]
    first = tensors[0]
    if func is _CONVOLUTION:
        lies_well = tensors[1].is_contiguous() and (first.is_contiguous() or _is_channels_last(first))
    else:
        lies_well = func in _PRODUCTS or first.is_contiguous()
    return lies_well and all(x.dtype == first.dtype and x.device == first.device for x in tensors)


def _is_channels_last(x: Tensor) -> bool:
    return x.ndim == 4 and x.is_contiguous(memory_format=torch.channels_last)


def _suggests_channels_last(x: Tensor) -> bool:
    """Return what torch asks for the layout of a convolution's result: the strides of axes of size 1 count here."""
    least = 0
    for axis in (1, 3, 2, 0):
        if x.stride(axis) < least:
            return False
        least = x.stride(axis) * max(1, x.shape[axis])
    return True


def _zeros(layout: Layout, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Return zeros; on the CPU they take memory only once they are looked at."""
    kind, size = _NUMPY_TYPES.get(dtype) if device.type == "cpu" else None, math.prod(layout.sizes)
    zeros = torch.zeros(size, dtype=dtype, device=device) if kind is None else torch.from_numpy(np.zeros(size, kind))
    return zeros.as_strided(layout.sizes, layout.strides)


_ACTIVATIONS = (
    *("relu", "hardtanh", "silu", "hardswish", "hardsigmoid"),
    *("sigmoid", "leaky_relu", "elu", "gelu", "mish"),
)
_CONVOLUTION = aten.convolution.default
_PRODUCTS = (aten.mm.default, aten.addmm.default, aten.bmm.default)  # lie in order, wherever their inputs lie
_IN_PLACE = {getattr(aten, f"{name}_").default for name in _ACTIVATIONS}
_SKIPPED = {
    *_IN_PLACE,
    *(getattr(aten, name).default for name in _ACTIVATIONS),
    *(getattr(aten, f"{name}_backward").default for name in ("threshold", "hardtanh", "silu", "hardswish")),
    *(aten.native_batch_norm.default, aten.native_batch_norm_backward.default),
    *(_CONVOLUTION, aten.convolution_backward.default, *_PRODUCTS),
}
