"""`inspect`: the contents of a `.tailcut` file, tensor by tensor, without building its network."""

import itertools
import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from textwrap import shorten
from typing import IO, Any

from tailcut import structure
from tailcut.errors import shown
from tailcut.format.container.contents import Contents, StoredOther, decode
from tailcut.format.container.numbers import INTEGERS, QUANTIZED, number_type_name
from tailcut.format.container.streams import (
    CodedTensors,
    Kept,
    counts_by_level,
    decode_quantized,
    decode_values,
    quantized_places,
)
from tailcut.format.file_bytes import naming, read_file
from tailcut.format.load import (
    apply_edits,
    bare_network,
    check_own_list,
    check_tensors,
    decode_edits,
)
from tailcut.format.network.building import named_base
from tailcut.format.network.tensors import network_tensors
from tailcut.format.quantized.values import TRANSFORMS, largest_step
from tailcut.format.save_report import compression_ratio, dense_bytes
from tailcut.limits import limit_of
from tailcut.printing import Report, sizes, table
from tailcut.weights.planning.byte_budget import batch_norms, purposes

NAMES_WIDTH, BAR_WIDTH = 100, 40
_COUNTER = "num_batches_tracked"
_ROUNDING_COLUMNS = ("bits", "worst error")


@dataclass(frozen=True)
class StoredTensor(Report):
    """A tensor stored as coefficients. `bytes` is its part of the payload, in proportion where it is compressed.

    Of quantised ones `bits` is what a number takes, and `worst_error` half a step, along a trellis two steps: no
    coefficient is further off, unless it makes good the errors of others.
    """

    name: str
    shape: tuple[int, ...]
    axes: tuple[int, ...]
    order_weights: tuple[int, ...]
    num_kept: int
    dtype: str
    bytes: int
    bits: float | None = None
    worst_error: float | None = None


@dataclass(frozen=True)
class StoredOtherTensor(Report):
    """A tensor stored whole: a bias, a running mean, a plain weight. `kind` is "parameter" or "buffer".

    Of quantised ones `bits` is what a number takes, `worst_error` as of coefficients, and `transform` says what is
    rounded: the numbers ("none"), their base-2 logarithms ("log2"), or their DCT.
    """

    name: str
    shape: tuple[int, ...]
    kind: str
    dtype: str
    bytes: int
    bits: float | None = None
    worst_error: float | None = None
    transform: str | None = None


@dataclass(frozen=True)
class LevelReport(Report):
    """A level of a file: how many coefficients its network has, and how many of the file's first bytes it needs."""

    level: int
    num_kept: int
    file_bytes: int


