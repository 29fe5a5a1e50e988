"""Codec 1: byte planes, and DEFLATE streams of every kind."""

import struct
import zlib

import numpy as np
import pytest
from tests.format.codecs.inflate import inflate

from tailcut.errors import CorruptFileError
from tailcut.format.codecs.deflate import Deflate


def test_the_payload_holds_the_most_significant_plane_first() -> None:
    payload = Deflate().encode(struct.pack("<3I", 0x01020304, 0x11121314, 0x21222324), 4)
    planes = bytes([0x01, 0x11, 0x21, 0x02, 0x12, 0x22, 0x03, 0x13, 0x23, 0x04, 0x14, 0x24])
    assert zlib.decompress(payload, wbits=-15) == planes


@pytest.mark.parametrize("item_bytes", [1, 2, 4, 8])
def test_the_reference_decoder_reads_the_payload(item_bytes: int) -> None:
    numbers = np.random.default_rng(0).standard_normal(600).astype("<f2")
    planes = inflate(Deflate().encode(numbers.tobytes(), item_bytes), numbers.nbytes)
    items = np.frombuffer(numbers.tobytes(), np.uint8).reshape(-1, item_bytes)
    assert planes == items.T[::-1].tobytes()


@pytest.mark.parametrize("strategy", [zlib.Z_DEFAULT_STRATEGY, zlib.Z_HUFFMAN_ONLY, zlib.Z_RLE, zlib.Z_FIXED])
@pytest.mark.parametrize("level", [0, 1, 9])
def test_the_streams_of_other_encoders_decode(strategy: int, level: int) -> None:
    planes = bytes(range(200)) * 3
    compressor = zlib.compressobj(level, zlib.DEFLATED, -15, 8, strategy)
    payload = compressor.compress(planes[:100]) + compressor.flush(zlib.Z_FULL_FLUSH)
    payload += compressor.compress(planes[100:]) + compressor.flush()
    assert Deflate().decode(payload, 600, 1) == planes


def test_errors_name_the_cause() -> None:
    payload = Deflate().encode(bytes(100), 2)
    for damaged, num_bytes, message in [
        (payload, 98, "expected 98 bytes of content, it holds more"),
        (payload, 102, "expected 102 bytes of content, it holds 100"),
        (payload + b"ab", 100, "2 bytes follow"),
        (payload[:-1], 100, "ends before the end of its DEFLATE stream"),
        (b"\x07", 100, "not a DEFLATE stream"),
    ]:
        with pytest.raises(CorruptFileError, match=message):
            Deflate().decode(damaged, num_bytes, 2)


def test_an_empty_content_has_a_payload_of_its_own() -> None:
    payload = Deflate().encode(b"", 4)
    assert Deflate().decode(payload, 0, 4) == b""
    with pytest.raises(CorruptFileError, match="expected 0 bytes"):
        Deflate().decode(Deflate().encode(bytes(4), 4), 0, 4)
