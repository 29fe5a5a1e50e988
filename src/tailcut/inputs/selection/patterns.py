"""Tables and patterns (squares, triangles) of selected frequencies, and the split of a total over Y, Cb, Cr."""

from collections.abc import Sequence
from numbers import Integral

from tailcut.errors import ArgumentError
from tailcut.transform.block import BLOCK_SIZE
from tailcut.transform.order import l1_order

NUM_FREQUENCIES = BLOCK_SIZE**2
COMPONENTS = ("luma", "chroma_blue", "chroma_red")
NUM_CHANNELS = len(COMPONENTS) * NUM_FREQUENCIES

Indices = tuple[int, ...]


def _spans(*spans: tuple[int, int]) -> Indices:
    """Return the indices of spans, first and last included."""
    return tuple(index for first, last in spans for index in range(first, last + 1))


# Luma and chroma (the same for both) of the published networks, row-major. Close to upper-left squares.
PUBLISHED: dict[int, tuple[Indices, Indices]] = {
    6: (_spans((0, 1), (8, 9)), (0,)),
    24: (_spans((0, 3), (8, 11), (16, 19), (24, 27)), _spans((0, 1), (8, 9))),
    32: (_spans((0, 4), (8, 12), (16, 20), (24, 27), (32, 34)), _spans((0, 2), (8, 9))),
    48: (
        _spans((0, 5), (8, 13), (16, 21), (24, 29), (32, 35), (40, 43)),
        _spans((0, 2), (8, 10), (16, 17)),
    ),
    64: (
        _spans((0, 6), (8, 14), (16, 21), (24, 29), (32, 37), (40, 45), (48, 53)),
        _spans((0, 2), (8, 10), (16, 17), (24, 25)),
    ),
    192: (_spans((0, 63)), _spans((0, 63))),
}

# The 14 + 5 + 5 channels of the paper's DCT-24D, which its gate chose (they stand commented out in the published code).
LEARNED = (_spans((0, 5), (8, 10), (16, 18), (24, 24), (32, 32)), (0, 1, 3, 8, 24))


def square_indices(count: int) -> Indices:
    """Return the first `count` frequencies in L1 order of the smallest upper-left square that holds them, row-major.

    >>> square_indices(4), square_indices(5)
    ((0, 1, 8, 9), (0, 1, 2, 8, 9))
    """
    side = next(side for side in range(BLOCK_SIZE + 1) if side * side >= count)
    places = l1_order((side, side), count).tolist()
    return tuple(sorted(place // side * BLOCK_SIZE + place % side for place in places))


def triangle_indices(count: int) -> Indices:
    """Return the first `count` frequencies in L1 order (upper-left diagonals), row-major.

    >>> triangle_indices(6)
    (0, 1, 2, 8, 9, 16)
    """
    return tuple(sorted(l1_order((BLOCK_SIZE, BLOCK_SIZE), count).tolist()))


def split_channels(channels: int | tuple[int, int, int]) -> tuple[int, int, int]:
    """Return the number of frequencies of luma, blue chroma and red chroma.

    A total is split as the paper splits 24, 32, 48 and 64: a sixth, rounded down, for each chroma component, the rest
    for luma; the excess over luma's 64 is for chroma.

    Raises:
        ArgumentError: not a total of 1 to 192, or not three counts of 0 to 64 with at least one frequency.

    >>> split_channels(64), split_channels(191)
    ((44, 10, 10), (63, 64, 64))
    """
    if isinstance(channels, Integral):
        channels = channels if isinstance(channels, bool) else int(channels)
        if isinstance(channels, bool) or not 1 <= channels <= NUM_CHANNELS:
            raise ArgumentError(f"expected 1 to {NUM_CHANNELS} channels, got {channels!r}")
        chroma = max(channels // 6, -(-(channels - NUM_FREQUENCIES) // 2))
        return channels - 2 * chroma, chroma, chroma
    counts = tuple(channels) if isinstance(channels, Sequence) else ()
    is_valid = len(counts) == 3 and all(type(count) is int and 0 <= count <= NUM_FREQUENCIES for count in counts)
    if not is_valid or not any(counts):
        raise ArgumentError(
            f"expected a number of channels, or three counts of 0 to {NUM_FREQUENCIES} for luma, blue and red chroma, "
            f"got {channels!r}"
        )
    return counts[0], counts[1], counts[2]
