"""Orthonormal DCT-II and DCT-III along any axes, and truncated bases (a corner gives the whole tensor).

Every function is differentiable and keeps the type of its input; float16 and bfloat16 are computed in
float32. `dct` is SciPy's `dctn(norm="ortho")`, `idct` its `idctn(norm="ortho")`.
"""

import math
from collections.abc import Callable, Sequence
from functools import lru_cache

import numpy as np
import torch

from tailcut.errors import ArgumentError
from tailcut.transform.order import normalize_axes

# From this axis length on a full transform by FFT beats one matrix product (two CPU cores, float32).
FFT_MIN_SIZE = 256


def dct_basis(
    size: int,
    num_kept: int | None = None,
    *,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str | None = None,
) -> torch.Tensor:
    """The first `num_kept` orthonormal cosines of length `size`, computed in float64.

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
    basis = torch.from_numpy(_basis(size, num_kept))
    return basis.to(device=device, dtype=dtype, copy=True)


@lru_cache(maxsize=64)
def _basis(size: int, num_kept: int) -> np.ndarray:
    # (2 y + 1) x is reduced modulo the period 4 size as an integer: no argument of the cosine is ever large.
    phase = np.outer(np.arange(num_kept), 2 * np.arange(size) + 1) % (4 * size)
    basis: np.ndarray = np.cos(phase * (math.pi / (2 * size))) * math.sqrt(2 / size)
    basis[0] = math.sqrt(1 / size)
    return basis


def dct(x: torch.Tensor, axes: Sequence[int] | None = None) -> torch.Tensor:
    """Orthonormal DCT-II of `x` along `axes` (all when None). Same shape and type as `x`.

    Raises:
        ArgumentError: `x` is not floating point, or an axis is out of range.
    """
    return _along_axes(x, axes, _dct_last_by_fft, inverse=False)


def idct(x: torch.Tensor, axes: Sequence[int] | None = None) -> torch.Tensor:
    """Orthonormal DCT-III of `x` along `axes` (all when None), the inverse of `dct`. Same shape and type.

    Raises:
        ArgumentError: `x` is not floating point, or an axis is out of range.
    """
    return _along_axes(x, axes, _idct_last_by_fft, inverse=True)


def expand_axis(x: torch.Tensor, axis: int, basis: torch.Tensor) -> torch.Tensor:
    """Rebuild one truncated axis: `x` has `num_kept` coefficients along `axis`, the result `size` values.

    Args:
        x: tensor with `basis.shape[0]` entries along `axis`.
        axis: the axis, non-negative.
        basis: (num_kept, size), as `dct_basis` gives it.
    """
    return _apply_matrix(x, axis, basis.T)


def project_axis(x: torch.Tensor, axis: int, basis: torch.Tensor) -> torch.Tensor:
    """The transpose of `expand_axis`: from `size` values along `axis` to `num_kept` coefficients."""
    return _apply_matrix(x, axis, basis)


def expand_axis_by_fft(x: torch.Tensor, axis: int, size: int) -> torch.Tensor:
    """As `expand_axis` with a full-length transform: the tail is padded with zeros, then `idct` by FFT."""
    moved = x.movedim(axis, -1)
    padded = torch.nn.functional.pad(moved, (0, size - moved.shape[-1]))
    return _idct_last_by_fft(padded).movedim(-1, axis)


def project_axis_by_fft(x: torch.Tensor, axis: int, num_kept: int) -> torch.Tensor:
    """As `project_axis` with a full-length transform, of which the first `num_kept` entries are taken."""
    return _dct_last_by_fft(x.movedim(axis, -1))[..., :num_kept].movedim(-1, axis)


def _apply_matrix(x: torch.Tensor, axis: int, matrix: torch.Tensor) -> torch.Tensor:
    """Multiply axis `axis` of `x` by `matrix` (new size, old size)."""
    before, after = math.prod(x.shape[:axis]), math.prod(x.shape[axis + 1 :])
    shape = (*x.shape[:axis], matrix.shape[0], *x.shape[axis + 1 :])
    if after == 1:
        return (x.reshape(before, x.shape[axis]) @ matrix.T).reshape(shape)
    if before == 1:
        return (matrix @ x.reshape(x.shape[axis], after)).reshape(shape)
    return torch.matmul(matrix, x.reshape(before, x.shape[axis], after)).reshape(shape)


def _along_axes(
    x: torch.Tensor,
    axes: Sequence[int] | None,
    by_fft: Callable[[torch.Tensor], torch.Tensor],
    *,
    inverse: bool,
) -> torch.Tensor:
    if not x.dtype.is_floating_point:
        raise ArgumentError(f"expected a floating-point tensor to transform, got {x.dtype}; use .float()")
    chosen = normalize_axes(axes, x.ndim)
    if x.numel() == 0:
        return x.clone()
    work = x.to(torch.float64 if x.dtype == torch.float64 else torch.float32)
    for axis in chosen:
        size = work.shape[axis]
        if size >= FFT_MIN_SIZE:
            work = by_fft(work.movedim(axis, -1)).movedim(-1, axis)
        elif size > 1:
            basis = dct_basis(size, dtype=work.dtype, device=work.device)
            work = _apply_matrix(work, axis, basis.T if inverse else basis)
    work = work.to(x.dtype)
    return work.clone() if work is x else work


def _rotation(size: int, x: torch.Tensor) -> torch.Tensor:
    """exp(-i pi k / (2 size)) for k = 0 ... size // 2, times the orthonormal scale."""
    angle = torch.arange(size // 2 + 1, dtype=torch.float64) * (math.pi / (2 * size))
    scale = torch.full_like(angle, math.sqrt(2 / size))
    scale[0] = math.sqrt(1 / size)
    kind = torch.complex128 if x.dtype == torch.float64 else torch.complex64
    return torch.polar(scale, -angle).to(device=x.device, dtype=kind)


def _dct_last_by_fft(x: torch.Tensor) -> torch.Tensor:
    """DCT-II along the last axis through one real FFT of the same length (Makhoul 1980)."""
    size = x.shape[-1]
    folded = torch.cat([x[..., ::2], x[..., 1::2].flip(-1)], dim=-1)
    spectrum = torch.fft.rfft(folded) * _rotation(size, x)
    # Entry k gives coefficient k by its real part and coefficient size - k by its negative imaginary part.
    upper = -spectrum.imag[..., 1 : (size + 1) // 2].flip(-1)
    return torch.cat([spectrum.real, upper], dim=-1)


def _idct_last_by_fft(x: torch.Tensor) -> torch.Tensor:
    """DCT-III along the last axis: the steps of `_dct_last_by_fft` backwards."""
    size = x.shape[-1]
    real = x[..., : size // 2 + 1]
    mirrored = torch.nn.functional.pad(x.flip(-1), (1, 0))[..., : size // 2 + 1]
    rotation = _rotation(size, x)
    scale = rotation.abs()
    spectrum = torch.complex(real, -mirrored) * (rotation.conj() / (scale * scale))
    folded = torch.fft.irfft(spectrum, n=size)
    half = (size + 1) // 2
    even, odd = folded[..., :half], folded[..., half:].flip(-1)
    if size % 2:
        odd = torch.nn.functional.pad(odd, (0, 1))
    woven = torch.stack([even, odd], dim=-1).flatten(-2)
    return woven[..., :size]
