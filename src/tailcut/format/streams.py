"""Decoding of a file's number streams to tensors."""

import math
from collections.abc import Sequence
from functools import partial
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from tailcut.errors import CorruptFileError
from tailcut.format import quantized
from tailcut.format.container import Contents
from tailcut.format.numbers import INTEGERS, QUANTIZED, from_bytes, number_type
from tailcut.transform.order import corner_positions


class Kept(Protocol):
    """A tensor kept as coefficients, described by a network or a file; see `tailcut.structure.Coefficients`."""

    @property
    def name(self) -> str:
        """Its plain name."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the dense tensor."""

    @property
    def axes(self) -> tuple[int, ...]:
        """The transformed axes."""

    @property
    def order_weights(self) -> tuple[int, ...]:
        """One per transformed axis."""

    @property
    def num_kept(self) -> int:
        """Number of coefficients."""


NamedShape = tuple[str, tuple[int, ...]]


def decode_values(
    contents: Contents, kept: Sequence[Kept], others: Sequence[NamedShape]
) -> tuple[list[Tensor], list[Tensor]]:
    """Return the numbers of a file: one vector per tensor kept as coefficients, and the other tensors.

    Args:
        contents: of the file.
        kept: the tensors kept as coefficients.
        others: name and shape of the other tensors; their total was checked before.

    Raises:
        CorruptFileError: a payload does not hold just these numbers.
    """
    if (contents.coefficients is not None) != bool(kept):
        raise CorruptFileError("coefficients without regularised tensors, or the other way round")
    found = [quantized.dequantize(tensor, layout) for layout, tensor in decode_quantized(contents, kept, others)]
    num_vectors = len(kept) if contents.has_quantized_coefficients else 0
    vectors = found[:num_vectors] if num_vectors else _plain_vectors(contents, kept)
    rest = dict(zip(quantized_places(contents), found[num_vectors:], strict=True))
    for stream in contents.other_streams:
        if stream.type_number == QUANTIZED:
            continue
        members = [place for place, number in enumerate(contents.other_types) if number == stream.type_number]
        sizes = [math.prod(others[place][1]) for place in members]
        numbers = from_bytes(stream.decode(sum(sizes)), number_type(stream.type_number))
        rest |= zip(members, numbers.split(sizes), strict=True)
    return vectors, [rest[place].reshape(shape) for place, (_, shape) in enumerate(others)]


def quantized_places(contents: Contents) -> list[int]:
    """Return the indices of the other tensors that are in the quantised stream."""
    return [place for place, number in enumerate(contents.other_types) if number in (QUANTIZED, INTEGERS)]


def quantized_layouts(contents: Contents, kept: Sequence[Kept], others: Sequence[NamedShape]) -> list[quantized.Layout]:
    """Of all tensors in the quantised stream, in its order."""
    layouts = [layout_of_kept(entry) for entry in kept] if contents.has_quantized_coefficients else []
    for place in quantized_places(contents):
        layouts.append(layout_of_other(*others[place], is_integer=contents.other_types[place] == INTEGERS))
    return layouts


def layout_of_kept(entry: Kept) -> quantized.Layout:
    """Return the layout of the coefficients of a tensor."""
    return quantized.Layout("", entry.shape, entry.num_kept, order=partial(_order, entry))


def layout_of_other(name: str, shape: tuple[int, ...], *, is_integer: bool) -> quantized.Layout:
    """Return the layout of a tensor that is stored whole; tensors with the same last name resemble each other."""
    return quantized.Layout(name.rpartition(".")[2], shape, math.prod(shape), is_integer=is_integer)


def _order(entry: Kept, num: int) -> tuple[np.ndarray, tuple[int, ...]]:
    return corner_positions(entry.shape, num, axes=entry.axes, weights=entry.order_weights)


def decode_quantized(
    contents: Contents, kept: Sequence[Kept], others: Sequence[NamedShape]
) -> list[tuple[quantized.Layout, quantized.Coded]]:
    """Return the integers of the quantised stream, in its order; none without one.

    Raises:
        CorruptFileError: the payload does not hold just these.
    """
    stream = contents.quantized_stream
    if stream is None:
        return []
    layouts = quantized_layouts(contents, kept, others)
    return list(zip(layouts, quantized.decode(stream.payload, layouts), strict=True))


def _plain_vectors(contents: Contents, kept: Sequence[Kept]) -> list[Tensor]:
    if contents.coefficients is None:
        return []
    dtype = number_type(contents.coefficients.type_number)
    if not dtype.is_floating_point:
        raise CorruptFileError(f"coefficients of type {dtype} are no real numbers")
    counts = [entry.num_kept for entry in kept]
    numbers = from_bytes(contents.coefficients.decode(sum(counts)), dtype)
    if not bool(torch.isfinite(numbers).all()):
        raise CorruptFileError("a coefficient is not finite")
    return list(numbers.split(counts))
