import contextlib
import math
import struct
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tailcut.errors import (
    ArgumentError,
    CorruptFileError,
    FormatError,
    LimitError,
    TruncatedFileError,
)
from tailcut.structure.wire import (
    MAX_AXES,
    MAX_LIST_DEPTH,
    MAX_LIST_LENGTH,
    MAX_TEXT_BYTES,
    Reader,
    Value,
    Writer,
    type_tags,
)

LARGEST = (1 << 63) - 1
TEXTS = st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=40)
SCALARS = st.one_of(
    st.booleans(),
    st.integers(-LARGEST, LARGEST),
    st.floats(allow_nan=False),
    TEXTS,
)
LISTS = st.lists(SCALARS, max_size=5).map(tuple)
VALUES: st.SearchStrategy[Value] = st.one_of(SCALARS, LISTS, st.lists(st.one_of(SCALARS, LISTS), max_size=5).map(tuple))


def written(*values: Value) -> bytes:
    writer = Writer()
    for value in values:
        writer.value(value)
    return writer.getvalue()


def same(left: object, right: object) -> bool:
    """Equal, of the same types throughout (True is not 1, 1.0 is not 1, -0.0 is not 0.0)."""
    if isinstance(left, tuple) and isinstance(right, tuple):
        return len(left) == len(right) and all(same(*pair) for pair in zip(left, right, strict=True))
    if isinstance(left, float) and isinstance(right, float):
        return struct.pack("<d", left) == struct.pack("<d", right)
    return type(left) is type(right) and left == right


@given(st.lists(VALUES, max_size=4))
def test_values_come_back_as_they_were(values: list[Value]) -> None:
    reader = Reader(written(*values))
    for value in values:
        assert same(reader.value(), value)
    reader.end()
    assert reader.remaining == 0


@given(st.integers(0, LARGEST))
@example(0)
@example(127)
@example(128)
@example(LARGEST)
def test_unsigned_integers_come_back_in_the_fewest_bytes(value: int) -> None:
    writer = Writer()
    writer.uint(value)
    content = writer.getvalue()
    assert len(content) == max(1, math.ceil(value.bit_length() / 7))
    reader = Reader(content)
    assert reader.uint() == value
    reader.end()


def test_known_bytes() -> None:
    """LEB128 as its definition has it, and one of each type."""
    writer = Writer()
    writer.uint(624485)
    writer.text("hé")
    writer.shape((3, 300))
    writer.float64(1.5)
    writer.byte(255)
    writer.raw(b"\x01\x02")
    expected = "e58e26" + "0368c3a9" + "0203ac02" + "000000000000f83f" + "ff" + "0102"
    assert writer.getvalue().hex() == expected
    assert written(True, False, 5, -5, "a", (1, 2)).hex() == "01" + "00" + "0205" + "0305" + "050161" + "060202010202"
    assert written(1.5).hex() == "04" + "000000000000f83f"


def test_items_come_back_in_order() -> None:
    writer = Writer()
    writer.shape((3, 300, 1))
    writer.float64(-0.1)
    writer.text("conv.weight")
    writer.raw(b"abc")
    writer.byte(7)
    reader = Reader(writer.getvalue())
    assert reader.shape() == (3, 300, 1)
    assert reader.float64() == -0.1
    assert reader.text() == "conv.weight"
    assert reader.raw(3) == b"abc"
    assert reader.remaining == 1
    assert reader.byte() == 7
    reader.end()


@given(st.binary(max_size=60))
@example(b"\x06\xff\x01" + b"\x06\xff\x01" * 20)
@example(bytes([type_tags["list"], 1]) * 30 + b"\x00")
@example(b"\x05\xff\xff\xff\xff\xff\xff\xff\xff\x7f")
def test_any_bytes_give_a_value_or_an_error_of_ours(content: bytes) -> None:
    reader = Reader(content)
    with contextlib.suppress(FormatError):
        value = reader.value()
        # What was read has one encoding only.
        assert written(value) == content[: len(content) - reader.remaining]


@given(st.lists(VALUES, min_size=1, max_size=3), st.data())
def test_every_truncation_is_noticed(values: list[Value], data: st.DataObject) -> None:
    content = written(*values)
    reader = Reader(content[: data.draw(st.integers(0, len(content) - 1))])
    with pytest.raises(TruncatedFileError, match="bytes expected at offset"):
        [reader.value() for _ in values]


def test_errors_name_what_is_read() -> None:
    reader = Reader(b"\x00\x01\x02", what="net.tailcut")
    reader.byte()
    with pytest.raises(TruncatedFileError, match=r"^net\.tailcut: 4 bytes expected at offset 1, 2 are left$"):
        reader.raw(4)


