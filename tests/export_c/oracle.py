"""What Python makes of a file's bytes: the answer that the C reader must give too."""

import json
import random
import zlib
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from tailcut.errors import ArgumentError, FormatError, ModelMismatchError
from tailcut.export_c import NetworkDescription
from tailcut.export_c.description import describe_contents
from tailcut.format.container.contents import Contents, StoredOther, decode
from tailcut.format.container.numbers import overflowing
from tailcut.format.container.streams import decode_values
from tailcut.format.load import apply_edits, bare_network, check_own_list, check_tensors, decode_edits
from tailcut.format.network.tensors import NetworkTensors, meta_copy, network_tensors


@dataclass(frozen=True)
class Numbers:
    """What a sound file holds: name, shape, axes, order weights and numbers of the kept tensors, then of the others."""

    contents: Contents
    kept: list[tuple[str, tuple[int, ...], tuple[int, ...], tuple[int, ...], torch.Tensor]]
    others: list[tuple[str, tuple[int, ...], bool, torch.Tensor]]


def read_alone(content: bytes, max_parameters: int = 1 << 30, level: int | None = None) -> Numbers:
    """An own class's file by itself, as `inspect` checks it."""
    contents = decode(content, level)
    edits = decode_edits(contents, max_parameters)
    kept = [entry for edit in edits for entry in edit.coefficient_layouts()]
    check_own_list(contents, kept, max_parameters)
    return _numbers(contents, kept, contents.others)


def read_into(
    content: bytes, network: nn.Module | None, max_parameters: int = 1 << 30, level: int | None = None
) -> Numbers:
    """A file and its network: a fresh one of an own class, or None for the registered one. As `load`."""
    contents = decode(content, level)
    meta = bare_network(contents, max_parameters) if network is None else meta_copy(network)
    edits = apply_edits(contents, meta, max_parameters)
    if contents.base is None:
        kept = [entry for edit in edits for entry in edit.coefficient_layouts()]
        check_own_list(contents, kept, max_parameters)
    tensors = network_tensors(meta, edits)
    check_tensors(contents, tensors, max_parameters)
    found = _numbers(contents, tensors.coefficients, tensors.stored_others)
    _check_ranges(tensors, found)
    return found


def _numbers(contents: Contents, kept: Any, others: tuple[StoredOther, ...]) -> Numbers:
    vectors, values = decode_values(contents, kept, others)
    return Numbers(
        contents,
        [
            (e.name, tuple(e.shape), tuple(e.axes), tuple(e.order_weights), v)
            for e, v in zip(kept, vectors, strict=True)
        ],
        [(other.name, other.shape, other.is_parameter, value) for other, value in zip(others, values, strict=True)],
    )


def _check_ranges(tensors: NetworkTensors, found: Numbers) -> None:
    types = [entry.parameter.dtype for entry in tensors.coefficients] + [other.tensor.dtype for other in tensors.others]
    values = [entry[4] for entry in found.kept] + [entry[3] for entry in found.others]
    for dtype, value in zip(types, values, strict=True):
        if overflowing(value, dtype) is not None:
            raise ModelMismatchError("a number does not fit")


def is_described(contents: Contents, network: NetworkDescription, into: nn.Module | None) -> bool:
    """Whether the network of a sound file is the one described: C knows no other."""
    other = describe_contents(contents, into=into)
    return (other.base, other.arguments if other.base else b"", other.edits) == (
        network.base if other.base else "",
        network.arguments if other.base else b"",
        network.edits,
    )


def refusal(read: Any, *arguments: Any) -> tuple[str, Numbers | None]:
    """The name of the error, or what was read."""
    try:
        return "", read(*arguments)
    except (FormatError, ArgumentError) as error:
        return type(error).__name__, None


def with_checksum(content: bytes) -> bytes:
    """The file with the checksum that its body has; of one with levels, those of all whole ones."""
    if content[4] == 3:
        return _with_checksums(bytearray(content))
    return content[:5] + zlib.crc32(content[9:]).to_bytes(4, "little") + content[9:]


def _with_checksums(content: bytearray) -> bytes:
    place = 5 + content[5]
    for _ in range(content[5]):
        size = shift = 0
        while place < len(content):
            size |= (content[place] & 127) << shift
            place, shift = place + 1, shift + 7
            if content[place - 1] < 128:
                break
        place += size
        if place + 4 > len(content):
            break
        content[place : place + 4] = zlib.crc32(content[5:place]).to_bytes(4, "little")
        place += 4
    return bytes(content)


def damage(content: bytes, others: list[bytes], random_numbers: random.Random) -> bytes:
    """The file with one to three places changed, cut out, doubled or taken from another; often with a new checksum."""
    made = bytearray(content)
    draw = random_numbers.randrange
    for _ in range(random_numbers.choice((1, 1, 1, 2, 3))):
        if not made:
            break
        # Most of what can go wrong lies in the header.
        place = draw(min(len(made), random_numbers.choice((16, 80, 300, len(made)))))
        way = draw(8)
        if way <= 1:
            made[place] ^= 1 << draw(8)
        elif way == 2:
            made[place] = random_numbers.choice((0, 1, 2, 3, 16, 127, 128, 255, draw(256)))
        elif way == 3:
            del made[place : place + random_numbers.choice((1, 1, 2, 5, len(made)))]
        elif way == 4:
            made[place:place] = bytes(draw(256) for _ in range(draw(1, 4)))
        elif way == 5:
            made[place:place] = made[place : place + draw(1, 9)]
        elif way == 6:
            made[place] = (made[place] + random_numbers.choice((1, 255))) % 256
        else:
            other = random_numbers.choice(others)
            made[place : place + 8] = other[place : place + 8]
    if len(made) > 9 and draw(8):
        return with_checksum(bytes(made))
    return bytes(made)


def metadata_of(answer: bytes) -> Any:
    """The metadata of a C answer."""
    return json.loads(answer) if answer else {}
