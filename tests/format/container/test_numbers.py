import struct
import sys

import pytest
import torch

from tailcut.errors import ArgumentError, CorruptFileError, UnsupportedVersionError
from tailcut.format.container.numbers import (
    FLOAT_DTYPES,
    LARGEST_NUMBER_BYTES,
    NUMBER_TYPES,
    dtype_of,
    float_type,
    from_bytes,
    overflowing,
    to_bytes,
    type_name,
    type_number,
)

# Python's own encoding of each type, as an oracle.
STRUCT_CODES = {
    torch.float32: "f",
    torch.float16: "e",
    torch.float64: "d",
    torch.int64: "q",
    torch.int32: "i",
    torch.int16: "h",
    torch.int8: "b",
    torch.uint8: "B",
    torch.bool: "?",
}


@pytest.mark.parametrize("dtype", STRUCT_CODES, ids=type_name)
def test_numbers_lie_little_endian(dtype: torch.dtype) -> None:
    values = torch.tensor([[0, 1], [2, 101]]).to(dtype)
    content = struct.pack(f"<4{STRUCT_CODES[dtype]}", *values.flatten().tolist())
    assert to_bytes(values, dtype, name="x") == content
    assert torch.equal(from_bytes(content, dtype), values.flatten())


def test_bfloat16_is_the_upper_half_of_a_float32() -> None:
    values = torch.tensor([1.0, -2.5, 3.140625], dtype=torch.bfloat16)
    halves = [struct.pack("<f", value)[2:] for value in values.tolist()]
    assert to_bytes(values, torch.bfloat16, name="x") == b"".join(halves)
    assert torch.equal(from_bytes(b"".join(halves), torch.bfloat16), values)


