"""The bytes of the container; what it does with hostile ones is in tests/format/hostile/test_files.py."""

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.format.networks import with_checksum

from tailcut.errors import ArgumentError, LimitError
from tailcut.format import codecs
from tailcut.format.container.contents import (
    MAX_FRAME_BYTES,
    Contents,
    StoredBase,
    StoredOther,
    Stream,
    decode,
    encode,
)
from tailcut.limits import check_total
from tailcut.structure.wire import MAX_LIST_DEPTH, Value

texts = st.text(st.characters(min_codepoint=0x20, exclude_categories=("Cs", "Cc")), max_size=20)
plain_values: st.SearchStrategy[Value] = st.one_of(
    st.booleans(),
    st.integers(-(2**63) + 1, 2**63 - 1),
    st.floats(allow_nan=False),
    texts,
)
values = plain_values
for _ in range(MAX_LIST_DEPTH):
    values = st.one_of(plain_values, st.lists(values, max_size=4).map(tuple))
bases = st.builds(
    StoredBase,
    texts.filter(bool),
    st.dictionaries(st.integers(0, 2**63 - 1), values, max_size=4).map(lambda d: tuple(sorted(d.items()))),
)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats(allow_nan=False, allow_infinity=False) | texts,
    lambda children: st.lists(children, max_size=3) | st.dictionaries(texts, children, max_size=3),
    max_leaves=6,
)
streams = st.builds(Stream, st.integers(0, 9), st.integers(0, 15), st.binary(max_size=40))


@st.composite
def contents(draw: st.DrawFn) -> Contents:
    types = draw(st.lists(st.integers(0, 9), max_size=6))
    base = draw(st.none() | bases)
    names = draw(st.lists(texts, min_size=len(types), max_size=len(types), unique=True))
    shapes = st.lists(st.integers(0, 2**63 - 1), max_size=16).map(tuple)
    return Contents(
        base=base,
        digest=draw(st.binary(min_size=4, max_size=4)),
        metadata=draw(st.dictionaries(texts, json_values, max_size=3)),
        edits=tuple(draw(st.lists(st.tuples(st.integers(0, 2**63 - 1), st.binary(max_size=20)), max_size=3))),
        others=() if base else tuple(StoredOther(name, draw(shapes), draw(st.booleans())) for name in names),
        coefficients=draw(st.none() | streams),
        other_types=tuple(types),
        other_streams=tuple(dataclasses.replace(draw(streams), type_number=number) for number in dict.fromkeys(types)),
    )


@given(contents())
def test_decode_undoes_encode(stored: Contents) -> None:
    assert decode(encode(stored)) == stored


def small(metadata: dict[str, str]) -> Contents:
    return Contents(StoredBase("a", ()), b"1234", metadata, (), coefficients=Stream(0, 0, b"payload"))


def test_the_header_is_packed_when_that_is_shorter() -> None:
    plain, packed = encode(small({})), encode(small({"a": "b" * 1000}))
    header = b"\x01a" + bytes.fromhex("00 00 00 01 00")  # name, arguments, metadata, edits, types, stream
    assert plain[9:] == b"1234" + bytes([2 * len(header)]) + header + b"payload"
    assert packed[13] % 2 == 1
    assert len(packed) < 100


def test_a_header_may_be_stored_packed_though_it_is_longer() -> None:
    content = encode(small({}))
    header = content[14:-7]
    packed = codecs.DEFLATE.encode(header, 1)
    body = b"1234" + bytes([2 * len(packed) + 1, len(header)]) + packed + b"payload"
    assert decode(with_checksum(content[:9] + body)) == small({})


def test_caps_hold_for_writers_too() -> None:
    with pytest.raises(ArgumentError, match="number of arguments is 65, at most 64"):
        encode(dataclasses.replace(small({}), base=StoredBase("a", tuple((n, True) for n in range(65)))))
    with pytest.raises(ArgumentError, match="number of edits is 17, at most 16"):
        encode(dataclasses.replace(small({}), edits=((1, b""),) * 17))
    with pytest.raises(ArgumentError, match="ascending"):
        encode(dataclasses.replace(small({}), base=StoredBase("a", ((1, True), (0, True)))))


def test_totals_are_exact_beyond_64_bits() -> None:
    check_total([(2**40, 2**40)], 2**80)
    with pytest.raises(LimitError, match=f"has {2**80 + 1} numbers or more, at most {2**80} are allowed"):
        check_total([(2**40, 2**40), ()], 2**80)


def test_the_frame_has_room_for_the_largest_header() -> None:
    assert MAX_FRAME_BYTES == 1_048_597
