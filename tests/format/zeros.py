"""Files of a few bytes that stand for large networks: every number is zero, and only the header says how many."""

import zlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from tailcut.channels.graph.layer_kinds import layer_kind
from tailcut.channels.pruning.edit import NarrowedLayer, PruneEdit
from tailcut.format import codecs, quantized
from tailcut.format.container import Contents, StoredBase, Stream, encode
from tailcut.format.numbers import INTEGERS, NUMBER_TYPES, QUANTIZED, type_number
from tailcut.format.streams import layout_of_kept, layout_of_other
from tailcut.format.tensors import NetworkTensors, network_tensors
from tailcut.structure import Edit, StoredTensor, Writer, create_model, family
from tailcut.transform.order import normalize_axes
from tailcut.weights.edit import RegularizeEdit
from tailcut.weights.layers import candidates


def zero_file(
    name: str, *, edits: Sequence[Callable[[nn.Module], Edit]] = (), type_of: int = 0, codec: int = 1, **arguments: Any
) -> bytes:
    """The file of a registered network whose numbers are all zero, made without memory for them.

    Args:
        name: of the registered network.
        edits: each makes an edit from the network as it stands on the meta device; they are applied in order.
        type_of: number type of the coefficients.
        codec: of all streams: 1 (deflate), 2 (range) or 3 (quantised: every number is coded, in 0.0014 bits).
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
        return _quantized_zeros(name, arguments, tuple(written), tensors)
    types = [type_number(other.tensor.dtype, name=other.name) for other in tensors.others]
    counts: dict[int, int] = {}
    for number, other in zip(types, tensors.others, strict=True):
        counts[number] = counts.get(number, 0) + other.tensor.numel()
    num_kept = sum(entry.num_kept for entry in tensors.coefficients)
    return encode(
        Contents(
            base=_base(name, arguments),
            digest=tensors.digest(),
            metadata={},
            edits=tuple(written),
            coefficients=_stream(type_of, num_kept, codec) if num_kept else None,
            other_types=tuple(types),
            other_streams=tuple(_stream(number, count, codec) for number, count in counts.items()),
        )
    )


def _base(name: str, arguments: dict[str, Any]) -> StoredBase:
    places = list(family(name).defaults)
    return StoredBase(name, tuple(sorted((places.index(key), value) for key, value in arguments.items())))


def _quantized_zeros(
    name: str, arguments: dict[str, Any], edits: tuple[tuple[int, bytes], ...], tensors: NetworkTensors
) -> bytes:
    is_integer = [not other.tensor.is_floating_point() for other in tensors.others]
    layouts = [layout_of_kept(entry) for entry in tensors.coefficients]
    for other, whole in zip(tensors.others, is_integer, strict=True):
        layouts.append(layout_of_other(other.name, tuple(other.tensor.shape), is_integer=whole))
    payload = quantized.encode(layouts, [quantized.Coded(np.zeros(each.size, np.int64)) for each in layouts])
    stream = Stream(QUANTIZED, quantized.NUMBER, payload)
    with_coefficients = bool(tensors.coefficients)
    return encode(
        Contents(
            base=_base(name, arguments),
            digest=tensors.digest(),
            metadata={},
            edits=edits,
            coefficients=stream if with_coefficients else None,
            other_types=tuple(INTEGERS if whole else QUANTIZED for whole in is_integer),
            other_streams=() if with_coefficients else (stream,),
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
                entries.append(StoredTensor(candidate.names[0], shape, chosen, weights, num_kept(shape)))
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


def _stream(number: int, count: int, codec: int) -> Stream:
    num_bytes = count * NUMBER_TYPES[number].itemsize
    if codec == 1:
        packer = zlib.compressobj(9, zlib.DEFLATED, -15)
        blocks = [packer.compress(bytes(min(1 << 20, num_bytes - start))) for start in range(0, num_bytes, 1 << 20)]
        return Stream(number, 1, b"".join(blocks) + packer.flush())
    payload = codecs.CODECS[codec].encode(bytes(num_bytes), NUMBER_TYPES[number].itemsize)
    assert payload is not None
    return Stream(number, codec, payload)
