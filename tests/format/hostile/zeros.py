"""Files of a few bytes that stand for large networks: every number is zero, and only the header says how many."""

import itertools
import zlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from tailcut.channels.layer_kinds import layer_kind
from tailcut.channels.pruning.edit import NarrowedLayer, PruneEdit
from tailcut.format import codecs, quantized
from tailcut.format.container.contents import Contents, Level, StoredBase, Stream, encode
from tailcut.format.container.numbers import INTEGERS, NUMBER_TYPES, QUANTIZED, type_number
from tailcut.format.container.streams import layout_of_kept, layout_of_other
from tailcut.format.network.tensors import NetworkTensors, network_tensors
from tailcut.structure import CoefficientLayout, Edit, Writer, create_model, family
from tailcut.transform.order import normalize_axes
from tailcut.weights.layers import candidates
from tailcut.weights.nested_levels import count_in
from tailcut.weights.regularization.edit import RegularizeEdit


def zero_file(
    name: str,
    *,
    edits: Sequence[Callable[[nn.Module], Edit]] = (),
    type_of: int = 0,
    codec: int = 1,
    parts: Sequence[int] = (),
    has_others: bool = False,
    **arguments: Any,
) -> bytes:
    """The file of a registered network whose numbers are all zero, made without memory for them.

    Args:
        name: of the registered network.
        edits: each makes an edit from the network as it stands on the meta device; they are applied in order.
        type_of: number type of the coefficients.
        codec: of all streams: 1 (deflate), 2 (range) or 3 (quantised: every number is coded, in 0.0014 bits).
        parts: of each level but the highest, for a file with levels.
        has_others: each of these has other tensors of its own.
        arguments: of the network.
    """
    with torch.device("meta"):
        model = create_model(name, **arguments)
    made, written = [], []
    for make in edits:
        edit = make(model)
        writer = Writer()
        edit.encode(writer, model)
        written.append((edit.number, writer.getvalue()))
        edit.apply(model)
        made.append(edit)
    tensors = network_tensors(model, made)
    if codec == 3:
        return _quantized_zeros(name, arguments, tuple(written), tensors, parts, has_others)
    types = [type_number(other.tensor.dtype, name=other.name) for other in tensors.others]
    counts: dict[int, int] = {}
    for number, other in zip(types, tensors.others, strict=True):
        counts[number] = counts.get(number, 0) + other.tensor.numel()
    by_level = [sum(each) for each in _counts(tensors, parts)]
    others = tuple(_stream(number, count, codec) for number, count in counts.items())
    more = [_stream(type_of, high - low, codec, known=low) for low, high in itertools.pairwise(by_level)]
    return encode(
        Contents(
            base=_base(name, arguments),
            digest=tensors.digest(),
            metadata={},
            edits=tuple(written),
            coefficients=_stream(type_of, by_level[0], codec) if by_level[0] else None,
            other_types=tuple(types),
            other_streams=others,
            parts=tuple(parts),
            added=tuple(Level(stream, has_others, others if has_others else ()) for stream in more),
        )
    )


def _counts(tensors: NetworkTensors, parts: Sequence[int]) -> list[list[int]]:
    """The coefficients of each tensor in each level."""
    return [
        [count_in(level, entry.num_kept, parts) for entry in tensors.coefficients] for level in range(len(parts) + 1)
    ]


def _base(name: str, arguments: dict[str, Any]) -> StoredBase:
    places = list(family(name).defaults)
    return StoredBase(name, tuple(sorted((places.index(key), value) for key, value in arguments.items())))


def _quantized_zeros(
    name: str,
    arguments: dict[str, Any],
    edits: tuple[tuple[int, bytes], ...],
    tensors: NetworkTensors,
    parts: Sequence[int],
    has_others: bool,
) -> bytes:
    is_integer = [not other.tensor.is_floating_point() for other in tensors.others]
    others = [
        layout_of_other(other.name, tuple(other.tensor.shape), is_integer=whole)
        for other, whole in zip(tensors.others, is_integer, strict=True)
    ]
    by_level = _counts(tensors, parts)
    encoder = quantized.Encoder([*map(layout_of_kept, tensors.coefficients), *others])
    streams: list[Stream] = []
    known: list[int] = []
    for number, counts in enumerate(by_level):
        layouts = [layout_of_kept(entry, count) for entry, count in zip(tensors.coefficients, counts, strict=True)]
        layouts += others if has_others or number == 0 else []
        coded = [quantized.Coded(np.zeros(each.size, np.int64)) for each in layouts]
        streams.append(Stream(QUANTIZED, quantized.NUMBERS[0], encoder.level(layouts, coded, known)))
        known = counts
    with_coefficients = bool(tensors.coefficients)
    return encode(
        Contents(
            base=_base(name, arguments),
            digest=tensors.digest(),
            metadata={},
            edits=edits,
            coefficients=streams[0] if with_coefficients else None,
            other_types=tuple(INTEGERS if whole else QUANTIZED for whole in is_integer),
            other_streams=() if with_coefficients else (streams[0],),
            parts=tuple(parts),
            added=tuple(Level(stream, has_others, ()) for stream in streams[1:]),
        )
    )


def kept(
    num_kept: Callable[[tuple[int, ...]], int], axes: Sequence[int] | None = None
) -> Callable[[nn.Module], RegularizeEdit]:
    """An edit that keeps `num_kept(shape)` coefficients of every parameter that can be regularised."""

    def make(model: nn.Module) -> RegularizeEdit:
        entries = []
        for candidate in candidates(model):
            shape = tuple(candidate.parameter.shape)
            if candidate.obstacle is None and shape:
                chosen = normalize_axes(axes, len(shape))
                weights = (1,) * len(chosen)
                entries.append(CoefficientLayout(candidate.names[0], shape, chosen, weights, num_kept(shape)))
        return RegularizeEdit(tuple(entries))

    return make


def narrowed_alone(name: str) -> Callable[[nn.Module], PruneEdit]:
    """An edit after which the layer of this name takes half its inputs, which those before it still give."""

    def make(model: nn.Module) -> PruneEdit:
        layer = model.get_submodule(name)
        kind = layer_kind(layer)
        assert kind is not None
        sizes = kind.sizes(layer)
        sizes["in_channels"] //= 2
        return PruneEdit((NarrowedLayer(name, kind.number, tuple(sizes.values())),))

    return make


def _stream(number: int, count: int, codec: int, *, known: int = 0) -> Stream:
    num_bytes = count * NUMBER_TYPES[number].itemsize
    if codec == 1:
        packer = zlib.compressobj(9, zlib.DEFLATED, -15)
        blocks = [packer.compress(bytes(min(1 << 20, num_bytes - start))) for start in range(0, num_bytes, 1 << 20)]
        return Stream(number, 1, b"".join(blocks) + packer.flush())
    if not num_bytes:
        return Stream(number, 0, b"")
    size = NUMBER_TYPES[number].itemsize
    payload = codecs.CODECS[codec].encode(bytes(num_bytes), size, bytes(known * size))
    assert payload is not None
    return Stream(number, codec, payload)
