"""Damaged and hostile files: each ends in one of our errors, soon and without memory, or loads as a sound network.

Most files here are built by hand from the items of SPEC.md and have a true checksum, so that the parser behind it is
tried.
"""

import contextlib
import dataclasses
import gc
import itertools
import random
import resource
import struct
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.format.networks import OwnNet, randomize, registered, regularized, with_checksum
from tests.processor_time import within
from torch import nn

import tailcut
from tailcut.errors import (
    ArgumentError,
    ChecksumError,
    CorruptFileError,
    FormatError,
    LimitError,
    ModelMismatchError,
    NotTailcutFileError,
    TruncatedFileError,
    UnsupportedVersionError,
)
from tailcut.format import codecs, encode_network, load
from tailcut.format.container.contents import (
    Contents,
    StoredBase,
    StoredOther,
    Stream,
    _encode_header,
    _streams,
    decode,
    encode,
)
from tailcut.format.load import apply_edits, bare_network, decode_edits
from tailcut.format.network.tensors import list_digest, network_tensors
from tailcut.structure import Writer

HEAD = b"\x89TCT\x01"
STATM = Path("/proc/self/statm")  # Linux only; elsewhere memory is not watched
SLACK_BYTES = 512 << 20  # address space; what a process takes for threads is in it
HUGE = (2**63 - 1, 2**62, 2**40, 2**32, 2**31 - 1, 2**24, 65_536, 16_385)
OWN = randomize(OwnNet(), 1)
tailcut.regularize(
    OWN, num_kept=5, include=["conv.weight", "first.weight"], overrides={"first.weight": {"num_kept": 3}}
)


class Small(nn.Module):
    """A registered network that loads in a millisecond and takes arguments of every type."""

    def __init__(
        self, *, widths: tuple[int, ...] = (3, 2), bias: bool = True, scale: float = 1.0, name: str = "a"
    ) -> None:
        super().__init__()
        self.layers = nn.Sequential(*(nn.Linear(a, b, bias=bias) for a, b in itertools.pairwise(widths)))
        self.norm = nn.BatchNorm1d(widths[-1])


@pytest.fixture(autouse=True, scope="module")
def small_network() -> Iterator[None]:
    with registered("small", Small):
        yield


@pytest.fixture(autouse=True)
def little_memory() -> Iterator[None]:
    """The address space may hardly grow while a test runs: what asks for more gets a MemoryError, which is not ours."""
    if not STATM.exists():
        yield
        return
    torch.ones(100, 100) @ torch.ones(100, 100)  # so that threads are there
    pages = int(STATM.read_text().split()[0])
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + SLACK_BYTES, hard))
    yield
    resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


@contextlib.contextmanager
def in_a_second() -> Iterator[None]:
    """Within the block, which may take a second of processor time, what other tests have left is not collected."""
    was_enabled = gc.isenabled()
    gc.disable()
    start = time.process_time()
    try:
        yield
    finally:
        spent = time.process_time() - start
        if was_enabled:
            gc.enable()
        assert within(spent, seconds=1)


