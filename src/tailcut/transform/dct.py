"""Orthonormal DCT-II and DCT-III along any axes, and truncated bases (from a corner to the whole tensor).

Every function is differentiable and keeps the type of its input; float16 and bfloat16 are computed in
float32, also under autocast. `dct` is SciPy's `dctn(norm="ortho")`, `idct` its `idctn(norm="ortho")`.
"""

import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import lru_cache

import numpy as np
import torch

from tailcut.errors import ArgumentError
from tailcut.transform.order import normalize_axes

# From this axis length on a full transform by FFT beats one matrix product (two CPU cores, float32).
FFT_MIN_SIZE = 256
# An FFT takes this many numbers at a time, so that what it writes in between stays in the cache (CPU only).
FFT_BLOCK = 1 << 18
# A batch of products whose right sides have fewer columns than this is far slower than one wide product, even
# with the copies that this takes; products with a matrix of less than NARROW_SIZE rows or columns are not.
NARROW_COLUMNS = 32
NARROW_SIZE = 16
# Bases of at most this many numbers are kept for the next call (0.5 MB each, and there are at most 64).
MAX_CACHED_SIZE = 1 << 16
# Kernels of at most this many numbers are transformed along all axes by one product: 5 x 5 has no more work in it
# than axis by axis takes time for small products.
MAX_KERNEL = 32


