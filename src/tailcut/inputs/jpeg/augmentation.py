"""Augmentation of JPEG images on their DCT blocks, without decoding: flips, crops, half and double sizes.

Each function gives what the same operation on the samples of every plane gives, but for rounding of floats; nothing
is clipped to 0..255 on the way. A plane whose side is no multiple of 8 ends in blocks that it fills only in part.
A flip would bring their padding to the front, so `edges` says what to do:

- "recut" cuts that plane into new blocks: the image stays whole, and the last sample is repeated behind it. Where
  chroma is subsampled and the side is odd, chroma moves by one luma sample (half a chroma sample) against luma.
- "trim" drops the incomplete blocks first, as `jpegtran -trim` does; up to 7 rows or columns, 15 where chroma is
  subsampled.
- "error" refuses, as `jpegtran -perfect` does.

The quantisation tables stay those of the file; they are transposed with the image.
"""

import dataclasses
from collections.abc import Callable
from typing import Literal, get_args

import torch
from torch import Tensor

from tailcut.errors import ArgumentError
from tailcut.inputs.jpeg.block_resampling import Method, crop_blocks, downsample_blocks, upsample_blocks
from tailcut.inputs.jpeg.coefficients import JpegCoefficients, Sampling, num_blocks
from tailcut.transform.block import BLOCK_SIZE

Edges = Literal["recut", "trim", "error"]

_TRANSPOSED_SAMPLING: dict[Sampling, Sampling] = {"4:2:2": "4:4:0", "4:4:0": "4:2:2"}
_ROWS, _COLUMNS = 0, 1

# What EXIF orientations do: rows and columns are swapped, then left and right, then top and bottom.
TRANSPOSED, FLIPPED_COLUMNS, FLIPPED_ROWS = {5, 6, 7, 8}, {2, 3, 6, 7}, {3, 4, 7, 8}


def flip_horizontal(image: JpegCoefficients, *, edges: Edges = "recut") -> JpegCoefficients:
    """Mirror an image left to right: blocks in reverse, odd horizontal frequencies negated.

    Args:
        image: it is not changed.
        edges: what to do where the width is no multiple of 8 samples in each plane; see the top of this module.

    Raises:
        ArgumentError: an unknown `edges`; with "error", an incomplete block; with "trim", no complete one.
    """
    return _flipped(image, _COLUMNS, edges)


def flip_vertical(image: JpegCoefficients, *, edges: Edges = "recut") -> JpegCoefficients:
    """Mirror an image top to bottom; arguments and errors as for `flip_horizontal`."""
    return _flipped(image, _ROWS, edges)


def transpose(image: JpegCoefficients) -> JpegCoefficients:
    """Swap rows and columns; always exact. 4:2:2 becomes 4:4:0 and the other way round."""
    return image.with_planes(
        tuple(plane.transpose(0, 1).transpose(2, 3).contiguous() for plane in image.planes),
        (image.size[1], image.size[0]),
        sampling=_TRANSPOSED_SAMPLING.get(image.sampling, image.sampling),
        quantization=tuple(table.T.contiguous() for table in image.quantization),
    )


def upright(image: JpegCoefficients, *, edges: Edges = "recut") -> JpegCoefficients:
    """Turn an image as its EXIF orientation says, so that its orientation is 1; see `flip_horizontal`."""
    turned = dataclasses.replace(image, orientation=1)
    turned = transpose(turned) if image.orientation in TRANSPOSED else turned
    turned = flip_horizontal(turned, edges=edges) if image.orientation in FLIPPED_COLUMNS else turned
    return flip_vertical(turned, edges=edges) if image.orientation in FLIPPED_ROWS else turned


