"""Coefficients of a JPEG file: one plane of 8 x 8 DCT blocks per colour component."""

import dataclasses
from dataclasses import dataclass
from typing import Any, Self, get_args

import torch
from torch import Tensor

from tailcut.errors import ArgumentError
from tailcut.jpeg.sampling import CHROMA_FACTORS as CHROMA_FACTORS
from tailcut.jpeg.sampling import Sampling as Sampling
from tailcut.jpeg.sampling import num_blocks as num_blocks
from tailcut.transform.block import BLOCK_SIZE

# JPEG subtracts 128 from each sample. In chroma this is the centre of the colour conversion.
LEVEL_SHIFT = 128.0


@dataclass(frozen=True)
class JpegCoefficients:
    """The dequantised DCT coefficients of a JPEG image; `read_jpeg` makes them.

    Each plane is float32 (blocks_h, blocks_w, 8, 8), the last two axes (v, u): vertical and horizontal frequency.
    A block is the orthonormal DCT-II of 8 x 8 samples minus 128 (JPEG's level shift), in full-range JFIF YCbCr.
    A plane of height x width samples has ceil(height / 8) x ceil(width / 8) blocks; what the last blocks hold beyond
    the samples is padding.

    Attributes:
        luma: Y.
        chroma_blue: Cb, on the grid that `sampling` says; None for grayscale (all its coefficients would be 0).
        chroma_red: Cr, likewise.
        sampling: the form of the chroma planes: full size, half the width, half both, half the height, none.
        quantization: the file's quantisation tables, (8, 8) in (v, u), one per component. They tell what was lost;
            the coefficients are already multiplied by them.
        size: (height, width) in pixels.
        orientation: EXIF orientation, 1 to 8, that is still to be applied to see the image upright; 1 is upright.

    Raises:
        ArgumentError: the planes do not fit the size, the sampling or one another.
    """

    luma: Tensor
    chroma_blue: Tensor | None
    chroma_red: Tensor | None
    sampling: Sampling
    quantization: tuple[Tensor, ...]
    size: tuple[int, int]
    orientation: int = 1

    def __post_init__(self) -> None:
        if self.sampling not in get_args(Sampling):
            raise ArgumentError(f"sampling must be one of {', '.join(get_args(Sampling))}, got {self.sampling!r}")
        if len(self.size) != 2 or min(self.size) < 1:
            raise ArgumentError(f"size must be a positive (height, width) in pixels, got {self.size}")
        if self.orientation not in range(1, 9):
            raise ArgumentError(f"an EXIF orientation is 1 to 8, got {self.orientation}")
        is_colour = self.sampling != "grayscale"
        if any((chroma is not None) != is_colour for chroma in (self.chroma_blue, self.chroma_red)):
            raise ArgumentError(f"sampling {self.sampling!r} goes with {'two' if is_colour else 'no'} chroma planes")
        for index, plane in enumerate(self.planes):
            expected = (*num_blocks(self.plane_size(index)), BLOCK_SIZE, BLOCK_SIZE)
            if not plane.is_floating_point() or tuple(plane.shape) != expected:
                raise ArgumentError(
                    f"component {index} of a {self.sampling} image of {self.size} pixels is floating point "
                    f"{expected}, got {plane.dtype} {tuple(plane.shape)}"
                )

    @property
    def planes(self) -> tuple[Tensor, ...]:
        """Y, Cb, Cr; only Y for grayscale."""
        return tuple(plane for plane in (self.luma, self.chroma_blue, self.chroma_red) if plane is not None)

    @property
    def chroma_factors(self) -> tuple[int, int]:
        """Luma samples per chroma sample: (vertical, horizontal), each 1 or 2."""
        return CHROMA_FACTORS[self.sampling]

    def plane_size(self, index: int) -> tuple[int, int]:
        """(height, width) in samples of component `index`, without padding."""
        if index == 0:
            return self.size
        vertical, horizontal = self.chroma_factors
        return -(-self.size[0] // vertical), -(-self.size[1] // horizontal)

    def with_planes(self, planes: tuple[Tensor, ...], size: tuple[int, int] | None = None, **others: Any) -> Self:
        """Return a copy with other planes (as many), with another size if there is one, and other attributes."""
        luma, blue, red = planes if len(planes) == 3 else (planes[0], None, None)
        size = self.size if size is None else size
        return dataclasses.replace(self, luma=luma, chroma_blue=blue, chroma_red=red, size=size, **others)

    def to(self, device: torch.device | str) -> Self:
        """Return a copy whose planes and tables lie on `device`."""
        quantization = tuple(table.to(device) for table in self.quantization)
        return self.with_planes(tuple(plane.to(device) for plane in self.planes), quantization=quantization)