@pytest.mark.parametrize("dtype", NUMBER_TYPES.values(), ids=type_name)
def test_big_endian_machines_swap_bytes(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    values = torch.tensor([0, 1, 1, 77]).to(dtype)
    own = to_bytes(values, dtype, name="x")
    monkeypatch.setattr(sys, "byteorder", "big")
    swapped = to_bytes(values, dtype, name="x")
    items = [own[place : place + dtype.itemsize][::-1] for place in range(0, len(own), dtype.itemsize)]
    assert swapped == b"".join(items)
    assert torch.equal(from_bytes(swapped, dtype), values)


def test_types_have_their_numbers_for_ever() -> None:
    names = ["float32", "float16", "bfloat16", "float64", "int64", "int32", "int16", "int8", "uint8", "bool"]
    assert {number: type_name(dtype) for number, dtype in NUMBER_TYPES.items()} == dict(enumerate(names))
    assert [type_number(dtype_of(number), name="x") for number in range(10)] == list(range(10))
    assert max(dtype.itemsize for dtype in NUMBER_TYPES.values()) == LARGEST_NUMBER_BYTES
    assert all(float_type(dtype) == float_type(name) for name, dtype in FLOAT_DTYPES.items())
    assert {float_type(dtype) for dtype in FLOAT_DTYPES} == {d for d in NUMBER_TYPES.values() if d.is_floating_point}


def test_unknown_types_are_named() -> None:
    for number in (12, 15, 255):
        with pytest.raises(UnsupportedVersionError, match=f"unknown number type {number}; .* newer version"):
            dtype_of(number)
    with pytest.raises(ArgumentError, match=r"fc\.weight: tensors of type torch\.complex64 .* float32, .*, bool"):
        type_number(torch.complex64, name="fc.weight")
    with pytest.raises(
        ArgumentError, match="dtype must be one of float32, float16, bfloat16, float64, quantized, got 'half'"
    ):
        float_type("half")
    with pytest.raises(ArgumentError, match=r"got torch\.int8"):
        float_type(torch.int8)


def test_rows_come_before_columns_whatever_the_strides() -> None:
    values = torch.arange(24.0).reshape(2, 3, 4)
    images = torch.arange(16.0).reshape(1, 2, 2, 4).contiguous(memory_format=torch.channels_last)
    for tensor in (values.transpose(0, 2), values[:, ::2], images):
        assert (
            from_bytes(to_bytes(tensor, torch.float32, name="x"), torch.float32).tolist() == tensor.flatten().tolist()
        )


@pytest.mark.parametrize("shape", [(), (0,), (3, 0, 2), (1, 1)])
def test_scalars_and_empty_tensors(shape: tuple[int, ...]) -> None:
    values = torch.full(shape, 0.5)
    assert torch.equal(from_bytes(to_bytes(values, torch.float16, name="x"), torch.float16), values.half().flatten())


def test_rounding_is_to_nearest_even() -> None:
    values = torch.tensor([2049.0, 2051.0, -0.0, 1e-8, 5e-8])
    expected = [struct.unpack("<e", struct.pack("<e", value))[0] for value in values.tolist()]
    assert from_bytes(to_bytes(values, torch.float16, name="x"), torch.float16).tolist() == expected


@pytest.mark.parametrize(
    ("value", "dtype", "fits"),
    [
        (65504.0, torch.float16, True),
        (65519.0, torch.float16, True),
        (65520.0, torch.float16, False),
        (-70_000.0, torch.float16, False),
        (float("inf"), torch.float16, True),
        (float("nan"), torch.float16, True),
        (1e39, torch.float32, False),
        (3.4e38, torch.bfloat16, False),
        (3.3e38, torch.bfloat16, True),
    ],
)
def test_what_would_become_infinite_is_refused(value: float, dtype: torch.dtype, fits: bool) -> None:
    values = torch.tensor([1.0, value], dtype=torch.float64)
    if fits:
        assert len(to_bytes(values, dtype, name="x")) == 2 * dtype.itemsize
    else:
        wider = {torch.float16: "bfloat16 or float32", torch.bfloat16: "float32 or float64", torch.float32: "float64"}
        with pytest.raises(ArgumentError, match=f"x: .* does not fit into {type_name(dtype)}; use {wider[dtype]}$"):
            to_bytes(values, dtype, name="x")


def test_bools_are_0_or_1() -> None:
    with pytest.raises(CorruptFileError, match="a bool is neither 0 nor 1"):
        from_bytes(b"\0\1\2", torch.bool)


@pytest.mark.parametrize(
    ("numbers", "stored", "own", "expected"),
    [
        ([1.0, -1e5, float("inf")], torch.float32, torch.float16, 1e5),
        ([65_519.0, float("nan")], torch.float32, torch.float16, None),
        ([65_520.0], torch.float32, torch.float16, 65_520.0),
        ([1e5], torch.float32, torch.bfloat16, None),
        ([1e300], torch.float64, torch.float32, 1e300),
        ([float("inf"), float("nan")], torch.float32, torch.float16, None),
        ([], torch.float32, torch.float16, None),
        ([70_000], torch.int64, torch.float16, None),
    ],
)
def test_numbers_that_a_type_cannot_hold(
    numbers: list[float], stored: torch.dtype, own: torch.dtype, expected: float | None
) -> None:
    assert overflowing(torch.tensor(numbers, dtype=stored), own) == expected


@pytest.mark.parametrize(
    ("largest", "dtype", "told"),
    [
        (3e-9, torch.float16, True),
        (-6e-5, torch.float16, True),
        (7e-5, torch.float16, False),
        (0.0, torch.float16, False),
        (3e-9, torch.bfloat16, False),
        (3e-9, torch.float32, False),
    ],
)
def test_numbers_too_small_for_a_type_are_reported(
    largest: float, dtype: torch.dtype, told: bool, caplog: pytest.LogCaptureFixture
) -> None:
    to_bytes(torch.tensor([0.0, largest, largest / 3]), dtype, name="fc.weight")
    assert ("fc.weight: its numbers, at most" in caplog.text) is told
