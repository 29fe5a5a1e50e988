"""Number arrays in payloads: little-endian, bit for bit, of the types below."""

import logging
import sys
from collections.abc import Iterable

import torch

from tailcut.errors import ArgumentError, CorruptFileError, UnsupportedVersionError

_log = logging.getLogger(__name__)

# Number in the file -> type. Only ever append.
NUMBER_TYPES: dict[int, torch.dtype] = {
    0: torch.float32,
    1: torch.float16,
    2: torch.bfloat16,
    3: torch.float64,
    4: torch.int64,
    5: torch.int32,
    6: torch.int16,
    7: torch.int8,
    8: torch.uint8,
    9: torch.bool,
}
LARGEST_NUMBER_BYTES = 8
# Version 2 has two more: numbers of one payload of codecs 3 to 5, quantised floats and whole numbers as they are.
QUANTIZED, INTEGERS = 10, 11
_NUMBERS = {dtype: number for number, dtype in NUMBER_TYPES.items()}
QUANTIZED_DTYPE = "quantized"
FLOAT_DTYPES = {
    "float32": torch.float32,
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
    "float64": torch.float64,
}


def type_number(dtype: torch.dtype, *, name: str) -> int:
    """Return the number of a type in files; `ArgumentError` if tensors of it cannot be stored."""
    if dtype not in _NUMBERS:
        raise ArgumentError(f"{name}: tensors of type {dtype} cannot be stored; convert it to one of {_known()}")
    return _NUMBERS[dtype]


def dtype_of(number: int) -> torch.dtype:
    """Return the dtype with this number; raise `UnsupportedVersionError` if it is unknown."""
    known = {**NUMBER_TYPES, QUANTIZED: torch.float32, INTEGERS: torch.int64}
    if number not in known:
        raise UnsupportedVersionError(f"unknown number type {number}; the file may need a newer version of tailcut")
    return known[number]


def number_type_name(number: int) -> str:
    """Return the name of a number type in reports."""
    return {QUANTIZED: "quantized", INTEGERS: "integers"}.get(number) or type_name(dtype_of(number))


def float_type(dtype: str | torch.dtype) -> torch.dtype:
    """Return the dtype with this name, or itself; raise `ArgumentError`, which lists the known names."""
    if isinstance(dtype, torch.dtype) and dtype in FLOAT_DTYPES.values():
        return dtype
    if not isinstance(dtype, str) or dtype not in FLOAT_DTYPES:
        raise ArgumentError(f"dtype must be one of {', '.join([*FLOAT_DTYPES, QUANTIZED_DTYPE])}, got {dtype!r}")
    return FLOAT_DTYPES[dtype]


def type_name(dtype: torch.dtype) -> str:
    """`torch.float16` -> "float16"."""
    return str(dtype).removeprefix("torch.")


def to_bytes(values: torch.Tensor, dtype: torch.dtype, *, name: str) -> bytes:
    """Return the numbers of `values` as little-endian bytes of type `dtype`, in row-major order.

    Raises:
        ArgumentError: a finite number would become infinite.
    """
    values = values.detach().cpu()
    largest = overflowing(values, dtype)
    if largest is not None:
        raise ArgumentError(f"{name}: {largest:.3g} does not fit into {type_name(dtype)}; use {_wider(largest)}")
    _warn_of_vanishing(values, dtype, name)
    converted = values.to(dtype).contiguous()
    return _little_endian(converted.reshape(-1).view(torch.uint8), dtype).numpy().tobytes()


def _wider(largest: float) -> str:
    """Return the words for the narrowest types that hold so large a number."""
    fit = [dtype for dtype in (torch.bfloat16, torch.float32, torch.float64) if largest <= torch.finfo(dtype).max]
    return " or ".join(map(type_name, fit[:2]))


