"""Decoding of a file's number streams to tensors."""

import math
from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import numpy as np
import torch
from torch import Tensor

from tailcut.errors import CorruptFileError
from tailcut.format import quantized
from tailcut.format.container.contents import Contents, StoredOther, Stream
from tailcut.format.container.numbers import INTEGERS, QUANTIZED, dtype_of, from_bytes
from tailcut.structure import CoefficientLayout, Coefficients
from tailcut.transform.order import corner_positions
from tailcut.weights.nested_levels import count_below

Kept = Coefficients | CoefficientLayout
"""A tensor kept as coefficients, described by a network or a file."""

CodedTensors = list[tuple[quantized.Layout, quantized.Coded]]
"""The tensors of a quantised stream, as whole numbers and steps, in its order."""


def decode_values(
    contents: Contents, kept: Sequence[Kept], others: Sequence[StoredOther], coded: CodedTensors | None = None
) -> tuple[list[Tensor], list[Tensor]]:
    """Return the numbers of a file: one vector per tensor kept as coefficients, and the other tensors.

    Args:
        contents: of the file.
        kept: the tensors kept as coefficients.
        others: the other tensors; their total was checked before.
        coded: what `decode_quantized` gave for them, where it was called before.

    Raises:
        CorruptFileError: a payload does not hold just these numbers.
    """
    if coded is None:
        coded = decode_quantized(contents, kept, others)
    found = [quantized.dequantize(tensor, layout) for layout, tensor in coded]
    num_vectors = len(kept) if contents.has_quantized_coefficients else 0
    vectors = found[:num_vectors] if num_vectors else _plain_vectors(contents, kept)
    rest = dict(zip(quantized_places(contents), found[num_vectors:], strict=True))
    for level in contents.levels:
        for stream in level.other_streams:
            rest |= _plain_others(contents, stream, others)
    return vectors, [rest[place].reshape(other.shape) for place, other in enumerate(others)]


def _plain_others(contents: Contents, stream: Stream, others: Sequence[StoredOther]) -> dict[int, Tensor]:
    """Return the tensors of a stream by their places; none if it is quantised."""
    if stream.type_number == QUANTIZED:
        return {}
    members = [place for place, number in enumerate(contents.other_types) if number == stream.type_number]
    sizes = [math.prod(others[place].shape) for place in members]
    numbers = from_bytes(stream.decode(sum(sizes)), dtype_of(stream.type_number))
    return dict(zip(members, numbers.split(sizes), strict=True))


def counts_by_level(contents: Contents, counts: Sequence[int]) -> list[list[int]]:
    """Return how many coefficients each tensor has in each level that was read, from the counts in the highest."""
    found = [list(counts)]
    for parts in reversed(contents.parts[: len(contents.added)]):
        found.append([count_below(count, parts) for count in found[-1]])
    return found[::-1]


def quantized_places(contents: Contents) -> list[int]:
    """Return the indices of the other tensors that are in the quantised stream."""
    return [place for place, number in enumerate(contents.other_types) if number in (QUANTIZED, INTEGERS)]


def quantized_others(contents: Contents, others: Sequence[StoredOther]) -> list[quantized.Layout]:
    """Of the tensors in the quantised stream that are stored whole, in its order."""
    return [
        layout_of_other(others[place].name, others[place].shape, is_integer=contents.other_types[place] == INTEGERS)
        for place in quantized_places(contents)
    ]


def layout_of_kept(entry: Kept, size: int | None = None) -> quantized.Layout:
    """Return the layout of the coefficients of a tensor: all that are kept, or the first `size` of them."""
    return quantized.Layout("", entry.shape, entry.num_kept if size is None else size, order=partial(_order, entry))


def layout_of_other(name: str, shape: tuple[int, ...], *, is_integer: bool) -> quantized.Layout:
    """Return the layout of a tensor that is stored whole; tensors with the same last name resemble each other."""
    return quantized.Layout(name.rpartition(".")[2], shape, math.prod(shape), is_integer=is_integer)


def _order(entry: Kept, num: int) -> tuple[np.ndarray, tuple[int, ...]]:
    return corner_positions(entry.shape, num, axes=entry.axes, weights=entry.order_weights)


def decode_quantized(contents: Contents, kept: Sequence[Kept], others: Sequence[StoredOther]) -> CodedTensors:
    """Return the integers of the quantised stream, in its order; none without one.

    Raises:
        CorruptFileError: the payload does not hold just these.
    """
    if (contents.coefficients is not None) != bool(kept):
        raise CorruptFileError("coefficients without regularised tensors, or the other way round")
    whole = quantized_others(contents, others)
    if contents.has_quantized_coefficients:
        return _decode_levels(contents, kept, whole)
    found: CodedTensors = []
    for level in contents.levels:
        for stream in level.other_streams:
            if stream.type_number == QUANTIZED:
                found = list(zip(whole, quantized.decode(stream.payload, whole, stream.codec_number), strict=True))
    return found


def _decode_levels(contents: Contents, kept: Sequence[Kept], whole: Sequence[quantized.Layout]) -> CodedTensors:
    """Return coefficients and other tensors, where one stream has them all."""
    sizes = counts_by_level(contents, [entry.num_kept for entry in kept])
    layouts = [[layout_of_kept(entry, size) for entry, size in zip(kept, row, strict=True)] for row in sizes]
    codec = contents.coefficients.codec_number if contents.coefficients is not None else quantized.NUMBERS[0]
    decoder = quantized.Decoder([*layouts[-1], *whole], codec)
    vectors: list[quantized.Coded] = []
    rest: list[quantized.Coded] = []
    for number, (level, row) in enumerate(zip(contents.levels, layouts, strict=True)):
        payload = b"" if level.coefficients is None else level.coefficients.payload
        below = [padded(tensor, size) for tensor, size in zip(vectors, sizes[number - 1], strict=False)]
        found = decoder.level(payload, [*row, *(whole if level.has_others else ())], below)
        vectors, rest = found[: len(row)], found[len(row) :] if level.has_others else rest
    return list(zip([*layouts[-1], *whole], [*vectors, *rest], strict=True))


def padded(tensor: quantized.Coded, size: int) -> quantized.Coded:
    """Return a tensor of coefficients with the zeros at its end."""
    return replace(tensor, numbers=np.pad(tensor.numbers, (0, size - len(tensor.numbers))))


def _plain_vectors(contents: Contents, kept: Sequence[Kept]) -> list[Tensor]:
    if contents.coefficients is None:
        return []
    dtype = dtype_of(contents.coefficients.type_number)
    if not dtype.is_floating_point:
        raise CorruptFileError(f"coefficients of type {dtype} are no real numbers")
    known, lower = b"", [0] * len(kept)
    parts: list[list[Tensor]] = [[] for _ in kept]
    for level, counts in zip(contents.levels, counts_by_level(contents, [e.num_kept for e in kept]), strict=True):
        more = [count - before for count, before in zip(counts, lower, strict=True)]
        content = b"" if level.coefficients is None else level.coefficients.decode(sum(more), known)
        numbers = from_bytes(content, dtype)
        if not bool(torch.isfinite(numbers).all()):
            raise CorruptFileError("a coefficient is not finite")
        for part, values in zip(parts, numbers.split(more), strict=True):
            part.append(values)
        known, lower = known + content, counts
    return [torch.cat(part) if len(part) > 1 else part[0] for part in parts]
