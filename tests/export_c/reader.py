"""The C reader behind a pipe: many files in one process."""

import os
import struct
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch

from tailcut.export_c import NetworkDescription
from tailcut.format.container.numbers import INTEGERS, NUMBER_TYPES, QUANTIZED

STATUSES = (
    "",
    "NotTailcutFileError",
    "UnsupportedVersionError",
    "TruncatedFileError",
    "ChecksumError",
    "CorruptFileError",
    "LimitError",
    "ModelMismatchError",
    "arena too small",
    "bad argument",
)


@dataclass
class ReadTensor:
    """A tensor as the C reader gives it; `values` are its numbers as floats."""

    name: str
    is_parameter: bool
    type: torch.dtype
    is_quantized: bool
    shape: tuple[int, ...]
    axes: tuple[int, ...]
    weights: tuple[int, ...]
    numbers: torch.Tensor
    values: torch.Tensor
    order: list[tuple[int, ...]] = field(default_factory=list)


@dataclass
class Answer:
    """What `tailcut_open` made of a file; `error` is empty where it took it."""

    error: str
    version: int = 0
    metadata: bytes = b""
    num_edits: int = 0
    level: int = 0
    num_levels: int = 0
    peak: int = 0
    kept: list[ReadTensor] = field(default_factory=list)
    others: list[ReadTensor] = field(default_factory=list)


@dataclass(frozen=True)
class Request:
    """A file to read; `network` None for an own class by itself, `level` 0 for the highest that is there."""

    content: bytes
    network: NetworkDescription | None = None
    max_parameters: int = 1 << 30
    arena: int = 1 << 20
    level: int = 0


def read_all(program: Path, requests: Sequence[Request]) -> list[Answer]:
    """The answers of the program, which must not fail."""
    environment = {**os.environ, "ASAN_OPTIONS": "allocator_may_return_null=0:detect_leaks=0"}
    done = subprocess.run([str(program)], input=_packed(requests), capture_output=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr.decode()[-3000:]
    answers = _Answers(done.stdout)
    found = [answers.next() for _ in requests]
    assert answers.at == len(done.stdout)
    return found


def _packed(requests: Sequence[Request]) -> bytes:
    parts, before = [], None
    for request in requests:
        network = request.network
        if network is None:
            parts.append(struct.pack("<I", 0xFFFFFFFF))
        elif network is before:
            parts.append(struct.pack("<I", 0))
        else:
            described = _described(network)
            parts += [struct.pack("<I", len(described)), described]
        before = network
        parts.append(struct.pack("<IIII", request.max_parameters, request.arena, request.level, len(request.content)))
        parts.append(request.content)
    return b"".join(parts)


def _described(network: NetworkDescription) -> bytes:
    parts = []
    for piece in (network.base.encode(), network.arguments, network.edits):
        parts += [struct.pack("<I", len(piece)), piece]
    parts.append(struct.pack("<I", len(network.slots)))
    for slot in network.slots:
        name = slot.name.encode()
        numbers = (int(slot.is_parameter), slot.type_number, len(slot.shape), *slot.shape)
        parts += [struct.pack("<I", len(name)), name, struct.pack(f"<{len(numbers)}I", *numbers)]
    return b"".join(parts)


class _Answers:
    def __init__(self, content: bytes) -> None:
        self.content, self.at = content, 0

    def raw(self, count: int) -> bytes:
        self.at += count
        return self.content[self.at - count : self.at]

    def ints(self, count: int, width: int = 4) -> tuple[int, ...]:
        return struct.unpack(f"<{count}{'I' if width == 4 else 'B'}", self.raw(count * width))

    def next(self) -> Answer:
        (status,) = self.ints(1, 1)
        if status:
            return Answer(STATUSES[status])
        version, length = self.ints(2)
        metadata = self.raw(length)
        num_edits, level, num_levels, peak, num_kept, num_tensors = self.ints(6)
        kept = [self.tensor(is_kept=True) for _ in range(num_kept)]
        others = [self.tensor(is_kept=False) for _ in range(num_tensors - num_kept)]
        return Answer("", version, metadata, num_edits, level, num_levels, peak, kept, others)

    def tensor(self, *, is_kept: bool) -> ReadTensor:
        name = self.raw(self.ints(1)[0]).decode()
        is_parameter, type_, stored, num_axes = self.ints(4, 1)
        shape = self.ints(num_axes)
        (mask,) = self.ints(1)
        weights = self.ints(self.ints(1, 1)[0], 1)
        (count,) = self.ints(1)
        dtype = NUMBER_TYPES[type_]
        raw = self.raw(count * dtype.itemsize)
        numbers = (
            torch.frombuffer(bytearray(raw), dtype=torch.uint8).view(dtype) if count else torch.empty(0, dtype=dtype)
        )
        values = torch.frombuffer(bytearray(self.raw(4 * count)), dtype=torch.float32) if count else torch.empty(0)
        axes = tuple(axis for axis in range(num_axes) if mask >> axis & 1)
        order = [self.ints(num_axes) for _ in range(count)] if is_kept else []
        is_quantized = stored in (QUANTIZED, INTEGERS)
        return ReadTensor(name, bool(is_parameter), dtype, is_quantized, shape, axes, weights, numbers, values, order)