def overflowing(values: torch.Tensor, dtype: torch.dtype) -> float | None:
    """Return the largest magnitude of finite `values` if `dtype` has no such number; None if all fit.

    Args:
        values: of any shape, with memory.
        dtype: the type they shall get.
    """
    if values.is_complex() and dtype.is_complex:
        return overflowing(torch.view_as_real(values.resolve_conj()), dtype.to_real())
    if values.is_complex() or dtype.is_complex:
        return None
    if not values.is_floating_point() and not dtype.is_floating_point and values.numel():
        least, most = (0, 1) if dtype == torch.bool else (torch.iinfo(dtype).min, torch.iinfo(dtype).max)
        # NumPy knows the least and the largest of unsigned numbers of more than 8 bits, too.
        whole = values.detach().cpu().resolve_neg().numpy()
        low, high = int(whole.min()), int(whole.max())
        return None if least <= low and high <= most else float(high if high > most else low)
    if not (values.is_floating_point() and dtype.is_floating_point):
        return None
    if torch.finfo(dtype).max >= torch.finfo(values.dtype).max:
        return None
    finite = values[torch.isfinite(values)]
    largest = finite.abs().max() if finite.numel() else values.new_zeros(())
    # Through float64: types of 8 bits cannot be asked themselves.
    return None if bool(largest.to(dtype).double().isfinite()) else float(largest)


def can_hold(own: torch.dtype, number: int) -> bool:
    """Return whether a network's tensor can hold the file's number type."""
    stored = dtype_of(number)
    if number == INTEGERS:
        return not (own.is_floating_point or own.is_complex)
    return stored == own or (stored.is_floating_point and own.is_floating_point)


def needs_double(values: Iterable[torch.Tensor]) -> bool:
    """Return whether a network with these numbers was in float64: all floats are, and float32 lacks some of them."""
    floats = [value for value in values if value.is_floating_point()]
    if any(value.dtype != torch.float64 for value in floats):
        return False
    return any(not torch.equal(value.float().double().nan_to_num(), value.nan_to_num()) for value in floats)


def has_non_finite(name: str, values: torch.Tensor, *, is_parameter: bool) -> bool:
    """Return whether a tensor holds NaN or infinity; False on the meta device.

    NaN does anywhere. Infinities do in parameters and in running statistics; other buffers (masks) may have them.
    """
    if values.is_meta or not (values.is_floating_point() or values.is_complex()):
        return False
    values = values.detach()  # of a network made under inference mode torch asks no other
    # What eight bits hold cannot be asked itself.
    values = values.double() if values.is_floating_point() and values.itemsize == 1 else values
    may_be_infinite = not (is_parameter or name.rpartition(".")[2].startswith("running_"))
    return bool(values.isnan().any()) if may_be_infinite else not bool(values.isfinite().all())


def _warn_of_vanishing(values: torch.Tensor, dtype: torch.dtype, name: str) -> None:
    """Say so if all numbers are so small that `dtype` has only some of their digits, or none."""
    if not (values.is_floating_point() and dtype.is_floating_point and values.numel()):
        return
    least = torch.finfo(dtype).tiny
    if least <= torch.finfo(values.dtype).tiny:
        return
    largest = float(values.abs().max())
    if 0 < largest < least:
        _log.warning(
            "%s: its numbers, at most %.3g, are too small for %s, which loses digits below %.1g; use bfloat16 or more",
            name,
            largest,
            type_name(dtype),
            least,
        )


def from_bytes(content: bytes, dtype: torch.dtype) -> torch.Tensor:
    """Return the numbers of little-endian bytes, as a 1-D tensor on the CPU: the inverse of `to_bytes`."""
    if not content:
        return torch.empty(0, dtype=dtype, device="cpu")
    raw = torch.frombuffer(bytearray(content), dtype=torch.uint8)
    if dtype == torch.bool and bool((raw > 1).any()):
        raise CorruptFileError("a bool is neither 0 nor 1")
    return _little_endian(raw, dtype).view(dtype)


def _little_endian(raw: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Bytes of numbers from this machine's order to that of files, or back."""
    if sys.byteorder == "little" or dtype.itemsize == 1:
        return raw
    return raw.reshape(-1, dtype.itemsize).flip(1).reshape(-1)


def _known() -> str:
    return ", ".join(type_name(dtype) for dtype in NUMBER_TYPES.values())
