"""Damaged and hostile files with levels: each ends in one of our errors, soon and without memory, or is a level."""

import dataclasses
import zlib
from collections.abc import Sequence

import pytest
import torch
from tests.format.hostile import test_files as hostile
from tests.format.hostile.test_bounds import at_most
from tests.format.hostile.zeros import kept, zero_file
from tests.format.networks import randomize, registered
from torch import nn

import tailcut
from tailcut.errors import (
    ArgumentError,
    ChecksumError,
    CorruptFileError,
    FormatError,
    LimitError,
    NotTailcutFileError,
    TruncatedFileError,
)
from tailcut.format import encode_network
from tailcut.format.container.contents import Contents, Level, Stream, decode, encode
from tailcut.format.container.level_blocks import join_blocks, split_blocks
from tailcut.weights import truncated_tensors

# Pytest finds fixtures by these names.
little_memory, small_network, trial = hostile.little_memory, hostile.small_network, hostile.trial
HEAD = b"\x89TCT\x03"
HEAD_BYTES = 8  # magic, version, number of levels, two parts
DTYPES = ("float16", "quantized")


def small_file(dtype: str = "float16", levels: Sequence[float] = (0.3, 0.6)) -> bytes:
    """A file of three levels, the second of which has other tensors of its own."""
    model = randomize(tailcut.create_model("small", widths=(5, 4, 3)), 1)
    tailcut.regularize(model, num_kept=9)
    content = encode_network(model, dtype=dtype, levels=levels)[0]
    contents = decode(content)
    if dtype == "quantized" or len(contents.added) < 2:
        return content
    second = contents.added[0]
    assert second.coefficients is not None
    changed = Level(second.coefficients, True, contents.other_streams)
    return encode(dataclasses.replace(contents, added=(changed, *contents.added[1:])))


def blocks_of(content: bytes) -> tuple[tuple[int, ...], list[bytes]]:
    parts, blocks = split_blocks(content, None)
    return parts, [block.content for block in blocks]


def joined(parts: Sequence[int], blocks: Sequence[bytes]) -> bytes:
    """The file of these blocks, with true checksums."""
    return HEAD + join_blocks(parts, blocks)


def ends_of(content: bytes) -> list[int]:
    """Where each level of a file ends."""
    parts, blocks = blocks_of(content)
    return [len(joined(parts, blocks[: number + 1])) for number in range(len(blocks))]


def counts(model: nn.Module) -> list[int]:
    return [entry.num_kept for entry in truncated_tensors(model)]


def vectors(model: nn.Module) -> list[torch.Tensor]:
    return [entry.coefficients().detach() for entry in truncated_tensors(model)]


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_flipped_bit_is_found(dtype: str, trial: hostile.Trial) -> None:
    content = small_file(dtype)
    whole, lowest, ends = vectors(trial.load(content)), vectors(trial.load(content, level=1)), ends_of(content)
    assert [len(vector) for vector in whole] == [9, 9]
    for place in range(len(content)):
        for bit in range(8):
            changed = bytearray(content)
            changed[place] ^= 1 << bit
            with pytest.raises(FormatError) as caught:
                trial.load(bytes(changed))
            if place < 4:
                assert type(caught.value) is NotTailcutFileError
            if place > HEAD_BYTES and not any(end <= place < end + 2 for end in ends):  # not in a size
                assert type(caught.value) is ChecksumError
            if place >= ends[0]:
                found = vectors(trial.load(bytes(changed), level=1))
                assert all(torch.equal(one, other) for one, other in zip(found, lowest, strict=True))


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_cut_is_found_or_a_sound_level(dtype: str, trial: hostile.Trial) -> None:
    content = small_file(dtype)
    whole, ends = vectors(trial.load(content)), ends_of(content)
    assert ends[-1] == len(content)
    for length in range(1, len(content)):
        cut = content[:length]
        if length not in ends:
            trial.refuse(cut, TruncatedFileError)
        else:
            found = vectors(trial.load(cut))
            assert [len(vector) for vector in found] == [(3, 6)[ends.index(length)]] * 2
            trial.inspect(cut)
            for one, other in zip(found, whole, strict=True):
                assert torch.equal(one, other[: len(one)])
        for level in (1, 2, 3):
            if length >= ends[level - 1]:
                assert len(vectors(trial.load(cut, level=level))[0]) == 3 * level
            else:
                with pytest.raises(TruncatedFileError):
                    trial.load(cut, level=level)


