"""Sampling factors of a JPEG file's components, and the grids of blocks that cover them."""

from collections.abc import Sequence
from typing import Literal

from tailcut.errors import DataError
from tailcut.jpeg.limits import OtherKindError
from tailcut.transform.block import BLOCK_SIZE

Sampling = Literal["4:4:4", "4:2:2", "4:2:0", "4:4:0", "grayscale"]

# Luma samples per chroma sample: (vertical, horizontal).
CHROMA_FACTORS: dict[Sampling, tuple[int, int]] = {
    "4:4:4": (1, 1),
    "4:2:2": (1, 2),
    "4:2:0": (2, 2),
    "4:4:0": (2, 1),
    "grayscale": (1, 1),
}
MAX_BLOCKS_PER_MCU = 10


def num_blocks(size: tuple[int, int]) -> tuple[int, int]:
    """Return the number of 8 x 8 blocks that cover (height, width) samples, per axis."""
    return -(-size[0] // BLOCK_SIZE), -(-size[1] // BLOCK_SIZE)


def check_factors(factors: Sequence[tuple[int, int]]) -> None:
    """Raise `DataError` unless all (vertical, horizontal) sampling factors are 1 to 4."""
    if any(not 1 <= factor <= 4 for pair in factors for factor in pair):
        raise DataError("its sampling factors are not 1 to 4")


def sampling_of(factors: Sequence[tuple[int, int]]) -> Sampling:
    """Return the name of the chroma subsampling, from the components' (vertical, horizontal) sampling factors.

    Raises:
        DataError: it is none of `CHROMA_FACTORS`.
    """
    check_factors(factors)
    if len(factors) == 1:
        return "grayscale"
    luma, *chroma = factors
    if len(chroma) == 2 and sum(vertical * horizontal for vertical, horizontal in factors) <= MAX_BLOCKS_PER_MCU:
        for name, (vertical, horizontal) in CHROMA_FACTORS.items():
            if name != "grayscale" and all((v * vertical, h * horizontal) == luma for v, h in chroma):
                return name
    text = ", ".join(f"{horizontal} x {vertical}" for vertical, horizontal in factors)
    raise OtherKindError(
        f"its sampling factors are {text} (width x height); supported are 4:4:4, 4:2:2, 4:2:0 and 4:4:0"
    )
