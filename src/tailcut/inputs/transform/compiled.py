"""Compiled `BlockDCT` for one image on the CPU: the same channels in less than half the time.

`BlockDCT` is one convolution with filters of 8 x 8 x 3 pixels or more, which is what a GPU does best. But the cosines
of a block are products of one along the height and one along the width, so that two short sums do the same: first the
columns of a row of blocks, for the few frequencies that are kept, then the rows of what is left. The same holds for
the maps that enlarge the chroma of a JPEG file.
"""

import functools
import importlib
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tailcut.compiling import is_installed as is_installed
from tailcut.errors import ArgumentError, MissingExtraError
from tailcut.inputs.jpeg.block_resampling import window_matrices
from tailcut.inputs.jpeg.chroma import CENTRE, NEIGHBOUR
from tailcut.inputs.jpeg.coefficients import LEVEL_SHIFT, JpegCoefficients
from tailcut.inputs.transform.block_dct import BlockDCT
from tailcut.transform.block import BLOCK_SIZE
from tailcut.transform.color import RGB_TO_YCBCR
from tailcut.transform.dct import dct_basis


class CompiledTransform:
    """A `BlockDCT` for images on the CPU, one at a time, without gradients; the same but for rounding.

    Args:
        transform: its selection and chroma are taken now, its mean and std at each call.

    Raises:
        MissingExtraError: numba is not installed.
    """

    def __init__(self, transform: BlockDCT) -> None:
        _loops()
        self.transform = transform
        self._parts = list(transform.selection.components().values())
        self._is_smooth = transform.chroma == "two_scale"
        cosines = dct_basis(BLOCK_SIZE, dtype=torch.float64).numpy()
        wide = _wide_cosines(cosines, self._is_smooth)
        luma, chroma = self._parts[0], (*self._parts[1], *self._parts[2])
        num_luma, num_chroma = _num_rows(luma), _num_rows(chroma)
        self._vertical = cosines[:num_luma].astype(np.float32), wide[:num_chroma].astype(np.float32)
        rows = [index // BLOCK_SIZE for index in luma] + [num_luma + index // BLOCK_SIZE for index in chroma]
        self._rows = np.array(rows, np.int64)
        self._horizontal = np.zeros((transform.num_channels, _loops().NUM_AROUND))
        channel = 0
        for component, indices in enumerate(self._parts):
            for index in indices:
                along = (wide if component else cosines)[index % BLOCK_SIZE]
                factors = np.outer(RGB_TO_YCBCR[component], along).ravel()
                self._horizontal[channel, : len(factors)] = factors
                channel += 1

    def from_pixels(self, pixels: Tensor) -> Tensor:
        """Return the normalised channels of a uint8 image.

        Args:
            pixels: uint8 (3, height, width) on the CPU, both multiples of 8.

        Returns:
            float32 (n, height / 8, width / 8).

        Raises:
            ArgumentError: another shape, type or device, or a side that is no multiple of 8.
        """
        if pixels.dtype != torch.uint8 or pixels.ndim != 3 or pixels.shape[0] != 3 or pixels.device.type != "cpu":
            raise ArgumentError(
                f"expected a uint8 image (3, height, width) on the CPU, got {pixels.dtype} {tuple(pixels.shape)} "
                f"on {pixels.device}"
            )
        height, width = pixels.shape[1:]
        if 0 in (height, width) or height % BLOCK_SIZE or width % BLOCK_SIZE:
            raise ArgumentError(f"expected sides that are multiples of {BLOCK_SIZE}, got {height} x {width}")
        mean, std = self._statistics()
        if self._parts[0][:1] == (0,):
            mean[0] += BLOCK_SIZE * LEVEL_SHIFT  # of all cosines only luma's constant one sees the level shift
        result = np.empty((len(std), height // BLOCK_SIZE, width // BLOCK_SIZE), np.float32)
        _loops().transform_pixels(
            pixels.contiguous().numpy(),
            *self._vertical,
            self._rows,
            (self._horizontal / std[:, None]).astype(np.float32),
            (-mean / std).astype(np.float32),
            result,
        )
        return torch.from_numpy(result)

    def from_coefficients(self, coefficients: JpegCoefficients) -> Tensor:
        """Return the normalised channels of stored coefficients; see `BlockDCT.from_coefficients`.

        Args:
            coefficients: float32 on the CPU, upright, their sides multiples of 8.

        Returns:
            float32 (n, blocks_h, blocks_w).

        Raises:
            ArgumentError: another type, device or size, or the image is still to be turned upright.
        """
        luma, sides = coefficients.luma, coefficients.size
        if luma.dtype != torch.float32 or luma.device.type != "cpu" or any(side % BLOCK_SIZE for side in sides):
            raise ArgumentError(
                f"expected float32 coefficients on the CPU of sides that are multiples of {BLOCK_SIZE}, got "
                f"{luma.dtype} on {luma.device} of {sides[0]} x {sides[1]}"
            )
        if coefficients.orientation != 1:
            raise ArgumentError(f"expected an upright image, got EXIF orientation {coefficients.orientation}")
        mean, std = self._statistics()
        scale, shift = 1 / std, (-mean / std).astype(np.float32)
        result = np.empty((len(std), *luma.shape[:2]), np.float32)
        planes = (*coefficients.planes, None, None)[:3]
        factors = ((1, 1), coefficients.chroma_factors, coefficients.chroma_factors)
        start = 0
        for component, (plane, indices) in enumerate(zip(planes, self._parts, strict=True)):
            own = slice(start, start + len(indices))
            start += len(indices)
            if plane is None:
                result[own] = shift[own, None, None]
            elif indices:
                is_smooth = self._is_smooth and component > 0
                _fill_channels(plane, indices, factors[component], is_smooth, scale[own], shift[own], result[own])
        return torch.from_numpy(result)

    def _statistics(self) -> tuple[np.ndarray, np.ndarray]:
        """Return copies of mean and std, in float64."""
        buffers = self.transform.mean, self.transform.std
        mean, std = (values.detach().to("cpu", torch.float64, copy=True).numpy() for values in buffers)
        return mean, std


def _fill_channels(
    plane: Tensor,
    indices: tuple[int, ...],
    factors: tuple[int, int],
    is_smooth: bool,
    scale: np.ndarray,
    shift: np.ndarray,
    result: np.ndarray,
) -> None:
    blocks, stride = _numbers(plane)
    if factors == (1, 1) and not is_smooth:
        _loops().select_frequencies(blocks, stride, np.array(indices), scale.astype(np.float32), shift, result)
        return
    vertical, horizontal = (window_matrices(factor, is_smooth).numpy() for factor in factors)
    rows, columns = np.divmod(np.array(indices), BLOCK_SIZE)
    _loops().upsample_frequencies(
        blocks,
        stride,
        (plane.shape[0], plane.shape[1]),
        np.ascontiguousarray(vertical[:, :, : rows.max() + 1], np.float32),
        np.ascontiguousarray(horizontal[:, :, columns].swapaxes(1, 2) * scale[:, None, None], np.float32),
        rows,
        shift,
        result,
    )


def _numbers(plane: Tensor) -> tuple[np.ndarray, int]:
    """Return the memory of a plane as a 1-D array, and the stride between its rows of blocks."""
    if plane.stride()[1:] != (BLOCK_SIZE**2, BLOCK_SIZE, 1):
        plane = plane.contiguous()
    length = (plane.shape[0] - 1) * plane.stride(0) + plane.shape[1] * BLOCK_SIZE**2
    return plane.detach().as_strided((length,), (1,)).numpy(), plane.stride(0)


def _wide_cosines(cosines: np.ndarray, is_smooth: bool) -> np.ndarray:
    """Cosines over one pixel more on each side, smoothed as `chroma` does or with zeros there: (8, 10)."""
    wide = np.pad(cosines, ((0, 0), (2, 2)))
    centre, neighbour = (CENTRE, NEIGHBOUR) if is_smooth else (1.0, 0.0)
    smoothed: np.ndarray = centre * wide[:, 1:-1] + neighbour * (wide[:, :-2] + wide[:, 2:])
    return smoothed


def _num_rows(indices: tuple[int, ...]) -> int:
    """Return the number of vertical frequencies that are needed."""
    return 1 + max((index // BLOCK_SIZE for index in indices), default=-1)


@functools.cache
def _loops() -> Any:
    try:
        return importlib.import_module("tailcut.inputs.transform.loops")
    except ImportError as error:
        raise MissingExtraError("the compiled transform of images", "numba", "jpeg") from error