@dataclass(frozen=True)
class InspectReport(Report):
    """Report of the contents of a file.

    Attributes:
        version: of the format.
        model: registered name, None for a user's own class.
        file_bytes: size of the file.
        dense_bytes: of the dense network's parameters in float32.
        compression_ratio: `dense_bytes` over `file_bytes`; None for a network without parameters.
        num_parameters: numbers in the parameters of the dense network.
        num_truncated: how many of these are kept as coefficients.
        num_kept: coefficients in the file.
        num_kept_norms: of these, those of batch norm's gains and shifts (`tailcut.weights.truncate_norms`).
        bytes_by_kind: the bytes of the file, by what they are for: "coefficients", "batch norm", "biases", "other
            tensors", and "structure" (names, edits, metadata, the checksum). They add up to `file_bytes`.
        tensors: those stored as coefficients.
        other_tensors: all others.
        arguments: of the registered model, where they differ from the defaults.
        metadata: the user's JSON.
        num_levels: of the whole file; 1 for one without levels.
        levels: those that are there, of a file with levels.
    """

    version: int
    model: str | None
    file_bytes: int
    dense_bytes: int
    compression_ratio: float | None
    num_parameters: int
    num_truncated: int
    num_kept: int
    bytes_by_kind: dict[str, int]
    tensors: tuple[StoredTensor, ...]
    other_tensors: tuple[StoredOtherTensor, ...]
    arguments: dict[str, Any]
    metadata: dict[str, Any]
    num_levels: int = 1
    levels: tuple[LevelReport, ...] = ()
    num_kept_norms: int = 0

    def __str__(self) -> str:
        parts = ["\n".join(self._head())]
        if self.levels:
            parts.append(_levels_table(self.levels, self.num_levels))
        parts.append(table(("bytes of the file for", "bytes", "part", ""), self._kind_rows(), align="<>><"))
        if self.tensors:
            columns = ("coefficients of", "shape", "axes", "order", "kept", "dtype", "bytes", *_ROUNDING_COLUMNS)
            parts.append(_without_empty(columns, self._coefficient_rows(), "<<<<><>>>"))
        if self.other_tensors:
            names = ("other tensors", "shape", "kind", "dtype", "bytes", *_ROUNDING_COLUMNS, "rounded are")
            parts.append(_without_empty(names, self._other_rows(), "<<<<>>><"))
        return shown("\n\n".join(parts), at_most=sys.maxsize)

    def _head(self) -> list[str]:
        """Return the lines about the file as a whole."""
        arguments = ", ".join(f"{key}={value}" for key, value in self.arguments.items())
        head = [
            f"format version   {self.version}",
            f"model            {self.model or 'a class of its own'}" + (f" ({arguments})" if arguments else ""),
            f"file             {self.file_bytes:,} bytes",
            f"dense            {self.dense_bytes:,} bytes ({self.num_parameters:,} parameters in float32)",
            f"kept             {self.num_kept:,} coefficients for {self.num_truncated:,} of the parameters",
        ]
        if self.num_kept_norms:
            head.append(f"of these         {self.num_kept_norms:,} for gains and shifts of batch norm")
        if self.compression_ratio is not None:
            head.append(f"compression      {self.compression_ratio:,.1f} : 1 (dense bytes over file bytes)")
        return [*head, *_metadata_lines(self.metadata)]

    def _kind_rows(self) -> list[tuple[str, ...]]:
        """Return one row per kind of bytes, with a bar."""
        return [
            (
                kind,
                f"{count:,}",
                f"{100 * count / self.file_bytes:.0f} %",
                "#" * round(BAR_WIDTH * count / self.file_bytes),
            )
            for kind, count in self.bytes_by_kind.items()
        ]

    def _coefficient_rows(self) -> list[tuple[str, ...]]:
        """Return one row per tensor of coefficients."""
        return [
            (
                entry.name,
                sizes(entry.shape),
                ",".join(map(str, entry.axes)),
                ",".join(map(str, entry.order_weights)),
                f"{entry.num_kept:,}",
                entry.dtype,
                f"{entry.bytes:,}",
                *_bits_and_error(entry),
            )
            for entry in self.tensors
        ]

    def _other_rows(self) -> list[tuple[str, ...]]:
        """Return one row per tensor, and one for all of batch norm's counters."""
        counters = [entry for entry in self.other_tensors if _is_counter(entry)]
        rows: list[tuple[str, ...]] = [
            (
                entry.name,
                sizes(entry.shape),
                entry.kind,
                entry.dtype,
                f"{entry.bytes:,}",
                *_bits_and_error(entry),
                "the numbers" if entry.transform == "none" else entry.transform or "",
            )
            for entry in self.other_tensors
            if len(counters) == 1 or not _is_counter(entry)
        ]
        if len(counters) > 1:
            count = f"{sum(entry.bytes for entry in counters):,}"
            rows.append((f"{len(counters)} x {_COUNTER}", "scalar", "buffer", counters[0].dtype, count, "", "", ""))
        return rows


def _levels_table(levels: Sequence[LevelReport], num_levels: int) -> str:
    rows = [(str(entry.level), f"{entry.num_kept:,}", f"{entry.file_bytes:,}") for entry in levels]
    if len(levels) < num_levels:
        rows.append((f"of {num_levels}", "", "cut off"))
    return table(("level", "coefficients", "bytes of the file"), rows, align="<>>")


def _bits_and_error(entry: StoredTensor | StoredOtherTensor) -> tuple[str, str]:
    bits = "" if entry.bits is None else f"{entry.bits:.2f}"
    return bits, "" if entry.worst_error is None else f"{entry.worst_error:.2g}"


def _without_empty(header: Sequence[str], rows: Sequence[Sequence[str]], align: str) -> str:
    """Return a table without its empty columns: those of rounding in a file without rounding."""
    used = [place for place in range(len(header)) if any(row[place] for row in rows)]
    columns = [tuple(row[place] for place in used) for row in rows]
    return table(tuple(header[place] for place in used), columns, align="".join(align[place] for place in used))