def test_bytes_behind_the_highest_level(trial: hostile.Trial) -> None:
    content = small_file()
    trial.refuse(content + b"\0", CorruptFileError, "1 bytes follow the highest level")
    trial.refuse(content + content[ends_of(content)[1] :], CorruptFileError, "follow the highest level")
    for level in (1, 2, 3):
        trial.load(content + b"\0", level=level)
    with pytest.raises(ArgumentError, match="levels 1 to 3, asked for was 4"):
        trial.load(content, level=4)


def test_the_head_of_levels(trial: hostile.Trial) -> None:
    content = small_file()
    (parts, blocks), ends = blocks_of(content), ends_of(content)
    for number in (0, 1, 9, 255):
        made = HEAD + bytes([number]) + bytes([77] * max(0, number - 1)) + bytes(200)
        trial.refuse(made, LimitError, f"{number} levels, 2 to 8 are allowed")
    trial.refuse(joined((0, 128), blocks), CorruptFileError, "no part of the one above")
    for part in (1, 255):
        with pytest.raises(CorruptFileError):  # other counts than the payloads have
            trial.load(joined((part, parts[1]), blocks))
    trial.refuse(HEAD + bytes([8] * 8), TruncatedFileError, "ends within level 1 of 8")
    for size in hostile.HUGE:
        head = HEAD + bytes([3, *parts]) + hostile.items(size)
        trial.refuse(head + blocks[0], TruncatedFileError, "ends within level 1 of 3")
        changed = content[: ends[0]] + hostile.items(size) + blocks[1]
        trial.refuse(changed, TruncatedFileError, "within level 2 of 3; get a fresh copy, or .* load.path, level=1")


@pytest.mark.parametrize("dtype", DTYPES)
def test_changed_levels_with_true_checksums(dtype: str, trial: hostile.Trial) -> None:
    """Each byte of each further level is another, or a huge number: an error of ours, or a network of that shape."""
    parts, blocks = blocks_of(small_file(dtype))
    sound = 0
    for level in (1, 2):
        for place in range(len(blocks[level])):
            byte = blocks[level][place]
            for value in (bytes([byte ^ 1]), b"\xff", b"\0", b"", hostile.items(2**40)):
                changed = [*blocks]
                changed[level] = blocks[level][:place] + value + blocks[level][place + 1 :]
                try:
                    found = vectors(trial.load(joined(parts, changed)))
                    sound += 1
                except FormatError:
                    continue
                assert [len(vector) for vector in found] == [9, 9]
                assert all(bool(torch.isfinite(vector).all()) for vector in found)
    assert sound > 0


def changed_level(contents: Contents, codec: int, payload: bytes) -> Contents:
    """The contents with another stream of coefficients in their second level."""
    second = contents.added[0]
    assert second.coefficients is not None
    stream = Stream(second.coefficients.type_number, codec, payload)
    return dataclasses.replace(contents, added=(Level(stream, False, ()), *contents.added[1:]))


def test_a_payload_that_expands_is_refused_before_memory_is_taken(trial: hostile.Trial) -> None:
    """`little_memory` lets the process have half a GiB more: a bomb of a GiB that is unpacked ends in a MemoryError."""
    contents = decode(small_file())
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    bomb = b"".join(packer.compress(bytes(1 << 20)) for _ in range(1 << 10)) + packer.flush()
    trial.refuse(encode(changed_level(contents, 1, bomb)), CorruptFileError, "deflate payload")
    trial.refuse(encode(changed_level(contents, 0, bytes(1 << 20))), CorruptFileError, "raw payload")
    trial.refuse(encode(changed_level(contents, 2, bytes(1 << 20))), CorruptFileError, "range payload")


def test_a_level_claims_no_more_than_its_payload_can_hold(trial: hostile.Trial) -> None:
    """200,000 numbers of a level whose payload has four bytes, which can hold 73,728."""
    long_axis = kept(lambda shape: 200_000 if shape == (1, 2_100_000) else 1)
    with registered("long", Long):
        sound = decode(zero_file("long", edits=[long_axis], codec=3, parts=(1,)))
        trial.load(encode(sound))
        for payload in (b"", bytes(4), b"\xff" * 4):
            trial.refuse(encode(changed_level(sound, 3, payload)), CorruptFileError, "quantized payload")


class Long(nn.Module):
    """A tensor of a long axis."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(2_100_000, 1)


def test_codec_2_bounds_the_numbers_of_all_levels(trial: hostile.Trial) -> None:
    with registered("long", Long):
        fits = decode(zero_file("long", edits=[at_most(16_000)], parts=(128,)))
        trial.refuse(encode(changed_level(fits, 2, b"\0")), CorruptFileError, "not the code of any")
        large = decode(zero_file("long", edits=[at_most(16_400)], parts=(128,)))
        trial.refuse(encode(changed_level(large, 2, b"\0")), CorruptFileError, "expected 1 to 32732 bytes")
