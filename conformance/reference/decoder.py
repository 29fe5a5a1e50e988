"""SPEC.md, the whole: reads a file in the order of its section "Order of checks"."""

import hashlib
import itertools
import json
import math
import struct
import zlib
from collections.abc import Callable, Mapping
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any, NoReturn

from conformance.reference import edits, levels, quantized
from conformance.reference.codecs import FLOATS, OVERFLOWS, QUANTIZED, TYPES, decode, inflate, numbers_of
from conformance.reference.edits import Kept
from conformance.reference.items import Items
from conformance.reference.levels import Blocks
from conformance.reference.networks import Module
from conformance.reference.refusal import RefusedError, refuse, require

RANGES = {f"int{bits}": (-(1 << bits - 1), (1 << bits - 1) - 1) for bits in (8, 16, 32, 64)}
RANGES |= {"uint8": (0, 255), "bool": (0, 1)}
MAX_HEADER = 1 << 20
MAX_TENSORS = 16_384


@dataclass
class Other:
    """A tensor stored as it is, row-major."""

    name: str
    shape: tuple[int, ...]
    is_parameter: bool
    type: str = ""
    numbers: list[Any] = field(default_factory=list)
    raw: bytes = b""


@dataclass
class Content:
    """All that a file says."""

    base: str
    arguments: dict[int, Any]
    metadata: dict[str, Any]
    edits: list[tuple[int, Any]]
    kept: list[Kept]
    others: list[Other]
    coefficients_type: str | None
    network: Module | None


@dataclass
class Registered:
    """A registered network: its arguments in order with their defaults, and what builds it (None: refused)."""

    defaults: dict[str, Any]
    build: Callable[[dict[str, Any]], Module | None]


@dataclass
class _Header:
    base: str
    arguments: dict[int, Any]
    metadata: dict[str, Any]
    edits: list[tuple[int, bytes]]
    others: list[Other]
    has_coefficients: bool
    types: list[int]
    streams: list[int]
    lengths: list[int]
    version: int


