"""Writes files of version 3, level by level, so that each piece can be made wrong. From SPEC.md, "Levels"."""

import math
import struct
import zlib
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field, replace
from typing import Any

from conformance.networks import own_class, registered
from conformance.quantized_writer import Writer
from conformance.reference.codecs import QUANTIZED, TYPES
from conformance.reference.decoder import Kept, Other, apply, order_of
from conformance.reference.items import Items
from conformance.reference.levels import Blocks
from conformance.reference.quantized import Tensor
from conformance.writer import (
    CODECS,
    MAGIC,
    PARAMETERS,
    Draft,
    Parameters,
    Shifts,
    base_of,
    draft,
    fill_in,
    formula,
    number_bytes,
    range_payload,
    rounded_tensors,
    values_of,
    varint,
)

Numbers = Mapping[str, Sequence[Any]]


@dataclass
class Further:
    """The content of a level above the lowest.

    Attributes:
        mark: its first byte, 1 if it has other tensors.
        codecs: of its streams.
        payloads: of these.
        lengths: of the payloads; None for those that they have.
    """

    mark: int
    codecs: bytes
    payloads: list[bytes]
    lengths: list[int] | None = None

    def content(self) -> bytes:
        lengths = list(map(len, self.payloads[:-1])) if self.lengths is None else self.lengths
        return bytes([self.mark]) + self.codecs + b"".join(map(varint, lengths)) + b"".join(self.payloads)


@dataclass
class Levels:
    """A file with levels in pieces; `dataclasses.replace` makes one of them another.

    Attributes:
        lowest: the lowest level, with the header.
        parts: of every level but the highest.
        further: the other levels.
        found: for each level the tensors that a reader of it finds.
        there: how many levels are there; the file ends behind them.
        number: of levels, as the head says; None for as many as there are parts, and one.
    """

    lowest: Draft
    parts: list[int]
    further: list[Further]
    found: list[tuple[list[Kept], list[Other]]]
    there: int
    number: int | None = None

    @property
    def own(self) -> str | None:
        return self.lowest.own

    def draft(self) -> Draft:
        """Return what the highest level that is there holds, as a file without levels tells it."""
        kept, others = self.found[self.there - 1]
        return replace(self.lowest, kept=kept, tensors=others)

    def contents(self) -> list[bytes]:
        return [self.lowest.body(), *(level.content() for level in self.further)][: self.there]

    def file(self) -> bytes:
        return joined(self.contents(), self.parts, self.number)


def joined(contents: Sequence[bytes], parts: Sequence[int], number: int | None = None) -> bytes:
    """Return the file whose levels have these contents, with their checksums."""
    made = bytes([len(parts) + 1 if number is None else number, *parts])
    for content in contents:
        made += varint(len(content)) + content
        made += struct.pack("<I", zlib.crc32(made))
    return MAGIC + b"\3" + made


@dataclass
class _Made:
    """The tensors of a file while its levels are written; those of the lowest level are in `draft`."""

    draft: Draft
    counts: list[list[int]]
    numbers: list[list[Any]]
    below: bytes = b""
    writer: Writer | None = None
    tensors: list[Tensor] = field(default_factory=list)
    codec: int = 3


def in_levels(
    name: str,
    edits: Sequence[tuple[int, bytes]],
    parts: Sequence[int],
    *,
    anew: Mapping[int, Numbers] | None = None,
    anew_parameters: Mapping[int, Parameters] | None = None,
    cuts: Mapping[int, Mapping[str, int]] | None = None,
    codecs: Sequence[str] = ("raw",),
    other_codecs: Sequence[str] = ("raw",),
    coefficients: int = 0,
    types: dict[str, int] | None = None,
    numbers: Numbers | None = None,
    parameters: Parameters | None = None,
    quantized_codec: int = 3,
    shifts: Shifts | None = None,
    anew_shifts: Mapping[int, Shifts] | None = None,
    arguments: Sequence[tuple[int, Any]] = (),
    metadata: bytes = b"",
) -> Levels:
    """Return a sound file with levels.

    Args:
        name: of a registered network or an own class.
        edits: kind and bytes of each, with the counts of the highest level.
        parts: of every level but the highest.
        anew: by level (1 is the lowest), for those above it that have other tensors, their numbers where they are not
            those of the level below.
        anew_parameters: by level, parameters of other quantised tensors where they are not those of the level below.
        cuts: by level, above the lowest, the parameter c of tensors of quantised coefficients, where it is not 0.
        codecs: of the coefficients, level by level; the last one for all further ones.
        other_codecs: of the other streams, as for `draft`.
        coefficients: number type of the coefficients.
        types: the number type of other tensors by name, where it is not the network's own.
        numbers: of tensors by name, where they are not `formula`.
        parameters: of quantised tensors of the lowest level.
        quantized_codec: of the stream of quantised tensors, 3 to 5.
        shifts: as for `draft`, of the lowest level.
        anew_shifts: by level, shifts of other quantised tensors where they are not those of the level below.
        arguments: of a registered network.
        metadata: JSON.
    """
    types, numbers, parameters, shifts = types or {}, dict(numbers or {}), dict(parameters or {}), dict(shifts or {})
    is_registered = name in registered()
    if is_registered:
        entry = registered()[name]
        names = list(entry.defaults)
        network = entry.build({**entry.defaults, **{names[place]: given for place, given in arguments}})
        assert network is not None
    else:
        network = own_class(name)
    kept: list[Kept] = []
    for number, content in edits:
        apply(number, Items(content), network, not is_registered, kept)
    counts = [Blocks([], list(parts)).counts(entry.count) for entry in kept]
    given = [
        list(numbers.get(entry.name, formula(entry.count, coefficients, 7 * place))) for place, entry in enumerate(kept)
    ]
    low = [replace(entry, count=each[0]) for entry, each in zip(kept, counts, strict=True)]
    first = {entry.name: each[: entry.count] for entry, each in zip(low, given, strict=True)}
    lowest = draft(
        network,
        low,
        list(edits),
        base=base_of(name, arguments) if is_registered else b"\0",
        metadata=metadata,
        coefficients=coefficients,
        codecs=(codecs[0], *other_codecs),
        types=types,
        numbers={name: list(each) for name, each in {**numbers, **first}.items()},
        parameters=parameters,
        quantized_codec=quantized_codec,
        shifts=shifts,
    )
    lowest = replace(lowest, own=None if is_registered else name, version=3)
    made = _Made(lowest, counts, given, codec=quantized_codec)
    kept, others = deepcopy(lowest.kept), deepcopy(lowest.tensors)
    if coefficients == QUANTIZED:
        made.writer = Writer(codec=quantized_codec)
        made.tensors = [Tensor("", entry.shape, order_of(entry), is_coefficients=True) for entry in kept]
        for tensor, each in zip(made.tensors, first.values(), strict=True):
            tensor.numbers = list(each)
        _cut(made.tensors, [parameters.get(entry.name, PARAMETERS) for entry in kept])
        extra = _others(others, numbers, parameters, shifts)
        lowest.payloads[0] = made.writer.payload([*made.tensors, *extra])
    else:
        made.below = b"".join(entry.raw for entry in kept)
    found, further = [(kept, others)], []
    for level in range(2, len(parts) + 2):
        kept, others = deepcopy(found[-1])
        codec = codecs[min(level, len(codecs)) - 1]
        new = (anew or {}).get(level)
        numbers = {**numbers, **(new or {})}
        parameters = {**parameters, **(anew_parameters or {}).get(level, {})}
        shifts = {**shifts, **(anew_shifts or {}).get(level, {})}
        settings = (numbers if new is not None else None), parameters, (cuts or {}).get(level, {}), shifts
        further.append(_further(made, level, kept, others, coefficients, codec, other_codecs, settings))
        found.append((kept, others))
    return Levels(lowest, list(parts), further, found, len(found))