def dct_basis(
    size: int,
    num_kept: int | None = None,
    *,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str | None = None,
) -> torch.Tensor:
    """Return the first `num_kept` orthonormal cosines of length `size`, computed in float64.

    Args:
        size: length of the axis, at least 1.
        num_kept: how many frequencies, 1 to `size`; all when None.
        dtype: type of the result.
        device: device of the result.

    Returns:
        Tensor of shape (num_kept, size): row x is cos(pi (2 y + 1) x / (2 size)), scaled to norm 1, so that
        `dct(signal) = basis @ signal` and `idct(coefficients) = basis.T @ coefficients`.

    Raises:
        ArgumentError: `size` or `num_kept` is out of range.
    """
    num_kept = size if num_kept is None else num_kept
    if size < 1 or not 1 <= num_kept <= size:
        raise ArgumentError(f"expected 1 to {size} cosines of an axis of length >= 1, got {num_kept} of {size}")
    # A compiler traces the computation itself, and would warn of the cache.
    if size * num_kept <= MAX_CACHED_SIZE and not torch.compiler.is_compiling():
        return torch.from_numpy(_cached_basis(size, num_kept)).to(dtype=dtype, copy=True).to(device=device)
    if torch.compiler.is_compiling():
        return torch.from_numpy(_basis_rows(size, 0, num_kept)).to(dtype=dtype, copy=True).to(device=device)
    # Some rows at a time, so that the float64 intermediates never take more than a block.
    basis = torch.empty(num_kept, size, dtype=dtype, device=device)
    height = max(1, MAX_CACHED_SIZE // size)
    for first in range(0, num_kept, height):
        rows = _basis_rows(size, first, min(first + height, num_kept))
        basis[first : first + height] = torch.from_numpy(rows).to(dtype).to(device=device)
    return basis


def _basis_rows(size: int, first: int, last: int) -> np.ndarray:
    # (2 y + 1) x is reduced modulo the period 4 size as an integer: no argument of the cosine is ever large.
    phase = np.outer(np.arange(first, last), 2 * np.arange(size) + 1) % (4 * size)
    rows: np.ndarray = np.cos(phase * (math.pi / (2 * size))) * math.sqrt(2 / size)
    if first == 0:
        rows[0] = math.sqrt(1 / size)
    return rows


@lru_cache(maxsize=64)
def _cached_basis(size: int, num_kept: int) -> np.ndarray:
    return _basis_rows(size, 0, num_kept)


def dct(x: torch.Tensor, axes: Sequence[int] | None = None) -> torch.Tensor:
    """Orthonormal DCT-II of `x` along `axes` (all when None). Same shape and type as `x`.

    Raises:
        ArgumentError: `x` is not floating point, or an axis is out of range.
    """
    return _along_axes(x, axes, inverse=False)


def idct(x: torch.Tensor, axes: Sequence[int] | None = None) -> torch.Tensor:
    """Orthonormal DCT-III of `x` along `axes` (all when None), the inverse of `dct`. Same shape and type.

    Raises:
        ArgumentError: `x` is not floating point, or an axis is out of range.
    """
    return _along_axes(x, axes, inverse=True)


def kernel_dct(x: torch.Tensor, *, inverse: bool = False) -> torch.Tensor:
    """Return `dct` (`idct` if `inverse`) along all axes but the first two, up to rounding; small kernels faster.

    Args:
        x: (outputs, inputs, *kernel), floating point.
        inverse: the inverse transform.
    """
    axes, size = range(2, x.ndim), math.prod(x.shape[2:])
    if not 1 < size <= MAX_KERNEL:
        return idct(x, axes) if inverse else dct(x, axes)
    work = x.to(torch.float64 if x.dtype == torch.float64 else torch.float32)
    basis = work.new_ones(1, 1)
    for axis in axes:
        basis = torch.kron(basis, dct_basis(x.shape[axis], dtype=work.dtype, device=work.device))
    with without_autocast(x.device):
        rows = work.reshape(-1, size) @ (basis if inverse else basis.T)
    return rows.reshape(x.shape).to(x.dtype)


def without_autocast(device: torch.device) -> AbstractContextManager[object]:
    """Return a context in which matrix products on `device` keep their type: autocast would round them to 16 bits."""
    kind = device.type
    # While it compiles, torch 2.11 cannot follow the first question; what it compiles for has autocast.
    has_autocast = torch.compiler.is_compiling() or torch.amp.is_autocast_available(kind)
    if has_autocast and torch.is_autocast_enabled(kind):
        return torch.autocast(kind, enabled=False)
    return nullcontext()


def expand_axis(x: torch.Tensor, axis: int, basis: torch.Tensor) -> torch.Tensor:
    """Rebuild one truncated axis: `x` has `num_kept` coefficients along `axis`, the result `size` values.

    Args:
        x: tensor with `basis.shape[0]` entries along `axis`.
        axis: the axis, non-negative.
        basis: (num_kept, size), as `dct_basis` gives it.
    """
    return _apply_matrix(x, axis, basis.T)


def project_axis(x: torch.Tensor, axis: int, basis: torch.Tensor) -> torch.Tensor:
    """Return the transpose of `expand_axis`: from `size` values along `axis` to `num_kept` coefficients."""
    return _apply_matrix(x, axis, basis)


def expand_axis_by_fft(x: torch.Tensor, axis: int, size: int) -> torch.Tensor:
    """As `expand_axis` with a full-length transform: the tail is padded with zeros, then `idct` by FFT."""
    return _from_rows(_idct_rows(_to_rows(x, axis), size), axis, x.shape)


def project_axis_by_fft(x: torch.Tensor, axis: int, num_kept: int) -> torch.Tensor:
    """As `project_axis` with a full-length transform, of which the first `num_kept` entries are taken."""
    return _from_rows(_dct_rows(_to_rows(x, axis), num_kept), axis, x.shape)


def _apply_matrix(x: torch.Tensor, axis: int, matrix: torch.Tensor) -> torch.Tensor:
    """Multiply axis `axis` of `x` by `matrix` (new size, old size)."""
    before, after = math.prod(x.shape[:axis]), math.prod(x.shape[axis + 1 :])
    shape = (*x.shape[:axis], matrix.shape[0], *x.shape[axis + 1 :])
    if after == 1:
        return (x.reshape(before, x.shape[axis]) @ matrix.T).reshape(shape)
    if before == 1:
        return (matrix @ x.reshape(x.shape[axis], after)).reshape(shape)
    batch = x.reshape(before, x.shape[axis], after)
    if after >= NARROW_COLUMNS or min(matrix.shape) < NARROW_SIZE:
        return torch.matmul(matrix, batch).reshape(shape)
    wide = matrix @ batch.transpose(0, 1).reshape(x.shape[axis], before * after)
    return wide.reshape(matrix.shape[0], before, after).transpose(0, 1).contiguous().reshape(shape)


def _along_axes(x: torch.Tensor, axes: Sequence[int] | None, *, inverse: bool) -> torch.Tensor:
    if not x.dtype.is_floating_point:
        raise ArgumentError(f"expected a floating-point tensor to transform, got {x.dtype}; use .float()")
    chosen = normalize_axes(axes, x.ndim)
    if x.numel() == 0:
        return x.clone()
    work = x.to(torch.float64 if x.dtype == torch.float64 else torch.float32)
    with without_autocast(x.device):
        for axis in chosen:
            size = work.shape[axis]
            if size >= FFT_MIN_SIZE:
                by_fft = expand_axis_by_fft if inverse else project_axis_by_fft
                work = by_fft(work, axis, size)
            elif size > 1:
                basis = dct_basis(size, dtype=work.dtype, device=work.device)
                work = _apply_matrix(work, axis, basis.T if inverse else basis)
    work = work.to(x.dtype)
    return work.clone() if work is x else work


def _rotation(size: int, x: torch.Tensor, *, inverse: bool = False) -> torch.Tensor:
    """exp(-i pi k / (2 size)) for k = 0 ... size // 2, times the orthonormal scale; or one over that."""
    # A CUDA graph cannot copy from the CPU; other devices may lack float64.
    device = x.device if x.is_cuda else torch.device("cpu")
    angle = torch.arange(size // 2 + 1, dtype=torch.float64, device=device) * (math.pi / (2 * size))
    scale = torch.full_like(angle, math.sqrt(2 / size))
    scale[0] = math.sqrt(1 / size)
    kind = torch.complex128 if x.dtype == torch.float64 else torch.complex64
    turned = torch.polar(scale.reciprocal_(), angle) if inverse else torch.polar(scale, angle.neg_())
    return turned.to(kind).to(x.device)


def _folded(rows: torch.Tensor) -> torch.Tensor:
    """Return each row's even places, then the odd ones backwards: 0, 2, 4, ..., 5, 3, 1."""
    return torch.cat([rows[:, ::2], rows[:, 1::2].flip(-1)], dim=-1)


def _unfolded(rows: torch.Tensor) -> torch.Tensor:
    """Return rows of which `_folded` made these."""
    half, rest = rows.shape[-1] // 2, rows.shape[-1] % 2  # divmod is not traced by torch.jit
    pairs = torch.stack([rows[:, :half], rows[:, half + rest :].flip(-1)], dim=-1).flatten(1)
    return torch.cat([pairs, rows[:, half : half + 1]], dim=-1) if rest else pairs


def _to_rows(x: torch.Tensor, axis: int) -> torch.Tensor:
    """Return all fibres of `x` along `axis` as rows of a matrix, side by side in memory."""
    before, size, after = math.prod(x.shape[:axis]), x.shape[axis], math.prod(x.shape[axis + 1 :])
    if after == 1:
        return x.reshape(before, size)
    if before == 1:
        return x.reshape(size, after).t().contiguous()
    return x.reshape(before, size, after).transpose(1, 2).reshape(before * after, size)


def _from_rows(rows: torch.Tensor, axis: int, shape: Sequence[int]) -> torch.Tensor:
    """Return rows as a tensor of `shape`, with their length along `axis`: the inverse of `_to_rows`."""
    before, size, after = math.prod(shape[:axis]), rows.shape[-1], math.prod(shape[axis + 1 :])
    whole = (*shape[:axis], size, *shape[axis + 1 :])
    if after == 1:  # a transposed axis of size 1 would have strides by which convolutions take another layout
        return rows.reshape(whole)
    if before == 1:
        return rows.t().contiguous().reshape(whole)
    return rows.reshape(before, after, size).transpose(1, 2).contiguous().reshape(whole)


def _dct_rows(x: torch.Tensor, num_kept: int) -> torch.Tensor:
    """Return the first coefficients of each row's DCT-II, by one real FFT of its length (Makhoul 1980)."""
    size = x.shape[-1]
    rotation = _rotation(size, x)

    def transform(rows: torch.Tensor) -> torch.Tensor:
        spectrum = torch.fft.rfft(_folded(rows)) * rotation
        # Entry k gives coefficient k by its real part and coefficient size - k by its negative imaginary part.
        upper = -spectrum.imag[:, 1 : (size + 1) // 2].flip(-1)
        return torch.cat([spectrum.real, upper], dim=-1)[:, :num_kept]

    return _in_blocks(transform, x, size)


def _idct_rows(x: torch.Tensor, size: int) -> torch.Tensor:
    """Return the DCT-III to length `size` of each row, which may lack its tail: the steps of `_dct_rows` backwards."""
    tail, half = size - x.shape[-1], size // 2 + 1
    rotation = _rotation(size, x, inverse=True)

    def transform(rows: torch.Tensor) -> torch.Tensor:
        whole = torch.nn.functional.pad(rows, (0, tail)) if tail else rows
        mirrored = torch.nn.functional.pad(whole[:, size - half + 1 :].flip(-1), (1, 0))
        # In place and without names: of a long row from a file each copy counts.
        spectrum = torch.complex(whole[:, :half], mirrored.neg_()).mul_(rotation)
        return _unfolded(torch.fft.irfft(spectrum, n=size))

    return _in_blocks(transform, x, size)


def _in_blocks(transform: Callable[[torch.Tensor], torch.Tensor], rows: torch.Tensor, size: int) -> torch.Tensor:
    """Apply `transform` to a block of rows at a time. `size` is the length of the rows in between."""
    height = max(1, FFT_BLOCK // size)
    # A compiled graph would hold every block on its own.
    if len(rows) <= height or rows.device.type != "cpu" or torch.compiler.is_compiling():
        return transform(rows)
    return torch.cat([transform(block) for block in rows.split(height)])
