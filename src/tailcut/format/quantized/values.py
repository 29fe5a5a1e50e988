"""Dequantisation: from the integers of a quantised tensor to its values and back, by steps and transforms."""

import math
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from tailcut.errors import ArgumentError
from tailcut.format.quantized.coder import MAX_MAGNITUDE, MAX_STEP, SHIFT, Coded, Layout, corrupt
from tailcut.transform import dct, idct

NONE, LOG2, DCT, KERNEL_DCT = range(4)
TRANSFORMS = ("none", "log2", "dct", "kernel dct")
"""What the numbers are of: the values, their logarithms, their DCT along all axes or along those from the third on."""

MAX_TRANSFORMED = 1 << 20
"""Places along an axis that is transformed."""

LEAST_LOGARITHM = 2.0**-40
"""Floor of values whose logarithms are rounded, 0 included: far below batch norm's epsilon."""

STEPS_PER_OCTAVE = 8
"""A file's steps are 2^(k / 8) with whole numbers k, which code and messages call eighths."""

# 2^(k / 8) as float64, so that every machine has the same.
_POWERS = tuple(
    float.fromhex(text)
    for text in (
        "0x1.0000000000000p+0",
        "0x1.172b83c7d517bp+0",
        "0x1.306fe0a31b715p+0",
        "0x1.4bfdad5362a27p+0",
        "0x1.6a09e667f3bcdp+0",
        "0x1.8ace5422aa0dbp+0",
        "0x1.ae89f995ad3adp+0",
        "0x1.d5818dcfba487p+0",
    )
)


class FineStepError(ArgumentError):
    """A number is more steps than are coded: a coarser step is needed."""