@pytest.mark.parametrize("content", [b"\x80\x00", b"\xff\x80\x00", b"\x80" * 8 + b"\x00"])
def test_integers_in_a_longer_form_are_refused(content: bytes) -> None:
    with pytest.raises(CorruptFileError, match="the count is not in its shortest form"):
        Reader(content).uint(of="the count")


@pytest.mark.parametrize("content", [b"\xff" * 9, b"\x80" * 9 + b"\x01", b"\xff" * 40])
def test_integers_beyond_63_bits_are_refused(content: bytes) -> None:
    with pytest.raises(CorruptFileError, match="a number does not fit into 63 bits"):
        Reader(content).uint()


def test_cap_of_an_integer() -> None:
    assert Reader(b"\x05").uint(at_most=5) == 5
    with pytest.raises(LimitError, match="the count is 6, at most 5 is allowed"):
        Reader(b"\x06").uint(at_most=5, of="the count")


def test_lists_are_capped_before_they_are_read() -> None:
    writer = Writer()
    writer.byte(type_tags["list"])
    writer.uint(1 << 62)
    with pytest.raises(LimitError, match="the length of a list is 4611686018427387904, at most 256 is allowed"):
        Reader(writer.getvalue()).value()


def test_texts_are_capped_before_they_are_read() -> None:
    writer = Writer()
    writer.uint(MAX_TEXT_BYTES + 1)
    with pytest.raises(LimitError, match="the length of a text is 4097"):
        Reader(writer.getvalue()).text()


def test_shapes_are_capped() -> None:
    writer = Writer()
    writer.shape((1,) * MAX_AXES)
    assert Reader(writer.getvalue()).shape() == (1,) * MAX_AXES
    with pytest.raises(LimitError, match="the number of axes is 17"):
        Reader(b"\x11" + b"\x01" * 17).shape()
    with pytest.raises(ArgumentError, match="at most 16 axes, got 17"):
        writer.shape((1,) * (MAX_AXES + 1))


@pytest.mark.parametrize("content", [b"\x02\xff\xfe", b"\x03\xed\xa0\x80", b"\x01\x80"])
def test_texts_that_are_not_utf8_are_refused(content: bytes) -> None:
    with pytest.raises(CorruptFileError, match="a text is not valid UTF-8"):
        Reader(content).text()


@pytest.mark.parametrize("text", ["\x1b[2J", "a\nb", "\x00", "\x7f", "\x9b"])
def test_control_characters_are_refused_both_ways(text: str) -> None:
    with pytest.raises(ArgumentError, match="without control characters"):
        Writer().text(text)
    encoded = text.encode()
    with pytest.raises(CorruptFileError, match="a text holds a control character"):
        Reader(bytes([len(encoded)]) + encoded).text()


@pytest.mark.parametrize("tag", [7, 8, 100, 255])
def test_unknown_type_tags_are_refused(tag: int) -> None:
    with pytest.raises(CorruptFileError, match=f"unknown type tag {tag} of a value"):
        Reader(bytes([tag, 0, 0])).value()


def test_negative_zero_is_refused() -> None:
    with pytest.raises(CorruptFileError, match="a negative zero"):
        Reader(bytes([type_tags["negative"], 0])).value()


def test_lists_nest_twice_and_no_deeper() -> None:
    assert MAX_LIST_DEPTH == 2
    assert Reader(written(((1,),))).value() == ((1,),)
    too_deep: Any = (((1,),),)
    with pytest.raises(ArgumentError, match="nested at most 2 deep, got 1 items at depth 3"):
        written(too_deep)
    with pytest.raises(CorruptFileError, match="unknown type tag 6"):
        Reader(bytes([type_tags["list"], 1]) * 3 + b"\x00").value()


def test_list_length_is_capped_when_written() -> None:
    assert Reader(written((0,) * MAX_LIST_LENGTH)).value() == (0,) * MAX_LIST_LENGTH
    with pytest.raises(ArgumentError, match="lists of at most 256 items"):
        written((0,) * (MAX_LIST_LENGTH + 1))


@pytest.mark.parametrize("value", [1 << 63, -(1 << 63), 1 << 200])
def test_integers_that_do_not_fit_are_refused(value: int) -> None:
    with pytest.raises(ArgumentError, match=r"expected an integer from 0 to 2\^63 - 1"):
        written(value)


def test_negative_unsigned_integers_are_refused() -> None:
    with pytest.raises(ArgumentError, match=r"expected an integer from 0 to 2\^63 - 1, got -1"):
        Writer().uint(-1)


@pytest.mark.parametrize(("text", "message"), [("x" * 4097, "at most 4096 bytes, got 4097"), ("\ud800", "UTF-8")])
def test_texts_that_do_not_fit_are_refused(text: str, message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        Writer().text(text)


def test_bytes_left_over_are_refused() -> None:
    reader = Reader(b"\x01\x02", what="edit")
    reader.byte()
    with pytest.raises(CorruptFileError, match="edit: 1 bytes are left after the last item"):
        reader.end()
