"""Block DCT of images and feature maps, and its layout with one channel per frequency.

Axes of blocks are `(..., blocks_h, blocks_w, v, u)`: v is the vertical and u the horizontal frequency. A frequency's
row-major index is B v + u; JPEG files, and the numbers in the paper's heat maps, count in zigzag order.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from tailcut.errors import ArgumentError
from tailcut.transform.dct import dct, dct_basis, idct, without_autocast

BLOCK_SIZE = 8
# Blocks up to this side are transformed along both axes by one matrix product, 2 (side 8) to 8 times (side 4) faster
# than one axis after the other; the matrix of larger ones has too many numbers.
MAX_JOINED_SIDE = 8


def block_dct(maps: Tensor, block_size: int = BLOCK_SIZE) -> Tensor:
    """Orthonormal DCT-II of each block of `block_size` x `block_size`. Differentiable.

    Only whole blocks: who needs smaller ones at the ends cuts the map there and transforms the parts, or pads first.

    Args:
        maps: floating point (..., height, width), both multiples of `block_size`. For JPEG's coefficients subtract
            128 first (its level shift).
        block_size: side of a block, at least 1.

    Returns:
        (..., height / block_size, width / block_size, v, u), the type of `maps`. float16 and bfloat16 are computed
        in float32, also under autocast.

    Raises:
        ArgumentError: not floating point, fewer than two axes, or a size that is no multiple of `block_size`.
    """
    _check_block_size(block_size)
    if maps.ndim < 2:
        raise ArgumentError(f"expected maps (..., height, width), got shape {tuple(maps.shape)}")
    height, width = maps.shape[-2:]
    if height % block_size or width % block_size:
        raise ArgumentError(
            f"expected maps whose height and width are multiples of the block size {block_size}, "
            f"got {height} x {width}; pad them first"
        )
    rows, columns = height // block_size, width // block_size
    blocks = maps.reshape(*maps.shape[:-2], rows, block_size, columns, block_size).transpose(-3, -2)
    return _transform(blocks, block_size, inverse=False)


def block_idct(blocks: Tensor) -> Tensor:
    """Return the inverse of `block_dct`: (..., blocks_h, blocks_w, v, u) to maps (..., height, width).

    Raises:
        ArgumentError: not floating point, or the last two axes are not equal.
    """
    block_size = _block_size_of(blocks)
    rows, columns = blocks.shape[-4:-2]
    pixels = _transform(blocks, block_size, inverse=True).transpose(-3, -2)
    return pixels.reshape(*blocks.shape[:-4], rows * block_size, columns * block_size)


def to_channels(blocks: Tensor) -> Tensor:
    """Return one channel per frequency: (..., blocks_h, blocks_w, v, u) to (..., v u, blocks_h, blocks_w), row-major.

    >>> to_channels(torch.zeros(3, 28, 28, 8, 8)).shape
    torch.Size([3, 64, 28, 28])

    Raises:
        ArgumentError: the last two axes are not equal.
    """
    _block_size_of(blocks)
    channels: Tensor = blocks.flatten(-2).movedim(-1, -3)
    return channels


def from_channels(channels: Tensor) -> Tensor:
    """Return the inverse of `to_channels`: (..., B B, blocks_h, blocks_w) to (..., blocks_h, blocks_w, B, B).

    Raises:
        ArgumentError: the number of channels is no square.
    """
    block_size = math.isqrt(channels.shape[-3]) if channels.ndim >= 3 else 0
    if block_size < 1 or block_size**2 != channels.shape[-3]:
        raise ArgumentError(
            f"expected channels (..., B x B, blocks_h, blocks_w), one per frequency, got shape {tuple(channels.shape)}"
        )
    blocks: Tensor = channels.movedim(-3, -1).unflatten(-1, (block_size, block_size))
    return blocks


def block_filters(
    block_size: int,
    indices: Sequence[int],
    *,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str | None = None,
) -> Tensor:
    """Return the cosines of chosen frequencies as filters for `conv2d(maps, filters, stride=block_size)`.

    On maps (batch, 1, height, width) this gives the chosen channels of `to_channels(block_dct(maps))` and computes no
    others.

    Args:
        block_size: side of a block, at least 1.
        indices: row-major indices of the frequencies, 0 to block_size^2 - 1.
        dtype: type of the result; the cosines are computed in float64.
        device: device of the result.

    Returns:
        (n, 1, block_size, block_size), each filter of norm 1.

    Raises:
        ArgumentError: an index is out of range.
    """
    _check_block_size(block_size)
    if any(not 0 <= index < block_size**2 for index in indices):
        raise ArgumentError(f"expected frequencies 0 to {block_size**2 - 1}, got {list(indices)}")
    basis = dct_basis(block_size, dtype=torch.float64, device="cpu")
    vertical = torch.tensor([index // block_size for index in indices], dtype=torch.int64, device="cpu")
    horizontal = torch.tensor([index % block_size for index in indices], dtype=torch.int64, device="cpu")
    filters = basis[vertical][:, None, :, None] * basis[horizontal][:, None, None, :]
    return filters.to(device=device, dtype=dtype)


def zigzag_order(block_size: int = BLOCK_SIZE) -> Tensor:
    """Return the row-major index of the i-th frequency in JPEG's zigzag order (ITU-T T.81, figure A.6).

    Its inverse, the zigzag number of a row-major index, is `zigzag_order().argsort()`.

    Returns:
        int64 (block_size^2,).

    >>> zigzag_order()[:10].tolist()
    [0, 1, 8, 16, 9, 2, 3, 10, 17, 24]
    """
    _check_block_size(block_size)
    # Diagonal by diagonal; odd ones run downwards (v grows), even ones upwards.
    places = [(v, u) for v in range(block_size) for u in range(block_size)]
    places.sort(key=lambda place: (sum(place), place[0] if sum(place) % 2 else -place[0]))
    return torch.tensor([v * block_size + u for v, u in places], dtype=torch.int64)


def _transform(blocks: Tensor, block_size: int, *, inverse: bool) -> Tensor:
    """DCT or inverse DCT of the last two axes."""
    if block_size > MAX_JOINED_SIDE or not blocks.dtype.is_floating_point:
        return (idct if inverse else dct)(blocks, (-2, -1))
    dtype = torch.float64 if blocks.dtype == torch.float64 else torch.float32
    basis = dct_basis(block_size, dtype=torch.float64, device="cpu")
    both = torch.kron(basis, basis).to(device=blocks.device, dtype=dtype)  # (v u, samples)
    with without_autocast(blocks.device):
        flat = blocks.to(dtype).flatten(-2) @ (both if inverse else both.T)
    return flat.to(blocks.dtype).reshape(blocks.shape)


def _check_block_size(block_size: int) -> None:
    if block_size < 1:
        raise ArgumentError(f"expected a block size of at least 1, got {block_size}")


def _block_size_of(blocks: Tensor) -> int:
    if blocks.ndim < 4 or blocks.shape[-1] != blocks.shape[-2]:
        raise ArgumentError(
            f"expected blocks (..., blocks_h, blocks_w, v, u) with as many v as u, got shape {tuple(blocks.shape)}"
        )
    return blocks.shape[-1]
