"""Streams of a network's numbers, level by level."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch

from tailcut.errors import ArgumentError
from tailcut.format import codecs, quantized
from tailcut.format.container.contents import Stream
from tailcut.format.container.numbers import to_bytes, type_number
from tailcut.format.container.streams import layout_of_kept
from tailcut.format.encoder.quantization import Rounding
from tailcut.format.network.levels import NetworkLevel
from tailcut.format.network.tensors import NetworkTensors, OtherTensor


def coefficient_streams(levels: Sequence[NetworkLevel], dtype: torch.dtype) -> list[Stream]:
    """Return the stream of each level's further coefficients; none for a network without coefficients.

    Raises:
        ArgumentError: a coefficient is not finite, or does not fit into the type.
    """
    top = levels[-1].tensors.coefficients
    for entry in top:
        if not bool(torch.isfinite(entry.values).all()):
            raise ArgumentError(
                f"{entry.name} has coefficients that are not finite; one of them spoils the whole tensor"
            )
    vectors = [to_bytes(entry.values, dtype, name=entry.name) for entry in top]
    streams, known, done = [], b"", [0] * len(top)
    for level in levels if top else ():
        counts = [entry.num_kept * dtype.itemsize for entry in level.tensors.coefficients]
        content = b"".join(vector[start:stop] for vector, start, stop in zip(vectors, done, counts, strict=True))
        codec_number, payload = codecs.best(content, dtype.itemsize, known)
        streams.append(Stream(type_number(dtype, name="coefficients"), codec_number, payload))
        known, done = known + content, counts
    return streams


def quantized_payloads(levels: Sequence[NetworkLevel], rounding: Rounding, step: float) -> list[tuple[int, bytes]]:
    """Return codec and payload of each level at a step; of a level that adds nothing quantised an empty payload.

    Args:
        levels: of the network.
        rounding: of its highest level.
        step: see `Rounding`.

    Raises:
        FineStepError: the step is too fine for a tensor.
    """
    top = rounding.tensors.coefficients
    rounded = [
        # With all coefficients, since the sensitivity is that of the whole network.
        list(replace(rounding, tensors=NetworkTensors(top, level.tensors.others)).rounded(step))
        if level.has_others
        else []
        for level in levels
    ]
    if not (rounding.with_coefficients and top):
        return [_alone(found) for found in rounded]
    # The last other tensors are those of the whole network.
    vectors = next(found for found in reversed(rounded) if found)[: len(top)]
    others = [found[len(top) :] for found in rounded]
    codec = quantized.codec_number(tensor for rest in (vectors, *others) for _, tensor in rest)
    encoder = quantized.Encoder([layout for layout, _ in (*vectors, *max(others, key=len))], codec)
    payloads: list[bytes] = []
    known: list[int] = []
    for level, rest in zip(levels, others, strict=True):
        counts = [entry.num_kept for entry in level.tensors.coefficients]
        layouts = [layout_of_kept(entry, count) for entry, count in zip(top, counts, strict=True)]
        parts = [
            _first(tensor, count, done)
            for (_, tensor), count, done in zip(vectors, counts, known or [0] * len(top), strict=True)
        ]
        layouts += [layout for layout, _ in rest]
        payloads.append(encoder.level(layouts, [*parts, *(tensor for _, tensor in rest)], known))
        known = counts
    return [(codec, payload) for payload in payloads]


def _alone(found: Sequence[tuple[quantized.Layout, quantized.Coded]]) -> tuple[int, bytes]:
    """Return codec and payload of other tensors alone."""
    tensors = [tensor for _, tensor in found]
    payload = quantized.encode([layout for layout, _ in found], tensors) if found else b""
    return quantized.codec_number(tensors), payload


def _first(tensor: quantized.Coded, count: int, known: int) -> quantized.Coded:
    """Return the first `count` numbers of a tensor, without zeros at the end behind those that are known."""
    numbers = tensor.numbers[:count]
    used = np.flatnonzero(numbers)
    length = max(int(used[-1]) + 1 if len(used) else 0, known)
    if len(numbers) == count and count - known >= quantized.MAX_MAGNITUDE:
        length = count
    numbers = np.pad(numbers[:length], (0, max(0, length - len(numbers))))
    return replace(tensor, numbers=numbers)


def other_streams(
    others: Sequence[OtherTensor], types: Sequence[int | None], other_type: torch.dtype | None
) -> list[Stream]:
    """Return one stream per type, in order of first occurrence; tensors without one have none."""
    streams = []
    for number in dict.fromkeys(number for number in types if number is not None):
        members = [other for other, stored in zip(others, types, strict=True) if stored == number]
        dtype = stored_type(members[0], other_type)
        content = b"".join(to_bytes(other.tensor, dtype, name=other.name) for other in members)
        codec_number, payload = codecs.best(content, dtype.itemsize)
        streams.append(Stream(number, codec_number, payload))
    return streams


def stored_type(other: OtherTensor, other_type: torch.dtype | None) -> torch.dtype:
    """Return the type in the file of a tensor that is stored whole."""
    is_float = other.tensor.dtype.is_floating_point
    return other_type if is_float and other_type is not None else other.tensor.dtype