def step_size(step: int) -> float:
    """2^(step / 8)."""
    return math.ldexp(_POWERS[step % STEPS_PER_OCTAVE], step // STEPS_PER_OCTAVE)


def step_sizes(step: int, shape: Sequence[int], shifts: Mapping[int, np.ndarray]) -> Tensor:
    """Return the step at each number of a tensor, float64, flat; one number where they are all alike.

    Args:
        step: in eighths of an octave.
        shape: of the tensor.
        shifts: along its axes, see `Coded`; with them all steps must be within the range of a file.
    """
    if not shifts:
        return torch.tensor(step_size(step), dtype=torch.float64, device="cpu")
    places = np.full((1,) * len(shape), step + MAX_STEP, np.int32)  # of half the memory of the sizes
    for axis, shift in shifts.items():
        places = places + (SHIFT * shift).astype(np.int32).reshape(-1, *(1,) * (len(shape) - axis - 1))
    sizes = _STEP_SIZES[places]
    return torch.from_numpy(sizes).expand(tuple(shape)).reshape(-1)


_STEP_SIZES = np.array([step_size(step) for step in range(-MAX_STEP, MAX_STEP + 1)])


def largest_step(tensor: Coded) -> float:
    """Return the largest step of a tensor.

    Raises:
        CorruptFileError: its steps are out of the range of a file.
    """
    return step_size(_checked_ends(tensor)[1])


def _checked_ends(tensor: Coded) -> tuple[int, int]:
    """Return the least and the largest step of a tensor, in eighths of an octave, within the range of a file."""
    found = [shift for shift in tensor.shifts.values() if len(shift)]
    least, most = (tensor.step + SHIFT * sum(int(end(shift)) for shift in found) for end in (np.min, np.max))
    if least < -MAX_STEP or most > MAX_STEP:
        raise corrupt(f"steps of 2^({least} / 8) to 2^({most} / 8)")
    return least, most


def nearest_step(size: float) -> int:
    """Return the step nearest to a size in octaves, within the range of a file."""
    return min(max(round(STEPS_PER_OCTAVE * math.log2(size)), -MAX_STEP), MAX_STEP) if size > 0 else -MAX_STEP


def quantize(values: Tensor, layout: Layout, transform: int, step: int) -> Coded:
    """Values to the nearest whole numbers of steps.

    Args:
        values: finite, of the tensor's shape or flat, in the order of the layout; not below 0 for `LOG2`.
        layout: of the tensor.
        transform: one of `NONE` to `KERNEL_DCT`; `NONE` for coefficients.
        step: in eighths of an octave.

    Raises:
        FineStepError: the step is so fine that a number passes `MAX_MAGNITUDE`.
    """
    transformed = transform_of(values, layout, transform)
    return coded(transformed / step_size(step), transform, step, layout)


def coded(
    multiples: Tensor,
    transform: int,
    step: int,
    layout: Layout,
    shifts: Mapping[int, np.ndarray] | None = None,
    *,
    is_dependent: bool = False,
) -> Coded:
    """Return rounded multiples in the form that is coded: without their offset, if they have one, and trailing zeros.

    Args:
        multiples: of the step at each number, flat.
        transform: see `quantize`.
        step: likewise.
        layout: of the tensor.
        shifts: of the step along axes, see `Coded`.
        is_dependent: whether they are those of a trellis.

    Raises:
        FineStepError: a number passes `MAX_MAGNITUDE`.
    """
    largest = float(multiples.abs().max()) if multiples.numel() else 0.0
    if not largest <= MAX_MAGNITUDE // 2:  # the other half is for offsets
        raise FineStepError(
            f"a step of {step_size(step):.3g} is too fine for numbers up to {largest * step_size(step):.3g}: at most "
            f"{MAX_MAGNITUDE // 2} steps are coded"
        )
    numbers: np.ndarray = torch.round(multiples).to(torch.int64).numpy()
    offset = 0
    if layout.order is None and not (shifts or is_dependent) and transform in (NONE, LOG2) and len(numbers):
        middle = int(np.median(numbers))
        offset = middle if abs(middle) > 2 * int(np.abs(numbers - middle).mean()) else 0
    numbers = numbers - offset
    used = np.flatnonzero(numbers)
    num = int(used[-1]) + 1 if len(used) else 0
    if num < layout.size and num < MAX_MAGNITUDE:
        numbers = numbers[:num]
    shifts = shifts if len(used) else None  # zeros are zeros with any step
    return Coded(numbers, transform, step, offset, shifts=shifts or {}, is_dependent=is_dependent)


def transform_of(values: Tensor, layout: Layout, transform: int) -> Tensor:
    """Return the values to round, float64 and flat: `values` after the transform."""
    values = values.detach().to("cpu", torch.float64)
    if transform == LOG2:
        values = torch.log2(values.clamp(min=LEAST_LOGARITHM))
    elif transform in (DCT, KERNEL_DCT):
        values = dct(values.reshape(layout.shape), _axes(layout.shape, transform))
    return values.reshape(-1)


def dequantize(tensor: Coded, layout: Layout) -> Tensor:
    """Return the values, flat: float32, int64 for whole numbers.

    Raises:
        CorruptFileError: the transform does not fit the tensor, its steps are out of the range of a file, or a value is
            not finite.
    """
    if layout.is_integer:
        return torch.from_numpy(tensor.numbers)
    if layout.order is not None and tensor.transform != NONE:
        raise corrupt(f"transform {tensor.transform} of coefficients")
    if tensor.transform == KERNEL_DCT and len(layout.shape) < 3:
        raise corrupt(f"a transform along the kernel of a tensor of {len(layout.shape)} axes")
    if not is_short_enough(layout.shape, tensor.transform):
        raise corrupt(f"a transform along an axis of more than {MAX_TRANSFORMED:,} places")
    _checked_ends(tensor)
    numbers = torch.zeros(layout.size, dtype=torch.float64, device="cpu")
    numbers[: len(tensor.numbers)] = torch.from_numpy(tensor.numbers).double()
    values = numbers.add_(tensor.offset).mul_(step_sizes(tensor.step, layout.shape, tensor.shifts))
    if tensor.transform == LOG2:
        values = torch.exp2(values)
    elif tensor.transform in (DCT, KERNEL_DCT) and layout.size:
        values = idct(values.reshape(layout.shape), _axes(layout.shape, tensor.transform)).reshape(-1)
    values = values.float()
    if not bool(torch.isfinite(values).all()):
        raise corrupt("a value is not finite")
    return values


def kernel_transform(shape: Sequence[int]) -> int:
    """Return the transform of a weight that is rounded row by row: along its kernel, if it has one."""
    return KERNEL_DCT if len(shape) > 2 and is_short_enough(shape, KERNEL_DCT) else NONE


def is_short_enough(shape: Sequence[int], transform: int) -> bool:
    """Return whether a file may hold a tensor of this shape transformed so: longer axes take many times its memory."""
    return all(shape[axis] <= MAX_TRANSFORMED for axis in _axes(shape, transform))


def _axes(shape: Sequence[int], transform: int) -> tuple[int, ...]:
    return tuple(range({DCT: 0, KERNEL_DCT: 2}.get(transform, len(shape)), len(shape)))