def read(
    content: bytes,
    registered: Mapping[str, Registered] | None = None,
    own: Module | None = None,
    *,
    max_parameters: int = 1 << 30,
    level: int | None = None,
) -> Content:
    """Read and check a file.

    Args:
        content: of the file.
        registered: the networks that are known by name.
        own: the network of an own class that the file is read into; None to check what can be checked without it.
        max_parameters: the cap on the size of all dense tensors.
        level: read no levels above this one (1 is the lowest); None for all that are there.

    Raises:
        RefusedError: the file breaks a rule.
    """
    blocks = read_blocks(content, max_parameters)
    body = Items(blocks.contents[0])
    digest = body.take(4)
    header = read_header(Items(read_frame(body)), content[4])
    payloads = [body.take(length) for length in header.lengths] + [body.rest()]
    require(bool(header.streams) or not payloads[-1], "payload-of-nothing")

    require(header.has_coefficients or not blocks.parts, "level-coefficients")
    heads = [levels.read_head(Items(further), header.streams) for further in blocks.contents[1:level]]

    is_own = not header.base
    network = deepcopy(own) if is_own else build_registered(header, registered or {}, max_parameters)
    made: list[tuple[int, Any]] = []
    kept: list[Kept] = []
    for number, edit in header.edits:
        made.append((number, apply(number, Items(edit), network, is_own, kept)))
    others = header.others if is_own else list_others(network, kept)
    check_tensors(digest, header, network, kept, others, is_own, max_parameters)
    for other, number in zip(others, header.types, strict=True):
        other.type = TYPES[number][0]
    require(header.has_coefficients == bool(kept), "coefficients-there")
    read_levels(_Reader(header, kept, others), blocks, payloads, heads, max_parameters)
    if network is not None:
        check_range(header, network, kept, others)
    type_ = TYPES[header.streams[0] // 16][0] if header.has_coefficients else None
    return Content(header.base, header.arguments, header.metadata, made, kept, others, type_, network)


def true_digest(content: bytes, registered: Mapping[str, Registered]) -> bytes:
    """Return the digest that a file should have; for an own class that of the tensors that it lists.

    Raises:
        RefusedError: the file cannot be read so far.
    """
    body = Items(levels.split(content).contents[0] if content[4:5] == b"\3" else content[9:])
    body.take(4)
    header = read_header(Items(read_frame(body)), content[4])
    network = build_registered(header, registered, 1 << 30) if header.base else None
    kept: list[Kept] = []
    for number, edit in header.edits:
        apply(number, Items(edit), network, not header.base, kept)
    return digest_of(kept, list_others(network, kept) if header.base else header.others)


def read_blocks(content: bytes, max_parameters: int) -> Blocks:
    """Check all that is around the levels of a file, and return their contents."""
    require(content[:4] == b"\x89TCT"[: len(content)] and len(content) > 0, "magic")
    require(len(content) < 5 or content[4] in (1, 2, 3), "version")
    require(len(content) <= 8 * max_parameters + 1_048_597, "file-size")
    require(len(content) >= 13, "file-short")
    if content[4] == 3:
        return levels.split(content)
    require(int.from_bytes(content[5:9], "little") == zlib.crc32(content[9:]), "checksum")
    return Blocks([content[9:]])


def read_frame(body: Items) -> bytes:
    mark = body.varint(2 * MAX_HEADER + 1, "header-size")
    if mark % 2 == 0:
        return body.take(mark // 2)
    length = body.varint(MAX_HEADER, "header-size")
    return inflate(body.take(mark // 2), length, "header-packed", "header-packed")


def read_header(header: Items, version: int) -> _Header:
    base, arguments = read_base(header)
    metadata = read_metadata(header.take(header.varint(65_536, "metadata-size")))
    count = header.varint(16, "edits-count")
    stored = [(header.varint(), header.take(header.varint())) for _ in range(count)]
    others = read_others(header) if not base else []
    has_coefficients, types = read_types(header, version)
    require(bool(base) or len(types) == len(others), "types-number")
    streams = [read_stream(header, version)] if has_coefficients else []
    expected = stream_types(types, streams)
    streams += [read_stream(header, version) for _ in expected]
    require([kind // 16 for kind in streams[has_coefficients:]] == expected, "stream-types")
    lengths = [header.varint() for _ in streams[:-1]]
    header.end()
    return _Header(base, arguments, metadata, stored, others, has_coefficients, types, streams, lengths, version)


def read_stream(header: Items, version: int) -> int:
    kind = header.byte()
    require(kind // 16 in TYPES and (version > 1 or kind // 16 < QUANTIZED), "stream-type-known")
    require((version < 3 and kind // 16 != QUANTIZED) or kind % 16 <= 5, "codec-known")
    require(version == 1 or (kind // 16 == QUANTIZED) == (kind % 16 in (3, 4, 5)), "quantized-codec")
    return kind


def stream_types(types: list[int], coefficients: list[int]) -> list[int]:
    """Of the streams of other tensors: 10 stands for 11 too, and is not there if the coefficients' stream is."""
    found = dict.fromkeys(min(number, QUANTIZED) for number in types)
    return [
        number for number in found if not (number == QUANTIZED and coefficients and coefficients[0] // 16 == number)
    ]


def read_base(header: Items) -> tuple[str, dict[int, Any]]:
    base = header.text()
    if not base:
        return "", {}
    given = [(header.varint(), header.value()) for _ in range(header.varint(64, "arguments-count"))]
    places = [place for place, _ in given]
    require(places == sorted(set(places)), "arguments-order")
    return base, dict(given)


def read_metadata(content: bytes) -> dict[str, Any]:
    if not content:
        return {}

    def no(text: str) -> NoReturn:
        refuse("metadata-json", text)

    try:
        found = json.loads(content.decode("utf-8"), parse_constant=no)
        check_json(found)
    except (ValueError, RecursionError) as error:
        refuse("metadata-json", str(error))
    require(isinstance(found, dict), "metadata-json", "no object")
    return dict(found)


def check_json(value: Any) -> None:
    if isinstance(value, str):
        value.encode("utf-8")  # raises on lone surrogates
    elif isinstance(value, float):
        require(math.isfinite(value), "metadata-json", "infinite")
    elif isinstance(value, list):
        for item in value:
            check_json(item)
    elif isinstance(value, dict):
        for key, item in value.items():
            check_json(key)
            check_json(item)


def read_others(header: Items) -> list[Other]:
    others = []
    for _ in range(header.varint(MAX_TENSORS, "others-count")):
        kind = header.byte()
        require(kind <= 1, "others-kind")
        others.append(Other(header.text(), header.shape(), bool(kind)))
    require(len({other.name for other in others}) == len(others), "others-names")
    return others


def read_types(header: Items, version: int) -> tuple[bool, list[int]]:
    mark = header.varint(2 * MAX_TENSORS + 1, "types-count")
    types: list[int] = []
    for _ in range(mark // 2):
        length = header.varint(MAX_TENSORS - len(types), "types-count")
        number = header.byte()
        require(number in TYPES and (version > 1 or number < QUANTIZED), "type-known")
        require(length > 0 and (not types or types[-1] != number), "types-runs")
        types += [number] * length
    return bool(mark % 2), types


def build_registered(header: _Header, registered: Mapping[str, Registered], max_parameters: int) -> Module:
    require(header.base in registered, "base-name", header.base)
    entry = registered[header.base]
    names = list(entry.defaults)
    require(all(place < len(names) for place in header.arguments), "argument-place")
    given = {names[place]: value for place, value in header.arguments.items()}
    network = entry.build({**entry.defaults, **given})
    if network is None:
        refuse("arguments-fit")
    tensors = {id(tensor): tensor for _, tensor in network.state()}.values()
    require(sum(math.prod(tensor.shape) for tensor in tensors) <= max_parameters, "total-building")
    return network


def apply(number: int, edit: Items, network: Module | None, is_own: bool, kept: list[Kept]) -> Any:
    """Read an edit, and apply it to the network if there is one. Returns what the edit says."""
    said: Any
    if number == 1:
        found = edits.read_regularize(edit, network, is_own)
        edit.end()
        if network is not None:
            edits.apply_regularize(found, network)
        kept += found
        said = [entry.name for entry in found]
    elif number == 2:
        said = edits.read_stem(edit, network, is_own)
        edit.end()
        if network is not None:
            edits.apply_stem(said, network)
    elif number == 3:
        layers, tensors = edits.read_prune(edit, network, is_own)
        said = layers, tensors
        edit.end()
        if network is not None:
            edits.apply_prune(layers, tensors, network)
    elif number == 4:
        said = edits.read_ycbcr(edit)
        edit.end()
        if network is not None:
            edits.apply_ycbcr(network)
    else:
        refuse("edit-kind", str(number))
    return said


def list_others(network: Module | None, kept: list[Kept]) -> list[Other]:
    assert network is not None
    seen: set[int] = set()
    others = []
    for name, tensor in network.state():
        if not tensor.is_kept and id(tensor) not in seen:
            others.append(Other(name, tensor.shape, tensor.is_parameter))
        seen.add(id(tensor))
    return others


def check_tensors(
    digest: bytes,
    header: _Header,
    network: Module | None,
    kept: list[Kept],
    others: list[Other],
    is_own: bool,
    max_parameters: int,
) -> None:
    every: list[Kept | Other] = [*kept, *others]
    total = sum(math.prod(entry.shape) for entry in every)
    require(total <= max_parameters, "total-size")
    if is_own:
        names = [entry.name for entry in every]
        require(len(set(names)) == len(names), "own-names")
        require(digest_of(kept, others) == digest, "own-digest")
        if network is not None:
            there = list_others(network, kept)
            require(
                {(o.name, o.shape) for o in there} == {(o.name, o.shape) for o in others},
                "own-tensors",
            )
            require(digest_of(kept, there) == digest, "digest")
    else:
        require(digest_of(kept, others) == digest, "digest")
    require(len(others) == len(header.types), "types-number")
    if network is not None:
        state = dict(network.state())
        for other, number in zip(others, header.types, strict=True):
            stored, there_type = TYPES[number][0], state[other.name].type
            fits = stored == there_type or (stored in FLOATS and there_type in FLOATS)
            fits = fits or (stored == "integers" and there_type not in FLOATS)
            require(fits, "tensor-type", other.name)


def digest_of(kept: list[Kept], others: list[Other]) -> bytes:
    def ints(values: tuple[int, ...]) -> str:
        return ",".join(str(value) for value in values)

    lines = [f"{entry.name} {ints(entry.shape)} {ints(entry.axes)} {ints(entry.weights)}\n" for entry in kept]
    lines += [f"{entry.name} {ints(entry.shape)} {'p' if entry.is_parameter else 'b'}\n" for entry in others]
    return hashlib.blake2b("".join(lines).encode(), digest_size=4).digest()


def read_levels(
    reader: "_Reader", blocks: Blocks, payloads: list[bytes], heads: list[levels.Head], max_parameters: int
) -> None:
    """Read the lowest level, and the further ones of these heads."""
    counts = [blocks.counts(entry.count) for entry in reader.kept]
    known = sum(each[place] for each in counts for place in range(len(heads)))
    anew = sum(math.prod(other.shape) for other in reader.others) * sum(head.has_others for head in heads)
    require(known + 4 * anew <= max(1 << 22, max_parameters // 2), "level-work")
    for place in range(1 + len(heads)):
        for entry, each in zip(reader.kept, counts, strict=True):
            entry.count = each[place]
        if place == 0:
            reader.read_lowest(payloads)
        else:
            reader.read_further(heads[place - 1])
    reader.fill_in()


class _Reader:
    """Fills in the numbers of tensors, level by level."""

    def __init__(self, header: _Header, kept: list[Kept], others: list[Other]) -> None:
        self.header, self.kept, self.others = header, kept, others
        self.coder: quantized.Coder | None = None
        self.tensors = [quantized.Tensor("", entry.shape, [], is_coefficients=True) for entry in kept]
        self.below = b""  # the coefficients of the levels below, in the order of their streams
        self.rounded: dict[str, tuple[Kept | Other, quantized.Tensor]] = {}

    def read_lowest(self, payloads: list[bytes]) -> None:
        self.read(payloads, [kind % 16 for kind in self.header.streams])

    def read_further(self, head: levels.Head) -> None:
        self.read(head.payloads, head.codecs, head.has_others)

    def read(self, payloads: list[bytes], codecs: list[int], has_others: bool = True) -> None:
        header = self.header
        groups: list[list[Any]] = [list(self.kept)] if header.has_coefficients else []
        for number in stream_types(header.types, header.streams[: header.has_coefficients]):
            groups.append([other for other in self.others if other.type == TYPES[number][0]])
        for place, (kind, codec, tensors, payload) in enumerate(
            zip(header.streams, codecs, groups, payloads, strict=False)
        ):
            number = kind // 16
            is_coefficients = header.has_coefficients and place == 0
            require(not is_coefficients or number in (0, 1, 2, 3, 10), "coefficients-type")
            if number == QUANTIZED:
                self.read_quantized(payload, codec, is_coefficients, has_others)
                continue
            require(codec <= 2, "codec-known")
            if is_coefficients:
                self.read_coefficients(payload, number, codec)
                continue
            counts = [math.prod(entry.shape) for entry in tensors]
            size = TYPES[number][1]
            raw = decode(codec, payload, sum(counts), size)
            numbers = numbers_of(raw, number)
            for tensor, count in zip(tensors, counts, strict=True):
                tensor.numbers, numbers = numbers[:count], numbers[count:]
                tensor.raw, raw = raw[: count * size], raw[count * size :]

    def read_coefficients(self, payload: bytes, number: int, codec: int) -> None:
        """The coefficients of each tensor that the levels below do not have."""
        size = TYPES[number][1]
        more = [entry.count - len(entry.numbers) for entry in self.kept]
        raw = decode(codec, payload, sum(more), size, self.below)
        self.below += raw
        numbers = numbers_of(raw, number)
        require(all(map(math.isfinite, numbers)), "coefficients-finite")
        for entry, count in zip(self.kept, more, strict=True):
            entry.numbers, numbers = entry.numbers + numbers[:count], numbers[count:]
            entry.raw, raw = entry.raw + raw[: count * size], raw[count * size :]

    def read_quantized(self, payload: bytes, codec: int, is_coefficients: bool, has_others: bool) -> None:
        """The stream of quantised and whole numbers."""
        tensors: list[quantized.Tensor] = []
        every: list[Kept | Other] = []
        if is_coefficients:
            for entry, tensor in zip(self.kept, self.tensors, strict=True):
                tensor.go_on(order_of(entry))
                tensors.append(tensor)
                every.append(entry)
        for other in self.others if has_others else []:
            if other.type in ("quantized", "integers"):
                whole = other.type == "integers"
                key = other.name.rpartition(".")[2]
                tensors.append(quantized.Tensor(key, other.shape, quantized.row_major(other.shape), is_whole=whole))
                every.append(other)
        reader = quantized.Reader(payload, self.coder if is_coefficients else None, codec)
        reader.tensors(tensors)
        self.coder = reader
        self.rounded |= {entry.name: (entry, tensor) for entry, tensor in zip(every, tensors, strict=True)}

    def fill_in(self) -> None:
        """The values of the quantised numbers of the level that is taken."""
        for entry, tensor in self.rounded.values():
            numbers: list[Any] = tensor.numbers if tensor.is_whole else quantized.values(tensor)
            entry.numbers = numbers
            entry.raw = struct.pack(f"<{len(numbers)}{'q' if tensor.is_whole else 'f'}", *numbers)


def order_of(entry: Kept) -> list[tuple[int, ...]]:
    """Return the indices of the first coefficients of a tensor; see "Meaning"."""

    def rank(index: tuple[int, ...]) -> tuple[int, tuple[int, ...], tuple[int, ...]]:
        moved = tuple(index[axis] for axis in entry.axes)
        rest = tuple(place for axis, place in enumerate(index) if axis not in entry.axes)
        return sum(w * x for w, x in zip(entry.weights, moved, strict=True)), moved, rest

    return sorted(itertools.product(*map(range, entry.shape)), key=rank)[: entry.count]


def check_range(header: _Header, network: Module, kept: list[Kept], others: list[Other]) -> None:
    """No finite number becomes infinite in the network's type."""
    state = {name: tensor.type for name, tensor in network.state()}
    state |= {name: tensor.type for name, tensor in network.parameters()}
    every: list[Kept | Other] = [*kept, *others]
    for entry in every:
        type_ = state[entry.name]
        if type_ in FLOATS:
            finite = [abs(number) for number in entry.numbers if math.isfinite(number)]
            require(all(number < OVERFLOWS[type_] for number in finite), "tensor-range", entry.name)
        elif isinstance(entry, Other) and entry.type == "integers":
            least, most = RANGES[type_]
            require(all(least <= number <= most for number in entry.numbers), "tensor-range", entry.name)


__all__ = ["Content", "Kept", "Other", "RefusedError", "Registered", "read"]
