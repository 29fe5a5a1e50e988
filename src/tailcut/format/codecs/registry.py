"""Registry of the lossless codecs by number, and the choice of the shortest payload."""

from collections.abc import Mapping
from types import MappingProxyType

from tailcut.errors import UnsupportedVersionError

from .codec import Codec
from .deflate import Deflate
from .range_coder import RangeCoder
from .raw import Raw

DEFLATE = Deflate()
"""The codec that packs the header of a file, too."""

CODECS: Mapping[int, Codec] = MappingProxyType({codec.number: codec for codec in (Raw(), DEFLATE, RangeCoder())})
"""Every codec by its number in the file, in ascending order. Numbers are never reused; 3 to 7 are free."""


def best(content: bytes, item_bytes: int, known: bytes = b"") -> tuple[int, bytes]:
    r"""Return the shortest payload of `content` over all codecs.

    Args:
        content: the numbers, little-endian, one after another.
        item_bytes: bytes of one number: 1, 2, 4 or 8.
        known: numbers that the reader has already.

    Returns:
        The number of the codec and its payload. Of equally short ones the codec with the lowest number, so
        raw when nothing is shorter.

    Raises:
        ArgumentError: `item_bytes` is none of 1, 2, 4, 8, or `content` is not a whole number of items.

    Example:
        >>> best(bytes(1000), 2)[0]
        1
        >>> best(b"\x01\x02", 2)
        (0, b'\x01\x02')
    """
    payloads = {number: codec.encode(content, item_bytes, known) for number, codec in CODECS.items()}
    applicable = [(len(payload), number, payload) for number, payload in payloads.items() if payload is not None]
    _, number, payload = min(applicable)
    return number, payload


def decode(number: int, payload: bytes, num_bytes: int, item_bytes: int, known: bytes = b"") -> bytes:
    """Return `payload`, decoded by the codec with this number.

    Args:
        number: the number of the codec, from the file.
        payload: what the codec's `encode` gave.
        num_bytes: the length of the content; check it against the caps first, this much memory is taken.
        item_bytes: bytes of one number: 1, 2, 4 or 8.
        known: numbers that the reader has already, as the encoder had them.

    Returns:
        The content, exactly `num_bytes` bytes.

    Raises:
        ArgumentError: `item_bytes` is none of 1, 2, 4, 8.
        UnsupportedVersionError: no codec has this number here.
        CorruptFileError: `payload` does not decode to `num_bytes` bytes.
    """
    check_known(number)
    return CODECS[number].decode(payload, num_bytes, item_bytes, known)


def check_known(number: int) -> None:
    """Raise `UnsupportedVersionError` if no codec has this number."""
    if number not in CODECS:
        all_known = ", ".join(f"{codec.number} ({codec.name})" for codec in CODECS.values())
        raise UnsupportedVersionError(
            f"unknown codec {number}, known are {all_known}; the file may need a newer version of tailcut"
        )