def _cut(tensors: Sequence[Tensor], parameters: Sequence[Sequence[int]]) -> None:
    """Give tensors their parameters, and leave them the numbers that are coded."""
    for tensor, each in zip(tensors, parameters, strict=True):
        tensor.parameters = list(each)
        if each[3]:
            tensor.numbers = tensor.numbers[: max(0, tensor.known + each[3] - 1)]


def _others(others: Sequence[Other], numbers: Numbers, parameters: Parameters, shifts: Shifts) -> list[Tensor]:
    """Return the other tensors of the quantised stream; `others` get the values that a reader finds."""
    for place, other in enumerate(others):
        if other.type in ("quantized", "integers"):
            type_ = QUANTIZED + (other.type == "integers")
            other.numbers = list(numbers.get(other.name, formula(math.prod(other.shape), type_, 11 * place)))
    tensors = rounded_tensors([], others, parameters, shifts)
    fill_in(tensors)
    return [tensor for _, tensor in tensors]


def _further(
    made: _Made,
    level: int,
    kept: list[Kept],
    others: list[Other],
    coefficients: int,
    codec: str,
    other_codecs: Sequence[str],
    settings: tuple[Numbers | None, Parameters, Mapping[str, int], Shifts],
) -> Further:
    """Return a level; `kept` and `others` become what a reader of it finds."""
    numbers, parameters, cuts, shifts = settings
    extra = [] if numbers is None else _others(others, numbers, parameters, shifts)
    if made.writer is not None:
        for tensor, entry, each, counts in zip(made.tensors, kept, made.numbers, made.counts, strict=True):
            entry.count = counts[level - 1]
            tensor.go_on(order_of(entry))
            tensor.numbers = [*tensor.numbers, *each[tensor.known : entry.count]]
            _cut([tensor], [[*tensor.parameters[:3], cuts.get(entry.name, 0)]])
        made.writer = Writer(made.writer)
        codecs, payloads = bytes([made.codec]), [made.writer.payload([*made.tensors, *extra])]
        for tensor, entry in zip(made.tensors, kept, strict=True):
            entry.numbers = values_of(tensor)
            entry.raw = struct.pack(f"<{len(entry.numbers)}f", *entry.numbers)
    else:
        content = b""
        for entry, each, counts in zip(kept, made.numbers, made.counts, strict=True):
            raw = number_bytes(each[entry.count : counts[level - 1]], coefficients)
            content, entry.raw = content + raw, entry.raw + raw
            entry.count = counts[level - 1]
            entry.numbers = list(each[: entry.count])
        number, encode = CODECS[codec]
        size = TYPES[coefficients][1]
        payloads = [range_payload(content, size, made.below) if codec == "range" else encode(content, size)]
        codecs, made.below = bytes([number]), made.below + content
    if numbers is None:
        return Further(0, codecs, payloads)
    for place, kind in enumerate(made.draft.streams[1:]):
        if kind // 16 == QUANTIZED:
            codecs, payloads = codecs + bytes([made.codec]), [*payloads, Writer(codec=made.codec).payload(extra)]
            continue
        members = [other for other in others if other.type == TYPES[kind // 16][0]]
        for other in members:
            if other.name in numbers:
                other.numbers = list(numbers[other.name])
                other.raw = number_bytes(other.numbers, kind // 16)
        number, encode = CODECS[other_codecs[min(place, len(other_codecs) - 1)]]
        codecs += bytes([number])
        payloads.append(encode(b"".join(other.raw for other in members), TYPES[kind // 16][1]))
    return Further(1, codecs, payloads)