class Trial:
    """Loads and inspects bytes, and watches the time."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.file = path.open("wb")

    def write(self, content: bytes) -> Path:
        # Opening a file anew for each of many thousand contents takes longer than loading them.
        self.file.seek(0)
        self.file.write(content)
        self.file.truncate()
        self.file.flush()
        return self.path

    def load(self, content: bytes, into: nn.Module | None = None, **settings: Any) -> nn.Module:
        self.write(content)
        with in_a_second():
            return load(self.path, into=into, **settings)

    def inspect(self, content: bytes) -> None:
        self.write(content)
        with in_a_second():
            tailcut.inspect(self.path)

    def refuse(
        self, content: bytes, error: type[FormatError], message: str | None = None, into: nn.Module | None = None
    ) -> None:
        """Both `load` and `inspect` raise just this error (`load` alone where a network is what does not fit)."""
        with pytest.raises(error, match=message) as caught:
            self.load(content, into)
        assert type(caught.value) is error
        assert str(caught.value).startswith(str(self.path))
        if error is not ModelMismatchError or into is None:
            with pytest.raises(error, match=message):
                self.inspect(content)


@pytest.fixture
def trial(tmp_path: Path) -> Iterator[Trial]:
    made = Trial(tmp_path / "hostile.tailcut")
    yield made
    made.file.close()


def small(**arguments: Any) -> nn.Module:
    return randomize(tailcut.create_model("small", **arguments), 1)


def own_contents() -> Contents:
    return decode(encode_network(OWN, dtype="float16", registered=False)[0])


def small_contents(**arguments: Any) -> Contents:
    model = small(**arguments)
    tailcut.regularize(model, num_kept=4)
    return decode(encode_network(model, dtype="float16")[0])


def true_digest(contents: Contents) -> bytes:
    """The digest that the contents should have, so that a changed list of tensors passes this check."""
    if contents.base is not None:
        model = bare_network(contents, 1 << 20)
        return network_tensors(model, apply_edits(contents, model, 1 << 20)).digest()
    kept = [entry for edit in decode_edits(contents, 1 << 20) for entry in edit.coefficient_layouts()]
    return list_digest(kept, contents.others)


def with_digest(content: bytes) -> bytes:
    """The file with digest and checksum repaired, where it can be read so far."""
    try:
        digest = true_digest(decode(content))
    except (FormatError, ArgumentError, ValueError):
        return content
    return with_checksum(content[:9] + digest + content[13:])


def file_of(contents: Contents, **changes: Any) -> bytes:
    return with_digest(encode(dataclasses.replace(contents, **changes)))


def header_of(contents: Contents) -> bytes:
    """The header before it is packed."""
    return _encode_header(contents)


def raw_file(header: bytes, payload: bytes = b"", *, digest: bytes = b"1234", mark: int | None = None) -> bytes:
    """A file around any header, unpacked."""
    writer = Writer()
    writer.raw(digest)
    writer.uint(2 * len(header) if mark is None else mark)
    return with_checksum(HEAD + bytes(4) + writer.getvalue() + header + payload)


def items(*parts: int | str | bytes | float) -> bytes:
    """Integers as varints, strings as texts, floats as float64, bytes as they are."""
    writer = Writer()
    for part in parts:
        if isinstance(part, bytes):
            writer.raw(part)
        elif isinstance(part, str):
            writer.text(part)
        elif isinstance(part, float):
            writer.float64(part)
        else:
            writer.uint(part)
    return writer.getvalue()


def own_header(metadata: bytes = b"", rest: bytes | None = None) -> bytes:
    return items("", len(metadata), metadata, b"\0\0\0" if rest is None else rest)


def regularize_edit(*parts: int | str | bytes | float) -> bytes:
    """The header of an own class with one edit of kind 1 of these items, one other tensor, and coefficients."""
    edit = items(*parts)
    return items("", 0, 1, 1, len(edit), edit, 0, 1, b"\0")


# ---- the head ----


def test_an_empty_file(trial: Trial) -> None:
    trial.refuse(b"", NotTailcutFileError, "not a .tailcut file: it is empty")


@pytest.mark.parametrize("content", [b"\0", b"PK\x03\x04" * 9, b"\x89TCU\x01" + bytes(40), b"TCT\x01", b"\x89PNG"])
def test_other_files(content: bytes, trial: Trial) -> None:
    trial.refuse(content, NotTailcutFileError, r"does not begin with the magic bytes 89 54 43 54")


@pytest.mark.parametrize("version", [0, 4, 5, 255])
def test_other_versions(version: int, trial: Trial) -> None:
    content = encode_network(small(), dtype="float16")[0]
    changed = with_checksum(content[:4] + bytes([version]) + content[5:])
    for damaged in (changed, changed[:5], changed[:-1]):
        trial.refuse(
            damaged, UnsupportedVersionError, f"format version {version}, .* reads versions 1 to 3; update Tailcut"
        )


@pytest.mark.parametrize("own", [False, True])
def test_truncation_at_every_length(own: bool, trial: Trial) -> None:
    content, into = file_of(own_contents() if own else small_contents()), OwnNet() if own else None
    for length in range(1, len(content)):
        cut = content[:length]
        trial.refuse(cut, TruncatedFileError if length < 13 else ChecksumError, into=into)
        if length >= 13:
            with pytest.raises((TruncatedFileError, CorruptFileError)):
                trial.load(with_checksum(cut), into)


def test_every_flipped_bit_is_found(trial: Trial) -> None:
    content = file_of(small_contents())
    for place, bit in itertools.product(range(len(content)), range(8)):
        changed = bytearray(content)
        changed[place] ^= 1 << bit
        error: type[FormatError] = ChecksumError
        if place < 5:
            error = NotTailcutFileError if place < 4 else UnsupportedVersionError
        if (place, bit) == (4, 1):  # version 1 becomes version 3, which has no checksum there
            error = FormatError
        with pytest.raises(error):
            trial.load(bytes(changed))


def test_bytes_behind_the_end(trial: Trial) -> None:
    content = file_of(small_contents())
    trial.refuse(content + b"\0", ChecksumError)
    trial.refuse(with_checksum(content + b"\0"), CorruptFileError, "payload")
    empty = file_of(Contents(None, b"1234", {}, ()))
    trial.inspect(empty)
    trial.refuse(with_checksum(empty + b"\0"), CorruptFileError, "1 bytes follow the header", into=nn.ReLU())


# ---- varints ----


def splices(content: bytes) -> Iterator[bytes]:
    """The bytes with a huge varint in each place, whatever stood there."""
    for place, value in itertools.product(range(len(content)), HUGE):
        yield content[:place] + items(value) + content[place + 1 :]


@pytest.mark.parametrize("own", [False, True])
def test_huge_numbers_everywhere(own: bool, trial: Trial) -> None:
    contents = own_contents() if own else small_contents(bias=False)
    header, payload = header_of(contents), b"".join(stream.payload for stream in _streams(contents))
    files = [raw_file(changed, payload) for changed in splices(header)]
    ((_, edit),) = contents.edits
    files += [file_of(contents, edits=((1, changed),)) for changed in splices(edit)]
    sound = 0
    for changed in files:
        try:
            trial.load(with_digest(changed), OwnNet() if own else None)
            sound += 1
        except FormatError:
            pass
    # A number may stand where its size does not matter, such as the largest count of way 0.
    assert sound < len(files) / 20


@pytest.mark.parametrize(
    "varint", [b"\x80\0", b"\x81\0", b"\xff" * 9 + b"\x01", b"\x80" * 20 + b"\x01", b"\xff" * 8 + b"\x80\x01"]
)
def test_varints_have_one_form_and_63_bits(varint: bytes, trial: Trial) -> None:
    trial.refuse(raw_file(items("") + varint), CorruptFileError, "shortest form|63 bits", into=nn.ReLU())


def test_the_header_may_claim_too_much(trial: Trial) -> None:
    most = 1 << 20
    for mark in (2 * most + 2, 2 * most + 3, 2**62):
        trial.refuse(raw_file(b"", mark=mark), LimitError, f"at most {2 * most + 1} is allowed", into=nn.ReLU())
    trial.refuse(raw_file(b"\0", mark=2 * most), TruncatedFileError, f"{most} bytes expected", into=nn.ReLU())
    trial.refuse(raw_file(b"\0" * 9), CorruptFileError, "are left", into=nn.ReLU())
    trial.refuse(raw_file(b"\0" * 9, mark=2 * 4), TruncatedFileError, "header: 1 bytes", into=nn.ReLU())


def packed_file(packed: bytes, claimed: int) -> bytes:
    return with_checksum(HEAD + bytes(4) + b"1234" + items(2 * len(packed) + 1, claimed) + packed)


def test_packed_headers_expand_to_what_they_say(trial: Trial) -> None:
    header = own_header()
    packed = codecs.DEFLATE.encode(header, 1)
    trial.inspect(with_digest(packed_file(packed, len(header))))
    bomb = codecs.DEFLATE.encode(bytes(50_000_000), 1)
    for content, claimed in [
        (packed, len(header) + 1),
        (packed, len(header) - 1),
        (packed[:-1], len(header)),
        (packed + b"\0", len(header)),
        (b"\xff" * 30, 9),
        (bomb, 100),
        (bomb, 1 << 20),
    ]:
        trial.refuse(packed_file(content, claimed), CorruptFileError, "deflate payload", into=nn.ReLU())
    for claimed in ((1 << 20) + 1, 50_000_000, 2**62):
        trial.refuse(packed_file(bomb, claimed), LimitError, "size of the header", into=nn.ReLU())


# ---- base and arguments ----


def base_file(name: str, *arguments: bytes, count: int | None = None) -> bytes:
    listed = b"".join(arguments)
    return raw_file(items(name, len(arguments) if count is None else count, listed, 0, 0, 0))


def test_unknown_names_and_arguments(trial: Trial) -> None:
    trial.refuse(base_file("lenet6"), ModelMismatchError, "model 'lenet6', which is not registered here")
    trial.refuse(base_file("os.system"), ModelMismatchError, "not registered here")
    trial.refuse(base_file("small", items(4, 1)), ModelMismatchError, "argument number 4 .* has 4 here")
    trial.refuse(base_file("small", items(2**63 - 1, 1)), ModelMismatchError, "argument number")
    trial.refuse(base_file("small", items(0, 1), items(0, 1)), CorruptFileError, "ascending order")
    trial.refuse(base_file("small", items(1, 1), items(0, 1)), CorruptFileError, "ascending order")
    trial.refuse(base_file("small", count=65), LimitError, "number of arguments is 65, at most 64")
    trial.refuse(base_file("small", count=64), TruncatedFileError)


def value(item: Any) -> bytes:
    writer = Writer()
    writer.value(item)
    return writer.getvalue()


@pytest.mark.parametrize(
    "written",
    [
        *(value(item) for item in (-1, 0, True, 1.5, float("inf"), float("nan"), "text", (3, 2), (3, True), (3, 2.0))),
        *(value(item) for item in ((3, -2), (3, 2**40), (2**63 - 1, 2), (-(2**62), 1), ((3, 2),), (), ("a",))),
    ],
    ids=bytes.hex,
)
@pytest.mark.parametrize("place", [0, 1, 2, 3])
def test_arguments_of_any_type_and_size(place: int, written: bytes, trial: Trial) -> None:
    """The digest does not match, so that none of them loads; but the network is built from them."""
    with pytest.raises((CorruptFileError, LimitError, ModelMismatchError)):
        trial.load(base_file("small", items(place) + written))


@pytest.mark.parametrize(
    ("name", "place", "item"),
    [
        ("unet", 0, 2**24),
        ("unet", 1, 0),
        ("unet", 1, -3),
        ("unet", 2, ()),
        ("unet", 2, (1,)),
        ("unet", 2, (1,) * 256),
        ("unet", 2, (65_536,) * 16),
        ("unet", 2, (2**24, 2**24)),
        ("unet", 2, (0, 0)),
        ("unet", 2, (8, "8")),
        ("lenet300", 1, 2**24),
        ("lenet5", 1, 2**40),
        ("lenet5", 0, "yes"),
    ],
)
def test_hostile_arguments_of_the_networks_that_ship(name: str, place: int, item: Any, trial: Trial) -> None:
    with pytest.raises((CorruptFileError, LimitError, ModelMismatchError)):
        trial.load(base_file(name, items(place) + value(item)))


@pytest.mark.parametrize(
    ("written", "error", "message"),
    [
        (b"\x06\x01" * 3 + b"\0", CorruptFileError, "unknown type tag 6"),
        (b"\x06\x01" * 5000, CorruptFileError, "unknown type tag 6"),
        (b"\x06" + items(257) + bytes(257), LimitError, "length of a list is 257, at most 256"),
        (b"\x06" + items(2**63 - 1), LimitError, "length of a list"),
        (b"\x06\x80\x02" + (b"\x06\x80\x02" + bytes(256)) * 256, CorruptFileError, "cannot be built"),
        (b"\x07", CorruptFileError, "unknown type tag 7"),
        (b"\xff", CorruptFileError, "unknown type tag 255"),
        (b"\x03\0", CorruptFileError, "negative zero"),
        (b"\x05" + items(4097) + bytes(4097), LimitError, "length of a text is 4097, at most 4096"),
        (b"\x05\x02\xc3\x28", CorruptFileError, "not valid UTF-8"),
        (b"\x05\x03\xed\xa0\x80", CorruptFileError, "not valid UTF-8"),
        (b"\x05\x01\x1b", CorruptFileError, "control character"),
        (b"\x05\x02\xc2\x9b", CorruptFileError, "control character"),
        (b"\x04" + bytes(3), TruncatedFileError, "header: 8 bytes expected"),
    ],
    ids=lambda entry: entry[:8].hex() if isinstance(entry, bytes) else "",
)
def test_values(written: bytes, error: type[FormatError], message: str, trial: Trial) -> None:
    header = items("small", 1, 0) + written
    complete = error is not TruncatedFileError
    trial.refuse(raw_file(header + (items(0, 0, 0) if complete else b"")), error, message)


# ---- metadata ----


@pytest.mark.parametrize(
    "metadata",
    [
        b"[" * 65_536,
        b'{"a":' * 13_000,
        b'{"a":' * 5000 + b"1" + b"}" * 5000,
        b"[]",
        b"1",
        b"null",
        b'"a"',
        b'{"a":NaN}',
        b'{"a":-Infinity}',
        b'{"a":1e999}',
        b'{"a":"\\ud800"}',
        b'{"a":1}x',
        b'{"a":1',
        b"\xff\xfe",
        b'{"a":"\xed\xa0\x80"}',
        b'{"a":' + b"9" * 60_000 + b"}",
        bytes(65_536),
    ],
    ids=lambda metadata: repr(metadata[:12]),
)
def test_metadata(metadata: bytes, trial: Trial) -> None:
    trial.refuse(raw_file(own_header(metadata)), CorruptFileError, "metadata is no", into=nn.ReLU())


def test_too_much_metadata(trial: Trial) -> None:
    sound = b'{"a":"' + b"x" * 65_528 + b'"}'
    assert len(sound) == 65_536
    trial.inspect(with_digest(raw_file(own_header(sound))))
    for length in (65_537, 2**63 - 1):
        header = items("", length) + b'{"a":"' + b"x" * 65_529 + b'"}'
        trial.refuse(raw_file(header), LimitError, f"metadata is {length}, at most 65536", into=nn.ReLU())


# ---- edits ----


def test_edits_of_unknown_kinds_and_numbers(trial: Trial) -> None:
    contents = own_contents()
    ((_, edit),) = contents.edits
    for number in (0, 5, 6, 2**63 - 1):
        trial.refuse(
            file_of(contents, edits=((number, edit),)),
            UnsupportedVersionError,
            "kind of edit .* newer",
            OwnNet(),
        )
    header = items("", 0, 17, *([1, 0] * 17), 0, 0)
    trial.refuse(raw_file(header), LimitError, "number of edits is 17, at most 16", into=nn.ReLU())
    trial.refuse(raw_file(items("", 0, 1, 1, 2**63 - 1)), TruncatedFileError, into=nn.ReLU())
    twice = file_of(contents, edits=((1, edit), (1, edit)))
    with pytest.raises(ModelMismatchError, match="regularised already"):
        trial.load(twice, OwnNet())


W = ("weight", 2, 2, 3)


@pytest.mark.parametrize(
    ("edit", "error", "message"),
    [
        ((1, *W, 0, 0, 0), CorruptFileError, "0 coefficients of a tensor that has 6"),
        ((1, *W, 0, 2, 7), CorruptFileError, "7 coefficients of a tensor that has 6"),
        ((1, *W, 0, 2, 2**63 - 1), CorruptFileError, "coefficients of a tensor that has 6"),
        ((1, *W, 0, 1, 0.0), CorruptFileError, "keep ratio is 0.0"),
        ((1, *W, 0, 1, -1.0), CorruptFileError, "keep ratio"),
        ((1, *W, 0, 1, float("nan")), CorruptFileError, "keep ratio is nan"),
        ((1, *W, 0, 1, 1.0000001), CorruptFileError, "keep ratio"),
        ((1, *W, 0, 3, 6, 0, 1, b"\x01"), CorruptFileError, "7 coefficients"),
        ((1, *W, 0, 3, 3, 3, 0), CorruptFileError, "0 coefficients"),
        ((1, *W, 0, 3, 3, 2**63 - 1, 0), CorruptFileError, "coefficients"),
        ((1, *W, 0, 3, 3, 0, 1, b"\x03"), CorruptFileError, "bits behind the differences"),
        ((1, *W, 0, 3, 3, 0, b"\x40", bytes(8)), CorruptFileError, "differences of 64 bits, at most 63"),
        ((1, *W, 0, 3, 3, 0, b"\x3f", bytes(7)), TruncatedFileError, "edit 'regularize': 8 bytes expected"),
        ((1, *W, 0, 4, 2.0, 0, 0), CorruptFileError, "keep ratio"),
        ((1, *W, 0, 5, 1), CorruptFileError, "unknown way 5"),
        ((1, *W, 0, b"\xff"), CorruptFileError, "unknown way 255"),
        ((1, *W, 0, 0, 3, 0), CorruptFileError, "1 bytes are left"),
        ((1, *W, 0, 0), TruncatedFileError, "bytes expected"),
        ((2, *W, *W, 0, 0, 3), CorruptFileError, "named twice"),
        ((1, "weight", 2, 0, 3, 0, 0, 1), CorruptFileError, "regularised tensor is empty"),
        ((1, "weight", 17, *[1] * 17, 0, 0, 1), LimitError, "number of axes is 17, at most 16"),
        ((16_385,), LimitError, "number of regularised tensors is 16385, at most 16384"),
        ((16_384,), TruncatedFileError, "bytes expected"),
        ((2**63 - 1,), LimitError, "number of regularised tensors"),
        ((1, *W, 2, 0, 0, 0, 0, 0, 0, 3), LimitError, "number of settings is 2, at most 1"),
        ((1, *W, 1, 65_537, 0, 0, 3), LimitError, "set of axes is 65537, at most 65536"),
        ((1, *W, 1, 1 + 4, 0, 0, 3), CorruptFileError, r"do not fit a tensor of shape \(2, 3\)"),
        ((1, *W, 1, 65_536, 0, 0, 3), CorruptFileError, "do not fit"),
        ((1, *W, 1, 0, 17, *[1] * 17, 0, 3), LimitError, "number of order weights is 17, at most 16"),
        ((1, *W, 1, 0, 1, 1, 0, 3), CorruptFileError, "do not fit"),
        ((1, *W, 1, 0, 2, 1, 0, 0, 3), CorruptFileError, "integers from 1 to 64"),
        ((1, *W, 1, 0, 2, 1, 65, 0, 3), CorruptFileError, "integers from 1 to 64"),
        ((1, *W, 1, 0, 2, 1, 2**63 - 1, 0, 3), CorruptFileError, "integers from 1 to 64"),
        ((2, *W, "b", 1, 2, 2, 0, 0, 2, 0, 0, 2, 1, 0, 1), LimitError, "number of a setting is 2, at most 1"),
    ],
    ids=str,
)
def test_edits_that_break_a_rule(edit: tuple[Any, ...], error: type[FormatError], message: str, trial: Trial) -> None:
    trial.refuse(raw_file(regularize_edit(*edit), b"\0" * 12), error, message, into=nn.Linear(3, 2))


@pytest.mark.parametrize(
    ("edit", "into", "message"),
    [
        ((1, "wait", 2, 2, 3, 0, 0, 3), nn.Linear(3, 2), "no parameter 'wait' to regularise"),
        ((1, "weight", 2, 3, 2, 0, 0, 3), nn.Linear(3, 2), r"the model has shape \(2, 3\), recorded is \(3, 2\)"),
        ((1, "weight", 1, 6, 0, 0, 3), nn.Linear(3, 2), "recorded is"),
        ((1, "0", 1, 6, 0, 0, 3), nn.ParameterList([torch.zeros(6)]), "lies in a ParameterList"),
        ((1, "running_mean", 1, 2, 0, 0, 1), nn.BatchNorm1d(2), "no parameter 'running_mean'"),
    ],
    ids=str,
)
def test_edits_that_do_not_fit_the_network(edit: tuple[Any, ...], into: nn.Module, message: str, trial: Trial) -> None:
    before = {key: tensor.clone() for key, tensor in into.state_dict().items()}
    trial.refuse(raw_file(regularize_edit(*edit), b"\0" * 12), ModelMismatchError, message, into=into)
    assert all(torch.equal(tensor, before[key]) for key, tensor in into.state_dict().items())
    assert list(into.state_dict()) == list(before)


def test_a_selection_behind_the_last_parameter(trial: Trial) -> None:
    contents = small_contents()
    for bits in (0x80, 0x10):  # the network has four parameters
        edit = items(bytes([bits]), 0, 0, 4)
        trial.refuse(file_of(contents, edits=((1, edit),)), CorruptFileError, "behind the last of 4 parameters")


# ---- other tensors, number types, streams ----


def test_names_that_occur_twice_or_not_at_all(trial: Trial) -> None:
    contents = own_contents()
    first = contents.others[0]
    twice = dataclasses.replace(contents.others[1], name=first.name, shape=first.shape)
    header = items("", 0, 0, 2, b"\1", "a", 1, 1, b"\1", "a", 1, 1, 2, 2, b"\0\0")
    trial.refuse(raw_file(header, bytes(8)), CorruptFileError, "a tensor is named twice", into=nn.ReLU())
    with pytest.raises(ArgumentError, match="named twice"):
        file_of(contents, others=(first, twice, *contents.others[2:]))
    renamed = dataclasses.replace(first, name="elsewhere")
    content = file_of(contents, others=(renamed, *contents.others[1:]))
    trial.refuse(content, ModelMismatchError, "'elsewhere', which the network does not have", OwnNet())
    also_kept = dataclasses.replace(first, name="conv.weight")
    content = file_of(contents, others=(also_kept, *contents.others[1:]))
    trial.refuse(content, CorruptFileError, "stored twice", OwnNet())


def test_a_digest_of_another_list(trial: Trial) -> None:
    content = encode(dataclasses.replace(own_contents(), digest=b"1234"))
    trial.refuse(content, CorruptFileError, "digest is not that of the tensors", OwnNet())
    trial.refuse(encode(dataclasses.replace(small_contents(), digest=b"1234")), ModelMismatchError, "names, shapes")


@pytest.mark.parametrize(
    ("rest", "error", "message"),
    [
        (items(0, 16_385), LimitError, "other tensors is 16385, at most 16384"),
        (items(0, 2**63 - 1), LimitError, "other tensors"),
        (items(0, 16_384), TruncatedFileError, "expected"),
        (items(0, 1, b"\2", "a", 0, 2, 1, b"\0\0"), CorruptFileError, "neither 0 nor 1"),
        (items(0, 1, b"\1", "a", 17), LimitError, "number of axes"),
        (items(0, 0, 2 * 16_385), LimitError, "number of runs of types"),
        (items(0, 0, 2, 1, b"\0\0"), CorruptFileError, "1 number types for 0 other tensors"),
        (items(0, 1, b"\1", "a", 0, 2, 16_385, b"\0"), LimitError, "length of a run"),
        (items(0, 1, b"\1", "a", 0, 2, 2**63 - 1, b"\0"), LimitError, "length of a run"),
        (items(0, 1, b"\1", "a", 0, 4, 0, b"\0", 1, b"\1\0"), CorruptFileError, "run of number types is empty"),
        (items(0, 2, b"\1", "a", 0, b"\1", "b", 0, 4, 1, b"\0", 1, b"\0\0"), CorruptFileError, "not joined"),
        (items(0, 1, b"\1", "a", 0, 2, 1, b"\x0a"), UnsupportedVersionError, "unknown number type 10"),
        (items(0, 1, b"\1", "a", 0, 2, 1, b"\0\xa0"), UnsupportedVersionError, "unknown number type 10"),
        (items(0, 1, b"\1", "a", 0, 2, 1, b"\0\x03"), UnsupportedVersionError, "unknown codec 3"),
        (items(0, 1, b"\1", "a", 0, 2, 1, b"\0\x0f"), UnsupportedVersionError, "unknown codec 15"),
        (items(0, 1, b"\1", "a", 0, 2, 1, b"\0\x10"), CorruptFileError, "types of the streams"),
        (items(0, 1, b"\1", "a", 0, 2, 1, b"\0\0", 7), CorruptFileError, "1 bytes are left"),
        (items(0, 0, 1, b"\0"), CorruptFileError, "coefficients without regularised tensors"),
    ],
    ids=lambda entry: entry.hex()[:24] if isinstance(entry, bytes) else "",
)
def test_lists_that_break_a_rule(rest: bytes, error: type[FormatError], message: str, trial: Trial) -> None:
    into = nn.Module()
    if b"\x01a" in rest and error is not CorruptFileError:
        into.register_parameter("a", nn.Parameter(torch.zeros(())))
    content = with_digest(raw_file(own_header(rest=rest), bytes(4)))
    with pytest.raises(error, match=message):
        trial.inspect(content)
    with pytest.raises(error, match=message):
        trial.load(content, into)


@pytest.mark.parametrize("codec", [0, 1, 2])
def test_payloads_longer_or_shorter_than_claimed(codec: int, trial: Trial) -> None:
    contents = own_contents()
    assert contents.coefficients is not None
    raw = contents.coefficients.decode(8)
    for count in (0, 1, 4, 7, 9, 16):
        payload = codecs.CODECS[codec].encode((raw * 2)[: 2 * count], 2) or b""
        trial.refuse(file_of(contents, coefficients=Stream(1, codec, payload)), CorruptFileError, "payload", OwnNet())
    whole = codecs.CODECS[codec].encode(raw, 2)
    assert whole is not None
    for payload in (whole + b"\0", whole[:-1], b"", whole * 2):
        trial.refuse(file_of(contents, coefficients=Stream(1, codec, payload)), CorruptFileError, "payload", OwnNet())
    assert trial.load(file_of(contents, coefficients=Stream(1, codec, whole)), OwnNet())


def test_lengths_of_payloads(trial: Trial) -> None:
    header = items("", 0, 0, 2, b"\1", "a", 1, 1, b"\1", "b", 1, 1, 4, 1, b"\0", 1, b"\1", b"\0\x10")
    for length in (7, 100, 2**63 - 1):
        trial.refuse(
            raw_file(header + items(length), bytes(6)), TruncatedFileError, f"{length} bytes expected", nn.ReLU()
        )
    trial.inspect(with_digest(raw_file(header + items(4), bytes(6))))


def test_payloads_that_expand(trial: Trial) -> None:
    """A stream of DEFLATE is stopped at what the header says, and what the header says is capped first."""
    contents = own_contents()
    bomb = codecs.DEFLATE.encode(bytes(60_000_000), 2)
    trial.refuse(
        file_of(contents, coefficients=Stream(1, 1, bomb)), CorruptFileError, "deflate payload: .* holds more", OwnNet()
    )
    claims = StoredOther("a", (30_000_000,), True)
    content = file_of(Contents(None, b"1234", {}, (), (claims,), None, (1,), (Stream(1, 1, bomb),)))
    with pytest.raises(LimitError, match="has 30000000 numbers or more, at most 1000000 are allowed"):
        tailcut.inspect(trial.write(content), max_parameters=1_000_000)
    with pytest.raises(LimitError, match="has 30000000 numbers or more"):
        trial.load(content, nn.Linear(2, 2), max_parameters=1_000_000)


def test_range_payloads_are_capped(trial: Trial) -> None:
    claims = StoredOther("a", (40_000,), True)
    content = file_of(Contents(None, b"1234", {}, (), (claims,), None, (1,), (Stream(1, 2, bytes(9)),)))
    with pytest.raises(CorruptFileError, match="expected 1 to 65536 bytes of content, the header says 80000"):
        trial.inspect(content)


@pytest.mark.parametrize("number", [float("nan"), float("inf"), -float("inf")])
def test_coefficients_are_finite(number: float, trial: Trial) -> None:
    payload = struct.pack("<8e", 1, 2, number, 4, 5, 6, 7, 8)
    trial.refuse(file_of(own_contents(), coefficients=Stream(1, 0, payload)), CorruptFileError, "not finite", OwnNet())


def test_coefficients_are_real_numbers(trial: Trial) -> None:
    for number, size in ((4, 8), (7, 1), (9, 1)):
        stream = Stream(number, 0, bytes(8 * size))
        trial.refuse(file_of(own_contents(), coefficients=stream), CorruptFileError, "no real numbers", OwnNet())
    with pytest.raises(CorruptFileError, match="coefficients without regularised tensors"):
        trial.load(file_of(own_contents(), coefficients=None), OwnNet())


def test_integers_keep_their_type(trial: Trial) -> None:
    contents = own_contents()
    place = next(n for n, other in enumerate(contents.others) if other.name == "constants.table")
    types = list(contents.other_types)
    assert types[place] == 6
    for number in (0, 5, 7):
        changed = [*types[:place], number, *types[place + 1 :]]
        counts = dict.fromkeys(dict.fromkeys(changed), 0)
        for other, kind in zip(contents.others, changed, strict=True):
            counts[kind] += int(torch.Size(other.shape).numel())
        sizes = {0: 4, 3: 8, 4: 8, 5: 4, 7: 1, 8: 1, 9: 1}
        streams = tuple(Stream(kind, 0, bytes(sizes[kind] * count)) for kind, count in counts.items())
        content = file_of(contents, other_types=tuple(changed), other_streams=streams)
        trial.refuse(content, ModelMismatchError, r"constants\.table is of type torch\.int16 in the network", OwnNet())


def test_bools_are_0_or_1(trial: Trial) -> None:
    contents = own_contents()
    streams = tuple(
        dataclasses.replace(stream, codec_number=0, payload=b"\1\0\2\0\0\0") if stream.type_number == 9 else stream
        for stream in contents.other_streams
    )
    trial.refuse(file_of(contents, other_streams=streams), CorruptFileError, "bool is neither 0 nor 1", OwnNet())


# ---- sizes ----


@pytest.mark.parametrize("shape", [(2**62,), (2**40, 2**40), (2**63 - 1,) * 16, (2**31, 1)])
@pytest.mark.parametrize("kept", [False, True])
def test_shapes_beyond_the_cap(shape: tuple[int, ...], kept: bool, trial: Trial) -> None:
    if kept:
        content = with_digest(raw_file(regularize_edit(1, "weight", len(shape), *shape, 0, 0, 3), bytes(12)))
    else:
        stream = Stream(0, 0, bytes(12))
        content = file_of(Contents(None, b"1234", {}, (), (StoredOther("weight", shape, True),), None, (0,), (stream,)))
    with pytest.raises(LimitError, match=f"numbers or more, at most {2**30} are allowed"):
        trial.inspect(content)
    with pytest.raises(ModelMismatchError if kept else LimitError):
        trial.load(content, nn.Linear(3, 2))


@pytest.mark.parametrize("kept", [{"num_kept": 3}, {}])
def test_max_parameters_holds_before_memory_is_taken(kept: dict[str, int], trial: Trial) -> None:
    """A UNet of 31 million parameters in a file of a hundred bytes: 124 MB if it were built."""
    if kept:
        model = regularized("unet", arguments={"bias": False, "affine": False, "running_stats": False}, **kept)
        content = encode_network(model, dtype="float16")[0]
    else:
        content = base_file("unet")
    with pytest.raises(LimitError, match="at most 1000000 are allowed"):
        trial.load(content, max_parameters=1_000_000)
    if not kept:
        with pytest.raises(ModelMismatchError):
            trial.load(content)


def test_many_tensors_are_read_fast(trial: Trial) -> None:
    others = tuple(StoredOther(f"layers.{n}", (1,) * 16, True) for n in range(16_384))
    stream = Stream(0, 0, bytes(4 * 16_384))
    content = file_of(Contents(None, b"1234", {}, (), others, None, (0,) * 16_384, (stream,)))
    trial.inspect(content)


# ---- mutations ----


def _mutated(content: bytes, source: random.Random) -> bytes:
    """A damaged copy: bits flipped, bytes changed, cut out, doubled, put in, exchanged, or taken from elsewhere."""
    changed = bytearray(content)
    for _ in range(source.choice((1, 1, 1, 2, 4))):
        start = source.randrange(5, len(changed) + 1)
        end = min(len(changed), start + source.choice((1, 1, 2, 4, 16)))
        kind = source.randrange(9)
        if kind <= 2 and end > start:
            changed[start] ^= 1 << source.randrange(8)
        elif kind == 3:
            changed[start:end] = source.randbytes(end - start)
        elif kind == 4:
            del changed[start:end]
        elif kind == 5:
            changed[start:start] = changed[start:end] or source.randbytes(1)
        elif kind == 6:
            changed[start:end] = items(source.choice((*HUGE, source.randrange(1 << 16))))
        elif kind == 7:
            changed[start:end] = bytes([source.choice((0, 1, 127, 128, 255))]) * (end - start)
        else:
            other = source.randrange(5, len(changed) + 1)
            changed[start:end] = changed[other : other + end - start]
    return bytes(changed)


def _unpacked(content: bytes) -> bytes:
    """The file with its header as it is, so that mutations reach it."""
    contents = decode(content)
    payload = b"".join(stream.payload for stream in _streams(contents))
    return raw_file(header_of(contents), payload, digest=contents.digest)


def originals() -> list[tuple[bytes, Callable[[], nn.Module] | None]]:
    files: list[tuple[bytes, Callable[[], nn.Module] | None]] = []
    for arguments, kept in (({}, 4), ({"widths": (2, 3, 4), "bias": False}, 3), ({"name": "b", "scale": 0.5}, None)):
        model = small(**arguments)
        if kept is not None:
            tailcut.regularize(model, num_kept=kept)
        files.append((encode_network(model, dtype="float16", metadata={"a": [1, {}]})[0], None))
        files.append((encode_network(model, dtype="bfloat16", registered=False)[0], _fresh(arguments)))
    ratio = regularized("lenet300", arguments={"bias": False}, keep_ratio=3e-5)
    files.append((encode_network(ratio, dtype="float16")[0], None))
    unet = regularized("unet", arguments={"widths": (1, 2), "num_classes": 1}, num_kept=2, order_weights=(1, 1, 2, 2))
    files.append((encode_network(unet, dtype="float32")[0], None))
    files.append((encode_network(OWN, dtype="float16", registered=False)[0], OwnNet))
    return files


def _fresh(arguments: dict[str, Any]) -> Callable[[], nn.Module]:
    return lambda: Small(**arguments)


class Target:
    """A network to load into, made anew only when a file has changed it."""

    def __init__(self, make: Callable[[], nn.Module] | None) -> None:
        self.make = make
        self.fresh = None if make is None else make()

    def try_file(self, trial: Trial, content: bytes) -> bool:
        """Whether the file loads; then it must be a sound network that can be saved again."""
        before = None if self.fresh is None else list(self.fresh.state_dict())
        try:
            model = trial.load(content, self.fresh)
        except (FormatError, ArgumentError):
            assert self.fresh is None or list(self.fresh.state_dict()) == before
            return False
        self.fresh = None if self.make is None else self.make()
        assert not any(tensor.is_meta for tensor in (*model.parameters(), *model.buffers()))
        assert len(encode_network(model, dtype="float64")[0]) < 100_000
        return True


def damaged_files(count: int, files: list[Any], source: random.Random) -> Iterator[tuple[bytes, Target]]:
    while count:
        content, target = source.choice(files)
        damaged = _mutated(content, source)
        if damaged != content:
            count -= 1
            yield damaged, target


@pytest.mark.parametrize("repair", ["nothing", "checksum", "digest"])
def test_mutated_files(repair: str, trial: Trial) -> None:
    """12,000 files in all, 7,000 of them with a true checksum."""
    source = random.Random(repair)
    mend: dict[str, tuple[int, Callable[[bytes], bytes]]] = {
        "nothing": (5000, lambda content: content),
        "checksum": (5000, with_checksum),
        "digest": (2000, lambda content: with_digest(with_checksum(content))),
    }
    count, mended = mend[repair]
    files = [(content, Target(make)) for content, make in originals()]
    files += [(_unpacked(content), target) for content, target in files]
    assert all(target.try_file(trial, content) for content, target in files)
    loaded = 0
    for number, (content, target) in enumerate(damaged_files(count, files, source)):
        damaged = mended(content)
        loaded += target.try_file(trial, damaged)
        if number % 4 == 0:
            with contextlib.suppress(FormatError):
                trial.inspect(damaged)
    assert (loaded == 0) == (repair == "nothing")
    assert loaded < count / 2


def test_random_bytes_behind_a_true_checksum(trial: Trial) -> None:
    source = random.Random(7)
    targets = [Target(None), Target(nn.ReLU)]
    for number in range(1000):
        content = with_checksum(HEAD + bytes(4) + source.randbytes(source.randrange(4, 60)))
        assert not targets[number % 2].try_file(trial, content)


def test_the_tests_can_tell(trial: Trial) -> None:
    """What is repaired here is what the reader checks."""
    content = encode_network(small(), dtype="float16")[0]
    assert with_checksum(content) == content
    assert with_digest(content) == content
    assert with_digest(with_checksum(content[:9] + b"1234" + content[13:])) == content
    assert zlib.crc32(content[9:]) == int.from_bytes(content[5:9], "little")
    assert StoredBase("small", ()) == decode(content).base
    if STATM.exists():
        with pytest.raises(MemoryError):
            bytearray(SLACK_BYTES + (64 << 20))
