"""SPEC.md: its example is read by both decoders, and its tables are those of the code."""

import re
from pathlib import Path

import pytest
import torch
from tests.format import reference_decoder as reference
from tests.format.networks import vectors

import tailcut
from tailcut import errors
from tailcut.format import codecs, quantized
from tailcut.format.container.contents import MAX_HEADER_BYTES, MAX_METADATA_BYTES
from tailcut.format.container.numbers import NUMBER_TYPES, type_name
from tailcut.format.quantized import coder, loops
from tailcut.format.quantized.levels import INITIAL_STOP, INITIAL_ZERO
from tailcut.limits import MAX_TENSORS
from tailcut.structure.wire import type_tags

SPEC = (Path(tailcut.__file__).parent / "format" / "SPEC.md").read_text(encoding="utf-8")
EXAMPLE_LINES = [
    (bytes.fromhex(match[1]), match[2])
    for match in re.finditer(r"^((?:[0-9a-f]{2} ?)+?) {2,}(.*)$", SPEC[SPEC.index("## Example") :], re.MULTILINE)
]
EXAMPLE = b"".join(content for content, _ in EXAMPLE_LINES)


def section(title: str) -> str:
    match = re.search(rf"^##+ {title}\n(.*?)(?=^##|\Z)", SPEC, re.MULTILINE | re.DOTALL)
    assert match is not None, title
    return match[1]


def test_the_example_is_whole() -> None:
    assert len(EXAMPLE) == 73
    assert "73 bytes" in section("Example")
    assert EXAMPLE_LINES[0] == (b"\x89TCT", "magic")
    assert EXAMPLE_LINES[-1] == (bytes.fromhex("cdcccc3d000000c0"), "0.1, -2")


def test_the_reference_decoder_reads_the_example() -> None:
    content = reference.read(EXAMPLE)
    assert content.metadata == {"by": "me"}
    (weight,), (bias,) = content.kept, content.others
    assert (weight.name, weight.shape, weight.axes, weight.weights, weight.count) == (
        "weight",
        (2, 3),
        (0, 1),
        (1, 1),
        3,
    )
    assert weight.values == [1.5, -0.5, 0.25]
    assert (bias.name, bias.shape, bias.kind) == ("bias", (2,), "p")
    assert bias.values == pytest.approx([0.1, -2])


def test_load_reads_the_example_and_save_writes_it(tmp_path: Path) -> None:
    path = tmp_path / "example.tailcut"
    path.write_bytes(EXAMPLE)
    model = tailcut.load(path, into=torch.nn.Linear(3, 2))
    assert vectors(model)["weight"].tolist() == [1.5, -0.5, 0.25]
    torch.testing.assert_close(model.bias, torch.nn.Parameter(torch.tensor([0.1, -2.0])))
    tailcut.save(model, tmp_path / "again.tailcut", dtype="float16", metadata={"by": "me"})
    assert (tmp_path / "again.tailcut").read_bytes() == EXAMPLE


def test_the_comments_of_the_example_are_true() -> None:
    assert f"0x{int.from_bytes(EXAMPLE[5:9], 'little'):08x}" in section("Example")
    for content, comment in EXAMPLE_LINES:
        if comment.startswith('"'):
            assert content[1:].decode() == comment.strip('"')
        if comment.endswith(("bytes", "bytes, not packed")):
            assert f" {content[0] // (2 if 'packed' in comment else 1)} bytes" in f" {comment}"


def test_number_types_are_those_of_the_code() -> None:
    rows = re.findall(r"^\| (\d+) \| (\w+).*? \| (\d+) \|$", section("Number types"), re.MULTILINE)
    assert {int(number): (name, int(size)) for number, name, size in rows} == {
        number: (type_name(dtype), dtype.itemsize) for number, dtype in NUMBER_TYPES.items()
    }


def test_codecs_and_tags_are_those_of_the_code() -> None:
    named = re.findall(r"^\*\*Codec (\d), ([\w ]+)\.\*\*", section("Codecs"), re.MULTILINE)
    assert {int(number): name for number, name in named} == {
        **{number: codec.name for number, codec in codecs.CODECS.items()},
        **dict(zip(quantized.NUMBERS, ("quantized", "quantized along axes", "quantized with dependence"), strict=True)),
    }
    tags = re.findall(r"^\| (\d) \| \w", section("Items"), re.MULTILINE)
    assert sorted(map(int, tags)) == sorted(type_tags.values())


def test_codec_3_begins_with_the_tables_of_the_page() -> None:
    rows = [[int(word) for word in row.split()] for row in re.findall(r"^ *((?:\d+ +){15}\d+)$", SPEC, re.MULTILINE)]
    assert tuple(rows[0] + rows[1]) == INITIAL_ZERO
    assert tuple(rows[2] + rows[3]) == INITIAL_STOP
    assert f"{coder.MAX_INTEGERS:,} of them" in SPEC
    assert f"{coder.NUMBERS_PER_BYTE:,} for each byte" in re.sub(r"\s+", " ", SPEC)
    assert f"from -{coder.MAX_STEP} to {coder.MAX_STEP}" in SPEC
    assert f"{coder.MAX_MAGNITUDE:,}" in SPEC


def test_codec_5_has_the_states_of_the_page() -> None:
    even, odd = re.findall(r"^k (?:even|odd) +([\d ]+)$", SPEC, re.MULTILINE)
    pairs = zip(map(int, even.split()), map(int, odd.split()), strict=True)
    assert tuple(state for pair in pairs for state in pair) == loops.TRELLIS
    assert f"every {loops.LINE}th number" in SPEC
    assert f"min(s + {coder.ODD_LATER}, {loops.LEVELS - 1})" in SPEC


def test_caps_and_errors_are_those_of_the_code() -> None:
    for cap in (MAX_HEADER_BYTES, MAX_METADATA_BYTES, MAX_TENSORS):
        assert f"{cap:,}" in SPEC
    known = {
        name for name, kind in vars(errors).items() if isinstance(kind, type) and issubclass(kind, errors.FormatError)
    }
    assert set(re.findall(r"^\| `(\w+)` \|", section("Errors"), re.MULTILINE)) == known - {"FormatError"}
    assert set(re.findall(r"\[`(\w+)`\]", SPEC)) <= known