def crop(image: JpegCoefficients, top: int, left: int, height: int, width: int) -> JpegCoefficients:
    """Cut a part out of an image; it begins at a block of every plane, and shares the image's memory.

    Args:
        image: it is not changed.
        top: first row in pixels, a multiple of 8, or of 16 where chroma has half the height.
        left: first column in pixels, likewise.
        height: rows in pixels, any number; where they end inside a block, the whole block is kept.
        width: columns in pixels, likewise.

    Raises:
        ArgumentError: the part is not inside the image, or does not begin at a block.
    """
    rows, columns = image.size
    if not (0 <= top < top + height <= rows and 0 <= left < left + width <= columns):
        raise ArgumentError(
            f"expected a part of the image's {rows} x {columns} pixels, got {height} x {width} at row {top}, "
            f"column {left}"
        )
    units = _unit(image, _ROWS), _unit(image, _COLUMNS)
    if top % units[0] or left % units[1]:
        raise ArgumentError(
            f"a crop of a {image.sampling} image begins at multiples of {units[0]} rows and {units[1]} columns, "
            f"got row {top}, column {left}"
        )
    planes = []
    for index, plane in enumerate(image.planes):
        vertical, horizontal = (1, 1) if index == 0 else image.chroma_factors
        first_row, first_column = top // (BLOCK_SIZE * vertical), left // (BLOCK_SIZE * horizontal)
        num_rows, num_columns = num_blocks((-(-height // vertical), -(-width // horizontal)))
        planes.append(plane[first_row : first_row + num_rows, first_column : first_column + num_columns])
    return image.with_planes(tuple(planes), (height, width))


def double_size(image: JpegCoefficients, *, method: Method = "linear") -> JpegCoefficients:
    """Enlarge an image by 2 in both directions; see `upsample_blocks` for `method`."""

    def enlarge(plane: Tensor, size: tuple[int, int]) -> Tensor:
        # Interpolation at the end reads the sample behind it, which must not be padding of the file.
        is_whole = size[0] % BLOCK_SIZE == size[1] % BLOCK_SIZE == 0
        return upsample_blocks(plane if is_whole else crop_blocks(plane, 0, 0, *size), method=method)

    return _resized(image, (2 * image.size[0], 2 * image.size[1]), enlarge)


def halve_size(image: JpegCoefficients) -> JpegCoefficients:
    """Reduce an image by 2 in both directions: each new sample is the mean of 2 x 2, of which the last may repeat."""

    def reduce(plane: Tensor, size: tuple[int, int]) -> Tensor:
        is_even = size[0] % 2 == size[1] % 2 == 0
        return downsample_blocks(plane if is_even else crop_blocks(plane, 0, 0, *size))

    return _resized(image, (-(-image.size[0] // 2), -(-image.size[1] // 2)), reduce)


def _flipped(image: JpegCoefficients, axis: int, edges: Edges) -> JpegCoefficients:
    if edges not in get_args(Edges):
        raise ArgumentError(f"edges must be {', '.join(map(repr, get_args(Edges)))}, got {edges!r}")
    unit, side = _unit(image, axis), image.size[axis]
    if side % unit and edges == "error":
        name = ("height", "width")[axis]
        raise ArgumentError(
            f"the {name} of a {image.sampling} image must be a multiple of {unit} to be flipped block by block, "
            f"got {side}; edges='recut' or 'trim' takes any"
        )
    if side % unit and edges == "trim":
        if side < unit:
            raise ArgumentError(f"an image of {image.size} pixels has no complete blocks; use edges='recut'")
        height, width = image.size
        kept = side // unit * unit
        image = crop(image, 0, 0, *((kept, width) if axis == _ROWS else (height, kept)))
    planes = [_flipped_plane(plane, image.plane_size(i), axis) for i, plane in enumerate(image.planes)]
    return image.with_planes(tuple(planes))


def _flipped_plane(plane: Tensor, size: tuple[int, int], axis: int) -> Tensor:
    """Return the plane mirrored along an axis of its samples, 0 or 1."""
    signs = torch.ones(BLOCK_SIZE, dtype=plane.dtype, device=plane.device)
    signs[1::2] = -1
    flipped = plane.flip(axis) * (signs[:, None] if axis == _ROWS else signs)
    padding = -size[axis] % BLOCK_SIZE
    if not padding:
        return flipped
    # The padding is in front now, and what comes behind it is cut anew.
    rows, columns = (BLOCK_SIZE * blocks for blocks in plane.shape[:2])
    if axis == _ROWS:
        return crop_blocks(flipped, padding, 0, size[_ROWS], columns)
    return crop_blocks(flipped, 0, padding, rows, size[_COLUMNS])


def _unit(image: JpegCoefficients, axis: int) -> int:
    """Return the number of pixels of the largest block along an axis."""
    return BLOCK_SIZE * image.chroma_factors[axis]


def _resized(
    image: JpegCoefficients, size: tuple[int, int], resize: Callable[[Tensor, tuple[int, int]], Tensor]
) -> JpegCoefficients:
    planes = []
    for index, plane in enumerate(image.planes):
        vertical, horizontal = (1, 1) if index == 0 else image.chroma_factors
        num_rows, num_columns = num_blocks((-(-size[0] // vertical), -(-size[1] // horizontal)))
        planes.append(resize(plane, image.plane_size(index))[:num_rows, :num_columns].contiguous())
    return image.with_planes(tuple(planes), size)