def _is_counter(entry: StoredOtherTensor) -> bool:
    return entry.name.rpartition(".")[2] == _COUNTER and not entry.shape


def _bytes_by_kind(
    file_bytes: int, tensors: Sequence[StoredTensor], others: Sequence[StoredOtherTensor]
) -> dict[str, int]:
    norms = batch_norms(entry.name for entry in others)
    purpose = purposes({entry.name: entry.kind == "parameter" for entry in others})
    kinds = dict.fromkeys(("coefficients", "batch norm", "biases", "other tensors"), 0)
    for tensor in tensors:
        kinds["batch norm" if tensor.name.rpartition(".")[0] in norms else "coefficients"] += tensor.bytes
    for entry in others:
        kinds[purpose[entry.name]] += entry.bytes
    return {**kinds, "structure": file_bytes - sum(kinds.values())}


def _metadata_lines(metadata: dict[str, Any]) -> list[str]:
    """Names of classes and the size of images in readable lines, all else as it is."""
    rest, lines = dict(metadata), []
    if structure.are_names(metadata.get(structure.METADATA_KEY)):
        names = rest.pop(structure.METADATA_KEY)
        lines.append(f"classes          {len(names)}: {shorten(', '.join(names), NAMES_WIDTH, placeholder=' ...')}")
    size_key = structure.size_key_in(metadata)
    if size_key is not None:
        height, width = rest.pop(size_key)
        is_middle = structure.is_shorter_side(metadata.get(structure.SHORTER_SIDE_KEY), (height, width))
        part = f", the middle of {rest.pop(structure.SHORTER_SIDE_KEY)} along the shorter side" if is_middle else ""
        lines.append(f"images           {height} x {width} pixels{part}")
    return [*lines, f"metadata         {rest}"] if rest else lines


def inspect(path: str | Path | IO[bytes], *, max_parameters: int | None = None) -> InspectReport:
    """Describe the contents of a `.tailcut` file, tensor by tensor.

    The whole file is checked, but no memory is taken for the dense network.

    Args:
        path: the file, "zoo:NAME", or a binary file object, which is read to its end.
        max_parameters: the most numbers that the dense network may have (2^30 if not given).

    Raises:
        FormatError: in one of its kinds: the file is damaged, hostile, too new or too large.
        FileNotFoundError: there is no such file.
    """
    max_parameters = limit_of(max_parameters)
    content = read_file(path, max_parameters)
    with naming(path):
        return _inspect(decode(content), len(content), max_parameters)


def _inspect(contents: Contents, file_bytes: int, max_parameters: int) -> InspectReport:
    if contents.base is not None:
        model = bare_network(contents, max_parameters)
        edits = apply_edits(contents, model, max_parameters)
        tensors = network_tensors(model, edits)
        check_tensors(contents, tensors, max_parameters)
        others = tensors.stored_others
    else:
        edits, others = decode_edits(contents, max_parameters), contents.others
    kept = [entry for edit in edits for entry in edit.coefficient_layouts()]
    if contents.base is None:
        check_own_list(contents, kept, max_parameters)
    coded = decode_quantized(contents, kept, others)
    decode_values(contents, kept, others, coded)  # which checks the numbers themselves
    rounded = _rounded(contents, kept, others, coded)
    num_dense = sum(math.prod(entry.shape) for entry in kept)
    stored = _kept(contents, kept, rounded)
    stored_others = _others(contents, others, rounded)
    norms = batch_norms(other.name for other in others)
    num_parameters = num_dense + sum(math.prod(other.shape) for other in others if other.is_parameter)
    return InspectReport(
        version=contents.version,
        model=None if contents.base is None else contents.base.name,
        file_bytes=file_bytes,
        dense_bytes=dense_bytes(num_parameters),
        compression_ratio=compression_ratio(num_parameters, file_bytes),
        num_parameters=num_parameters,
        num_truncated=num_dense,
        num_kept=sum(entry.num_kept for entry in kept),
        bytes_by_kind=_bytes_by_kind(file_bytes, stored, stored_others),
        tensors=stored,
        other_tensors=stored_others,
        arguments={} if contents.base is None else dict(named_base(contents.base).arguments),
        metadata=contents.metadata,
        num_levels=len(contents.parts) + 1,
        levels=_levels(contents, kept),
        num_kept_norms=sum(entry.num_kept for entry in kept if entry.name.rpartition(".")[0] in norms),
    )


