"""Resampling of planes of DCT blocks (enlarge, reduce, shift) by linear maps, exact up to float rounding.

Planes are (..., blocks_h, blocks_w, 8, 8), the last two axes (v, u). Everything here is what the same operation on
the samples of the plane gives, followed by a block DCT; samples are neither rounded nor clipped on the way.
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import Literal, get_args

import torch
from torch import Tensor
from torch.nn.functional import pad

from tailcut.errors import ArgumentError
from tailcut.inputs.jpeg.chroma import CENTRE, NEIGHBOUR
from tailcut.transform.block import BLOCK_SIZE, block_dct, block_idct
from tailcut.transform.dct import dct_basis

Method = Literal["linear", "nearest"]
MAX_FACTOR = 8


def upsample_blocks(plane: Tensor, vertical: int = 2, horizontal: int = 2, *, method: Method = "linear") -> Tensor:
    """Enlarge a plane by whole factors; each block becomes `vertical` x `horizontal` blocks. Differentiable.

    "linear" is bilinear interpolation between the centres of samples (`interpolate(mode="bilinear")`), which decoders
    of JPEG files use for subsampled chroma, but for their rounding; a block depends on its neighbours, and at the ends
    of the plane the last sample is repeated. "nearest" repeats each sample.

    Args:
        plane: floating point (..., blocks_h, blocks_w, 8, 8).
        vertical: factor of the height, 1 to 8.
        horizontal: factor of the width.
        method: "linear" or "nearest".

    Returns:
        (..., vertical blocks_h, horizontal blocks_w, 8, 8), the type of `plane`.

    Raises:
        ArgumentError: another shape or type, factor or method.
    """
    _check(plane, vertical, horizontal)
    if method not in get_args(Method):
        raise ArgumentError(f"method must be {' or '.join(map(repr, get_args(Method)))}, got {method!r}")
    plane = _upsample_rows(plane, _window_matrix(vertical, method), vertical)
    return _swapped(_upsample_rows(_swapped(plane), _window_matrix(horizontal, method), horizontal))


def upsampled_channels(
    plane: Tensor, indices: Sequence[int], vertical: int = 2, horizontal: int = 2, *, smooth: bool = False
) -> Tensor:
    """Chosen frequencies of `upsample_blocks(plane, vertical, horizontal)` as channels; no others are computed.

    Args:
        plane: floating point (..., blocks_h, blocks_w, 8, 8).
        indices: the frequencies, row-major 8 v + u, at least one.
        vertical: factor of the height, 1 to 8.
        horizontal: factor of the width.
        smooth: smooth the enlarged plane as `chroma.smoothed_filters` do.

    Returns:
        (..., n, vertical blocks_h, horizontal blocks_w), the type of `plane`.

    Raises:
        ArgumentError: another shape or type, factor or index.
    """
    _check(plane, vertical, horizontal)
    if not indices or any(not 0 <= index < BLOCK_SIZE**2 for index in indices):
        raise ArgumentError(f"expected frequencies 0 to {BLOCK_SIZE**2 - 1}, at least one, got {list(indices)}")
    lead, (blocks_h, blocks_w) = plane.shape[:-4], plane.shape[-4:-2]
    num_v, num_u = (max(axis) + 1 for axis in zip(*(divmod(index, BLOCK_SIZE) for index in indices), strict=True))
    rows = plane.transpose(-3, -2).flatten(-2)  # (..., blocks_h, v, blocks_w u)
    rows = _stretched(rows, _first_rows(_window_matrix(vertical, "linear", smooth), num_v))
    columns = rows.reshape(*lead, -1, blocks_w, BLOCK_SIZE).movedim(-3, -1)  # (..., blocks_w, u, blocks_h vertical v)
    columns = _stretched(columns, _first_rows(_window_matrix(horizontal, "linear", smooth), num_u))
    parts = columns.reshape(*lead, blocks_w, horizontal, num_u, blocks_h, vertical, num_v)
    num_lead = len(lead)
    order = [num_lead + axis for axis in (5, 2, 3, 4, 0, 1)]
    channels = parts.permute(*range(num_lead), *order)
    channels = channels.reshape(*lead, num_v * num_u, vertical * blocks_h, horizontal * blocks_w)
    return channels[..., [index // BLOCK_SIZE * num_u + index % BLOCK_SIZE for index in indices], :, :]


def downsample_blocks(plane: Tensor, vertical: int = 2, horizontal: int = 2) -> Tensor:
    """Reduce a plane by whole factors; each new sample is the mean of vertical x horizontal old ones. Differentiable.

    Where the blocks are no multiple of a factor, the last sample of the plane is repeated to fill them up.

    Args:
        plane: floating point (..., blocks_h, blocks_w, 8, 8).
        vertical: divisor of the height, 1 to 8.
        horizontal: divisor of the width.

    Returns:
        (..., ceil(blocks_h / vertical), ceil(blocks_w / horizontal), 8, 8), the type of `plane`.

    Raises:
        ArgumentError: another shape or type, or another factor.
    """
    _check(plane, vertical, horizontal)
    plane = _downsample_rows(plane, vertical)
    return _swapped(_downsample_rows(_swapped(plane), horizontal))


def crop_blocks(plane: Tensor, top: int, left: int, height: int, width: int) -> Tensor:
    """Crop a plane's samples into new blocks, which need not be aligned with the old ones.

    Args:
        plane: floating point (..., blocks_h, blocks_w, 8, 8).
        top: first row of samples.
        left: first column.
        height: rows, at least 1; where they end inside a block, the last is repeated.
        width: columns, likewise.

    Returns:
        (..., ceil(height / 8), ceil(width / 8), 8, 8).

    Raises:
        ArgumentError: another shape or type, or the part is not inside the plane.
    """
    _check(plane)
    rows, columns = (BLOCK_SIZE * blocks for blocks in plane.shape[-4:-2])
    if not (0 <= top < top + height <= rows and 0 <= left < left + width <= columns):
        raise ArgumentError(
            f"expected a part of the plane's {rows} x {columns} samples, got {height} x {width} at row {top}, "
            f"column {left}"
        )
    samples = block_idct(plane)[..., top : top + height, left : left + width]
    lead = samples.shape[:-2]
    filling = (0, -width % BLOCK_SIZE, 0, -height % BLOCK_SIZE)
    samples = pad(samples.reshape(-1, 1, height, width), filling, mode="replicate")
    return block_dct(samples.reshape(*lead, *samples.shape[-2:]))


def _check(plane: Tensor, vertical: int = 1, horizontal: int = 1) -> None:
    if not plane.is_floating_point() or plane.ndim < 4 or plane.shape[-2:] != (BLOCK_SIZE, BLOCK_SIZE):
        raise ArgumentError(
            f"expected a floating-point plane (..., blocks_h, blocks_w, 8, 8), got {plane.dtype} {tuple(plane.shape)}"
        )
    if plane.numel() == 0:
        raise ArgumentError(f"expected a plane of at least one block, got shape {tuple(plane.shape)}")
    for factor in (vertical, horizontal):
        if factor not in range(1, MAX_FACTOR + 1):
            raise ArgumentError(f"factors must be 1 to {MAX_FACTOR}, got {vertical} and {horizontal}")


def _swapped(plane: Tensor) -> Tensor:
    """Return the transpose of the image: swaps blocks_h with blocks_w, v with u."""
    return plane.transpose(-4, -3).transpose(-2, -1)


def _upsample_rows(plane: Tensor, matrix: Tensor, factor: int) -> Tensor:
    if factor == 1:
        return plane
    columns = plane.shape[-3]
    rows = _stretched(plane.transpose(-3, -2).flatten(-2), matrix)
    rows = rows.unflatten(-2, (factor, BLOCK_SIZE)).flatten(-4, -3)
    upsampled: Tensor = rows.unflatten(-1, (columns, BLOCK_SIZE)).transpose(-3, -2)
    return upsampled


def _stretched(rows: Tensor, matrix: Tensor) -> Tensor:
    """Multiply each block and its neighbours by a matrix: (..., blocks, 8, n) and (m, 24) to (..., blocks, m, n)."""
    first = _row_matrix(0).to(rows) @ rows[..., :1, :, :]
    last = _row_matrix(BLOCK_SIZE - 1).to(rows) @ rows[..., -1:, :, :]
    longer = torch.cat([first, rows, last], dim=-3)
    window = torch.cat([longer[..., :-2, :, :], rows, longer[..., 2:, :, :]], dim=-2)
    stretched: Tensor = matrix.to(rows) @ window
    return stretched


def _first_rows(matrix: Tensor, num: int) -> Tensor:
    """Return the matrix (8 factor, 24) cut to the first `num` frequencies of each block."""
    kept: Tensor = matrix.unflatten(0, (-1, BLOCK_SIZE))[:, :num].flatten(0, 1)
    return kept


def _downsample_rows(plane: Tensor, factor: int) -> Tensor:
    if factor == 1:
        return plane
    columns = plane.shape[-3]
    rows = plane.transpose(-3, -2).flatten(-2)  # (..., blocks_h, v, blocks_w u)
    lacking = -rows.shape[-3] % factor
    if lacking:
        last = _row_matrix(BLOCK_SIZE - 1).to(rows) @ rows[..., -1:, :, :]
        rows = torch.cat([rows, *[last] * lacking], dim=-3)
    window = rows.unflatten(-3, (-1, factor)).flatten(-3, -2)
    smaller = _downsampling_matrix(factor).to(rows) @ window
    downsampled: Tensor = smaller.unflatten(-1, (columns, BLOCK_SIZE)).transpose(-3, -2)
    return downsampled


# The maps on frequencies: basis x (the map on samples) x inverse bases of the blocks in the window.


@lru_cache
def window_matrices(factor: int, smooth: bool) -> Tensor:
    """Return the map of `upsampled_channels` along one axis, for each place of a block among its neighbours.

    Args:
        factor: 1 to 8.
        smooth: smooth the enlarged plane.

    Returns:
        float64 (4, factor, 8, 24): from a block between its neighbours to the frequencies of its new blocks, where it
        has both neighbours, none before it, none behind it, and none at all. What would be repeated in place of a
        missing one is added to the block's own columns.
    """
    matrix = _window_matrix(factor, "linear", smooth)
    before, own, behind = matrix.split(BLOCK_SIZE, dim=1)
    nothing = torch.zeros_like(own)
    first, last = before @ _row_matrix(0), behind @ _row_matrix(BLOCK_SIZE - 1)
    places = [
        matrix,
        torch.cat([nothing, own + first, behind], dim=1),
        torch.cat([before, own + last, nothing], dim=1),
        torch.cat([nothing, own + first + last, nothing], dim=1),
    ]
    matrices: Tensor = torch.stack(places).unflatten(1, (factor, BLOCK_SIZE))
    return matrices


@lru_cache
def _window_matrix(factor: int, method: Method, smooth: bool = False) -> Tensor:
    """(8 factor, 24): a block between its neighbours, enlarged, then smoothed."""
    margin = 1 if smooth else 0
    places = torch.arange(-margin, BLOCK_SIZE * factor + margin, dtype=torch.float64, device="cpu")
    positions = (places + 0.5) / factor - 0.5
    offsets = torch.arange(-BLOCK_SIZE, 2 * BLOCK_SIZE, device="cpu")
    if method == "nearest":
        weights = (positions.round()[:, None] == offsets).double()
    else:
        weights = (1 - (positions[:, None] - offsets).abs()).clamp(min=0)
    if smooth:
        weights = CENTRE * weights[1:-1] + NEIGHBOUR * (weights[:-2] + weights[2:])
    return _on_frequencies(weights)


@lru_cache
def _downsampling_matrix(factor: int) -> Tensor:
    """(8, 8 factor): the means of `factor` samples each."""
    return _on_frequencies(
        torch.eye(BLOCK_SIZE, dtype=torch.float64, device="cpu").repeat_interleave(factor, 1) / factor
    )


@lru_cache
def _row_matrix(row: int) -> Tensor:
    """(8, 8): a block in which each row is row `row`."""
    weights = torch.zeros(BLOCK_SIZE, BLOCK_SIZE, dtype=torch.float64, device="cpu")
    weights[:, row] = 1
    return _on_frequencies(weights)


def _on_frequencies(weights: Tensor) -> Tensor:
    """Return a linear map on samples, (8 a, 8 b) from b to a blocks, as the map on their DCTs."""
    basis = dct_basis(BLOCK_SIZE, dtype=torch.float64)
    outer, inner = (torch.block_diag(*[basis] * (side // BLOCK_SIZE)) for side in weights.shape)
    result: Tensor = outer @ weights @ inner.T
    return result
