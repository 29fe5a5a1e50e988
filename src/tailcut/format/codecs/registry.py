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
"""Every codec by its number in the file, in ascending order. Numbers are never reused; 3 to 5 are `quantized`."""


def best(content: bytes, item_bytes: int, known: bytes = b"") -> tuple[int, bytes]:
    r"""Return the shortest payload of `content` over all codecs.

    The arguments and errors are those of `Codec.encode`.

    Returns:
        The number of the codec and its payload. Of equally short ones the codec with the lowest number, so
        raw when nothing is shorter.

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

    The arguments but the first, and the other errors, are those of `Codec.decode`.

    Raises:
        UnsupportedVersionError: no codec has this number here.
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