def _levels(contents: Contents, kept: Sequence[Kept]) -> tuple[LevelReport, ...]:
    if not contents.parts:
        return ()
    counts = map(sum, counts_by_level(contents, [entry.num_kept for entry in kept]))
    return tuple(
        LevelReport(number, count, end)
        for number, (count, end) in enumerate(zip(counts, contents.level_ends, strict=True), start=1)
    )


@dataclass(frozen=True)
class _Rounded:
    """Share of a quantised tensor in the payload."""

    bytes: int
    bits: float | None
    worst_error: float | None
    transform: str | None


def _rounded(
    contents: Contents, kept: Sequence[Kept], others: Sequence[StoredOther], found: CodedTensors
) -> dict[str, _Rounded]:
    """Of each tensor in the quantised stream, by name."""
    if contents.quantized_stream is None:
        return {}
    num_bytes = _payload_bytes(contents, QUANTIZED)
    names = [entry.name for entry in kept] if contents.has_quantized_coefficients else []
    names += [others[place].name for place in quantized_places(contents)]
    total = sum(tensor.bits for _, tensor in found) or 1.0
    ends = [round(num_bytes * end / total) for end in itertools.accumulate(t.bits for _, t in found)]
    rounded = {}
    for name, (layout, tensor), start, end in zip(names, found, [0, *ends], ends, strict=False):
        bits = round(tensor.bits / layout.size, 2) if layout.size else None
        error = None if layout.is_integer else largest_step(tensor) * (2 if tensor.is_dependent else 0.5)
        rounded[name] = _Rounded(end - start, bits, error, None if layout.is_integer else TRANSFORMS[tensor.transform])
    return rounded


def _kept(contents: Contents, kept: Sequence[Kept], rounded: dict[str, _Rounded]) -> tuple[StoredTensor, ...]:
    if contents.coefficients is None:
        return ()
    dtype = number_type_name(contents.coefficients.type_number)
    rest: list[tuple[int, float | None, float | None]]
    if contents.has_quantized_coefficients:
        entries = [rounded[entry.name] for entry in kept]
        rest = [(entry.bytes, entry.bits, entry.worst_error) for entry in entries]
    else:
        total = sum(len(level.coefficients.payload) for level in contents.levels if level.coefficients)
        rest = [(share, None, None) for share in _shares(total, [e.num_kept for e in kept])]
    return tuple(
        StoredTensor(entry.name, entry.shape, entry.axes, entry.order_weights, entry.num_kept, dtype, *more)
        for entry, more in zip(kept, rest, strict=True)
    )


def _others(
    contents: Contents, others: Sequence[StoredOther], rounded: dict[str, _Rounded]
) -> tuple[StoredOtherTensor, ...]:
    sizes = [0] * len(others)
    for stream in contents.other_streams:
        members = [place for place, number in enumerate(contents.other_types) if number == stream.type_number]
        shares = _shares(
            _payload_bytes(contents, stream.type_number), [math.prod(others[place].shape) for place in members]
        )
        for place, share in zip(members, shares, strict=True):
            sizes[place] = share
    stored = []
    for other, number, size in zip(others, contents.other_types, sizes, strict=True):
        entry = rounded[other.name] if number in (QUANTIZED, INTEGERS) else _Rounded(size, None, None, None)
        kind = "parameter" if other.is_parameter else "buffer"
        stored.append(StoredOtherTensor(other.name, other.shape, kind, number_type_name(number), *vars(entry).values()))
    return tuple(stored)


def _payload_bytes(contents: Contents, type_number: int) -> int:
    """Return the bytes of the streams of other tensors of a type, or of the quantised streams, in all levels."""
    streams = [stream for level in contents.levels for stream in level.other_streams]
    if contents.has_quantized_coefficients:
        streams += [level.coefficients for level in contents.levels if level.coefficients is not None]
    return sum(len(stream.payload) for stream in streams if stream.type_number == type_number)


def _shares(num_bytes: int, counts: Sequence[int]) -> list[int]:
    """Return bytes split in proportion to `counts`, with the same sum."""
    total = sum(counts)
    if total == 0:
        return [0] * len(counts)
    ends = [num_bytes * place // total for place in itertools.accumulate(counts, initial=0)]
    return [end - start for start, end in itertools.pairwise(ends)]
