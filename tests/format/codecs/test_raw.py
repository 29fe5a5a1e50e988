"""Codec 0: the payload is the content."""

import pytest

from tailcut.errors import CorruptFileError
from tailcut.format.codecs.raw import Raw


def test_payload_is_the_content() -> None:
    assert Raw().encode(b"\x01\x02\x03\x04", 2) == b"\x01\x02\x03\x04"
    assert Raw().encode(b"", 8) == b""


def test_a_payload_of_another_length_is_refused() -> None:
    with pytest.raises(CorruptFileError, match="expected 2 bytes, got 4"):
        Raw().decode(b"\x01\x02\x03\x04", 2, 2)
