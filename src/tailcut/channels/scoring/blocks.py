"""Smoothing and block DCT of many feature maps at once, as one matrix per axis."""

import math
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from tailcut.channels.scoring.gaussian import gaussian_matrix, gaussian_rows
from tailcut.transform import dct_basis

# Maps of at most this many pixels are transformed by one product; larger ones axis by axis.
MAX_WHOLE_MAP = 100
# Rows of an axis's matrix in one product. The matrix is a band: 32 rows of it need few more columns than rows.
TILE_ROWS = 32


@dataclass(frozen=True)
class Blocks:
    """Settings by which a map is cut into blocks, smoothed and transformed.

    Attributes:
        size: side of a block; None for one block per map. A map smaller than a block is one block.
        sigma: of the Gaussian filter; None for no filter.
        is_orthonormal: orthonormal cosines; otherwise those of equation 6, without factors.
        filters_coefficients: the Gaussian runs over the coefficients of each block; otherwise over the map, before.
        leaves_ends_out: what does not fill a block is left out; otherwise it forms smaller blocks.
    """

    size: int | None
    sigma: float | None
    is_orthonormal: bool
    filters_coefficients: bool
    leaves_ends_out: bool

    def num_coefficients(self, size: int) -> int:
        """Return the number of coefficients along an axis of `size` pixels."""
        return sum(self._sides(size))

    def axis_matrix(self, size: int) -> np.ndarray:
        """Return smoothing and block DCT along an axis of `size` pixels as a matrix: float64 (coefficients, size)."""
        left, rows = self.axis_rows(size, 0, self.num_coefficients(size))
        return np.pad(rows, ((0, 0), (left, size - left - rows.shape[1])))

    def axis_rows(self, size: int, first: int, last: int) -> tuple[int, np.ndarray]:
        """Return rows of that matrix, which is a band, without columns at both ends in which they are all zero.

        Args:
            size: of the axis.
            first: of the rows.
            last: behind the last row.

        Returns:
            The first column that is there, and the rows, float64 (last - first, columns).
        """
        starts = np.cumsum([0, *self._sides(size)])  # blocks have as many coefficients as pixels
        begin, end = np.searchsorted(starts, first, "right") - 1, np.searchsorted(starts, last)
        left, right = int(starts[begin]), int(starts[end])
        matrix = np.zeros((right - left, right - left))
        for start, stop in pairwise(starts[begin : end + 1] - left):
            matrix[start:stop, start:stop] = self._block_matrix(int(stop - start))
        matrix = matrix[first - left : last - left]
        if self.sigma is None or self.filters_coefficients:
            return left, matrix
        outer, smoothing = gaussian_rows(size, self.sigma, left, right)
        return outer, matrix @ smoothing

    def _sides(self, size: int) -> list[int]:
        """Return the lengths of the blocks along an axis."""
        side = size if self.size is None else min(self.size, size)
        rest = 0 if self.leaves_ends_out else size % side
        return [side] * (size // side) + [rest] * (rest > 0)

    def _block_matrix(self, side: int) -> np.ndarray:
        matrix = dct_basis(side, dtype=torch.float64).numpy()
        if not self.is_orthonormal:
            norms = np.full(side, math.sqrt(side / 2))
            norms[0] = math.sqrt(side)
            matrix = matrix * norms[:, None]
        if self.sigma is not None and self.filters_coefficients:
            matrix = gaussian_matrix(side, self.sigma) @ matrix
        return matrix


@dataclass(frozen=True)
class Tile:
    """The rows `first` to `last` of an axis's matrix, without the columns in which they are all zero."""

    first: int
    last: int
    left: int
    right: int
    content: Tensor


class BlockTransform:
    """Maps to their coefficients.

    Args:
        height: of the maps.
        width: of the maps.
        blocks: how they are cut, smoothed and transformed.
        dtype: type to work in, float32 or float64.
        device: where the maps are.
    """

    def __init__(self, height: int, width: int, blocks: Blocks, dtype: torch.dtype, device: torch.device) -> None:
        self.is_whole = height * width <= MAX_WHOLE_MAP
        tiles = (
            [_map_tiles(height, width, blocks)] if self.is_whole else [_tiles(height, blocks), _tiles(width, blocks)]
        )
        self.rows, self.columns = (
            [Tile(tile.first, tile.last, tile.left, tile.right, tile.content.to(device, dtype)) for tile in axis]
            for axis in (tiles[0], tiles[-1])
        )
        self.num_coefficients = self.rows[-1].last * (1 if self.is_whole else self.columns[-1].last)

    def __call__(self, maps: Tensor) -> Tensor:
        """Contiguous maps (num, height, width) to a new tensor (num, coefficients)."""
        num, height, width = maps.shape
        if self.is_whole:
            return maps.view(num, height * width) @ self.rows[0].content.T
        across = self._across(maps.view(num * height, width)).view(num, height, -1)
        if len(self.rows) == 1:
            return torch.matmul(self.rows[0].content, across).flatten(1)
        down = across.new_empty(num, self.rows[-1].last, across.shape[2])
        for tile in self.rows:
            down[:, tile.first : tile.last] = torch.matmul(tile.content, across[:, tile.left : tile.right])
        return down.flatten(1)

    def _across(self, x: Tensor) -> Tensor:
        if len(self.columns) == 1:
            return x @ self.columns[0].content.T
        result = x.new_empty(len(x), self.columns[-1].last)
        for tile in self.columns:
            torch.mm(x[:, tile.left : tile.right], tile.content.T, out=result[:, tile.first : tile.last])
        return result


@lru_cache(maxsize=64)
def _tiles(size: int, blocks: Blocks) -> list[Tile]:
    num = blocks.num_coefficients(size)
    if num <= TILE_ROWS:
        return [Tile(0, num, 0, size, torch.from_numpy(blocks.axis_matrix(size)))]
    found = []
    for first in range(0, num, TILE_ROWS):
        last = min(first + TILE_ROWS, num)
        start, matrix = blocks.axis_rows(size, first, last)
        rows = torch.from_numpy(matrix)
        used = rows.any(dim=0).nonzero().flatten().tolist()
        left, right = used[0], used[-1] + 1
        found.append(Tile(first, last, start + left, start + right, rows[:, left:right].contiguous()))
    return found


@lru_cache(maxsize=64)
def _map_tiles(height: int, width: int, blocks: Blocks) -> list[Tile]:
    """Return the matrix from a small map, flattened row by row, to all of its coefficients."""
    matrix = torch.from_numpy(np.kron(blocks.axis_matrix(height), blocks.axis_matrix(width)))
    return [Tile(0, len(matrix), 0, height * width, matrix)]
