"""The target of other people's weights: files of `torch.save`, of both of its formats, and of safetensors.

What a mutant changes lies behind true checksums of the zip archive, and true lengths of the header of safetensors.
"""

import io
import math
import pickle
import pickletools
import random
import struct
import tempfile
import warnings
import zipfile
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import safetensors.torch
import torch

from fuzz.mutators import HUGE, Havoc, havoc
from tailcut.errors import DataError, LimitError
from tailcut.format.conversion.reading import read_checkpoint

MAX_NUMBERS = 1 << 20
MAX_MESSAGE = 10_000
_ZIP = b"PK\3\4"
_PICKLE = b"\x80"
_LENGTH = struct.Struct("<Q")  # of the header of safetensors
_NUMBERS = ("BININT", "BININT1", "BININT2", "LONG1")
_TEXTS = (b"F32", b"F16", b"BF16", b"F64", b"F8_E4M3", b"F8_E8M0", b"F4", b"I64", b"U8", b"BOOL", b"C64", b"X")


class UnreadableError(Exception):
    """A checkpoint that is answered wrongly."""


def run(content: bytes) -> None:
    """It gives tensors by name, which can be looked at, or an error of one line."""
    is_torchs = content[:4] == _ZIP or content[:1] == _PICKLE
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torch, which knows no such protocol of pickle
        path = Path(folder) / ("a.pt" if is_torchs else "a.safetensors")
        path.write_bytes(content)
        try:
            tensors = read_checkpoint(path)
        except (DataError, LimitError) as error:
            text = str(error)
            if not text or len(text) > MAX_MESSAGE or any(ord(letter) < 32 and letter != "\n" for letter in text):
                raise UnreadableError(f"an error of {len(text)} letters, or with control characters") from error
            return
        for name, tensor in tensors.items():
            if not isinstance(name, str) or not isinstance(tensor, torch.Tensor):
                raise UnreadableError(f"{name!r} is {type(tensor).__name__}")
            if tensor.numel() != math.prod(tensor.shape):
                raise UnreadableError(f"{name} has another count than its shape")
            if tensor.numel() <= MAX_NUMBERS:
                tensor.double().sum()  # of what lies outside of the storage the process would die


def mutate(content: bytes, rng: random.Random, change: Havoc = havoc) -> bytes:
    """Change a member of the archive, most often a number of its pickle; or the header of safetensors."""
    if rng.random() < 0.03:
        return change(content, rng)
    if content[:1] == _PICKLE:
        return change_pickle(content, rng, change)
    if content[:4] != _ZIP:
        return change_header(content, rng, change)
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            members = [(entry.filename, archive.read(entry)) for entry in archive.infolist()]
    except Exception:  # noqa: BLE001 -- zipfile raises many errors on bytes that are no archive
        return change(content, rng)
    if not members:
        return change(content, rng)
    pickles = [place for place, (name, _) in enumerate(members) if name.endswith(".pkl")]
    place = rng.choice(pickles) if pickles and rng.random() < 0.8 else rng.randrange(len(members))
    name, inner = members[place]
    way = rng.random()
    if way < 0.05:
        del members[place]
    elif way < 0.1:
        members.append((name, change(inner, rng)))
    elif way < 0.15:
        members[place] = (change(name.encode(), rng).decode("utf-8", "replace"), inner)
    else:
        members[place] = (name, change_pickle(inner, rng, change) if place in pickles else change(inner, rng))
    return archived(members, zipfile.ZIP_DEFLATED if rng.random() < 0.1 else zipfile.ZIP_STORED)


def archived(members: list[tuple[str, bytes]], compression: int = zipfile.ZIP_STORED) -> bytes:
    """Return a zip archive of these members."""
    made = io.BytesIO()
    with warnings.catch_warnings(), zipfile.ZipFile(made, "w", compression) as archive:
        warnings.simplefilter("ignore", UserWarning)  # two members of one name
        for name, inner in members:
            archive.writestr(zipfile.ZipInfo(name or "a"), inner, compression)
    return made.getvalue()


def change_pickle(content: bytes, rng: random.Random, change: Havoc) -> bytes:
    """Put another whole number in place of one of a pickle's, or change it blindly."""
    if rng.random() < 0.4:
        return change(content, rng)
    places = list(_numbers(content))
    if not places:
        return change(content, rng)
    start, end = rng.choice(places)
    number = rng.choice((*HUGE, 0, 1, -1, -(2**31), rng.randrange(256)))
    coded = number.to_bytes(9, "little", signed=True)
    return content[:start] + b"\x8a" + bytes([len(coded)]) + coded + content[end:]


def _numbers(content: bytes) -> Iterator[tuple[int, int]]:
    """Yield where the whole numbers of a pickle, or of several one after another, begin and end."""
    stream, start = io.BytesIO(content), None
    try:
        while stream.tell() < len(content):
            for code, _, place in pickletools.genops(stream):
                if start is not None and place is not None:
                    yield start, place
                start = place if code.name in _NUMBERS else None
    except ValueError:  # what follows are numbers of tensors
        return


def change_header(content: bytes, rng: random.Random, change: Havoc) -> bytes:
    """Change the header of safetensors, or what follows it; of most mutants the header's length is true."""
    length = int.from_bytes(content[: _LENGTH.size], "little")
    header, rest = content[_LENGTH.size : _LENGTH.size + length], content[_LENGTH.size + length :]
    way = rng.random()
    if way < 0.4 and header:
        header = change(header, rng)
    elif way < 0.6:
        header = header.replace(rng.choice(_TEXTS[:3]), rng.choice(_TEXTS))
    elif way < 0.8:
        digits = [place for place, letter in enumerate(header) if letter in b"0123456789"]
        place = rng.choice(digits) if digits else 0
        header = header[:place] + str(rng.choice((*HUGE, 0, 1, -1, 7))).encode() + header[place + 1 :]
    else:
        rest = change(rest, rng)
    true = _LENGTH.pack(len(header))
    return (true if rng.random() < 0.9 else change(true, rng)) + header + rest


def seeds() -> Iterator[tuple[str, bytes]]:
    """Yield names and files of each format: plain, nested, with views of one storage and of several types."""
    torch.manual_seed(0)
    weight = torch.arange(12.0).reshape(3, 4)
    states: dict[str, dict[str, Any]] = {
        "plain": OrderedDict([("fc.weight", weight), ("fc.bias", torch.ones(3))]),
        "nested": {"epoch": 3, "state_dict": {"module.fc.weight": weight, "n": torch.tensor(5)}, "best": 0.5},
        "views": {"a": weight.T, "b": weight[1:], "c": weight.expand(2, 3, 4), "d": torch.zeros(0, 3)},
        "types": {name: torch.ones(2, dtype=getattr(torch, name)) for name in ("float16", "bfloat16", "int64", "bool")},
    }
    for name, state in states.items():
        for is_zip in (True, False):
            made = io.BytesIO()
            torch.save(state, made, _use_new_zipfile_serialization=is_zip)
            yield f"{name}-{'zip' if is_zip else 'legacy'}", compact(made.getvalue())
    for name in ("plain", "types"):
        yield f"{name}-safetensors", safetensors.torch.save(dict(states[name]))
    yield "list-zip", archived([("a/data.pkl", pickle.dumps([1, 2, 3], protocol=2)), ("a/version", b"3\n")])


def compact(content: bytes) -> bytes:
    """Return a file of `torch.save` without the zeros between the members of its archive."""
    if content[:4] != _ZIP:
        return content
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        return archived([(entry.filename, archive.read(entry)) for entry in archive.infolist()])
