"""Reader of the DCT coefficients that a JPEG file stores, without decoding to pixels."""

import os
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from tailcut.errors import ArgumentError, DataError
from tailcut.files import read_image_bytes
from tailcut.inputs.jpeg.augmentation import upright as turn_upright
from tailcut.inputs.jpeg.coefficients import JpegCoefficients as JpegCoefficients
from tailcut.inputs.jpeg.coefficients import Sampling as Sampling
from tailcut.jpeg.entropy import decode
from tailcut.jpeg.markers import ADVICE, read_markers


def read_jpeg(
    source: str | Path | bytes | bytearray | memoryview, *, upright: bool = True, max_pixels: int | None = None
) -> JpegCoefficients:
    """Return the coefficients of a JPEG file, multiplied by its quantisation tables and otherwise unchanged.

    Read are 8-bit Huffman-coded files, baseline, extended and progressive, with or without restart markers, grey or
    YCbCr in 4:4:4, 4:2:2, 4:2:0 and 4:4:0. What follows the end of the image is not looked at.

    Args:
        source: a path, or the content of a file.
        upright: turn the image as its EXIF orientation says (see `augmentation.upright`); False leaves it as it is
            stored, and its `orientation` tells how it is to be turned. Where chroma is subsampled and a side that gets
            mirrored is odd, chroma moves by one luma sample (half a chroma sample) against luma.
        max_pixels: the most pixels that an image may have. When None, 2^24 (16.8 million), or 16 for each byte of the
            file if that is more.

    Returns:
        Planes of float32 on the CPU.

    Raises:
        ArgumentError: `source` is neither a path nor bytes.
        DataError: the file cannot be read, is no JPEG, is truncated or damaged anywhere up to the end of its image,
            has more pixels than allowed, or is of another kind (CMYK, YCCK, RGB, 12 bits, lossless, arithmetic
            coding). Damage that leaves a valid file cannot be noticed: JPEG has no checksum.
        MissingExtraError: numba is not installed.
    """
    return read_advising(source, upright=upright, max_pixels=max_pixels)


def read_advising(
    source: str | Path | bytes | bytearray | memoryview,
    *,
    upright: bool = True,
    max_pixels: int | None = None,
    advice: str = ADVICE,
) -> JpegCoefficients:
    """Return what `read_jpeg` does; `advice` says how more pixels can be allowed, for the error."""
    data, name = _content(source)
    try:
        markers = read_markers(data, max_pixels=max_pixels, advice=advice)
        blocks = decode(data, markers)
    except DataError as error:
        raise type(error)(f"cannot use {name}: {error}") from error
    luma, *chroma = (_dequantized(plane, table) for plane, table in zip(blocks, markers.quantization, strict=True))
    blue, red = chroma or (None, None)
    if markers.sampling is None:
        raise ArgumentError("coefficients of any colours cannot be taken apart")
    image = JpegCoefficients(
        luma,
        blue,
        red,
        markers.sampling,
        tuple(torch.from_numpy(table) for table in markers.quantization),
        markers.size,
        markers.orientation,
    )
    return turn_upright(image) if upright else image


def _content(source: str | Path | bytes | bytearray | memoryview) -> tuple[bytes, str]:
    if isinstance(source, (bytes, bytearray, memoryview)):
        return bytes(source), "the JPEG data"
    if not isinstance(source, (str, os.PathLike)):
        raise ArgumentError(f"expected a JPEG's path or its bytes, got {type(source).__name__}")
    return read_image_bytes(source), f"the image {source}"


def _dequantized(plane: np.ndarray, table: np.ndarray) -> Tensor:
    coefficients = torch.from_numpy(plane).to(torch.float32, memory_format=torch.contiguous_format)
    return coefficients.mul_(torch.from_numpy(table))
