"""Expansion of a low-frequency corner to the whole tensor and its transpose, at the cost of the corner.

A truncated tensor is its first n coefficients in order. They lie in a small box at the origin, the
corner; each axis of the corner is expanded by a truncated basis, so the dense coefficient tensor is never
built. Which way each axis takes is decided by sizes, and by whether products are to be preferred.
"""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from tailcut.transform.dct import (
    FFT_MIN_SIZE,
    NARROW_COLUMNS,
    dct_basis,
    expand_axis,
    expand_axis_by_fft,
    project_axis,
    project_axis_by_fft,
)

# Neighbouring axes whose sizes multiply to at most this many are transformed by one (Kronecker) matrix:
# a 3 x 3 kernel is one product with a 9 x 9 matrix instead of two with strided 3 x 3 ones.
# Up to about 100 one matrix is the faster way (bench/sweeps.py).
MAX_JOINED_SIZE = 64
# A number that an FFT writes costs as much as this many multiply-adds of a matrix product, per power of two
# in its length (float32 on CPU cores with AVX-512; bench/sweeps.py). Along the last axis it is a little less,
# along the others, which are copied, a little more.
FFT_COST = 20
# A basis of more numbers than this, and than the tensor itself has, is never made: along a long axis it would take many
# times the memory of the tensor. An FFT needs none.
MAX_BASIS_SIZE = 1 << 16
# The same where products are preferred: 64 MiB, once for all tensors of that side.
MAX_PREFERRED_SIZE = 1 << 24
# Writing a number, and copying it to where a product or an FFT can take it, in the same unit.
WRITE_COST = 10
COPY_COST = 40


@dataclass(frozen=True)
class Stage:
    """One step of the expansion: axes `first` to `last` - 1 of the corner become their full sizes.

    Attributes:
        first: the first axis.
        last: one behind the last axis.
        kept: corner sizes of these axes.
        sizes: full sizes of these axes.
        by_fft: by a full-length FFT (one axis only) instead of a matrix.
    """

    first: int
    last: int
    kept: tuple[int, ...]
    sizes: tuple[int, ...]
    by_fft: bool

    def basis(self, dtype: torch.dtype) -> torch.Tensor:
        """Return the matrix of this stage on the CPU, (product of kept, product of sizes)."""
        if len(self.sizes) == 1:
            return dct_basis(self.sizes[0], self.kept[0], dtype=dtype)
        matrix = torch.ones(1, 1, dtype=torch.float64, device="cpu")
        for kept, size in zip(self.kept, self.sizes, strict=True):
            matrix = torch.kron(matrix, dct_basis(size, kept, dtype=torch.float64))
        return matrix.to(dtype)

    def expand(self, x: torch.Tensor, basis: torch.Tensor | None) -> torch.Tensor:
        """Take the step: `x` has the corner's sizes along the axes of the stage, the result the full ones."""
        if basis is None:
            return expand_axis_by_fft(x, self.first, self.sizes[0])
        joined = expand_axis(self._joined(x), self.first, basis)
        return joined.reshape(*joined.shape[: self.first], *self.sizes, *joined.shape[self.first + 1 :])

    def _joined(self, x: torch.Tensor) -> torch.Tensor:
        # Not `flatten`, which batched gradients (is_grads_batched) do not know.
        return x.reshape(*x.shape[: self.first], -1, *x.shape[self.last :])

    def project(self, x: torch.Tensor, basis: torch.Tensor | None) -> torch.Tensor:
        """Return the transpose of `expand`."""
        if basis is None:
            return project_axis_by_fft(x, self.first, self.kept[0])
        joined = project_axis(self._joined(x), self.first, basis)
        return joined.reshape(*joined.shape[: self.first], *self.kept, *joined.shape[self.first + 1 :])


def plan_stages(
    corner: Sequence[int], shape: Sequence[int], axes: Sequence[int], *, prefer_matrices: bool = False
) -> tuple[Stage, ...]:
    """Return the steps from a corner to the full tensor, in the order that costs least.

    Args:
        corner: sizes of the corner, one per axis of the tensor (full along axes not transformed).
        shape: full sizes.
        axes: the transformed axes, sorted.
        prefer_matrices: take an FFT only where a basis would be too large. For GPUs: there a product is one call, and
            an FFT with what goes around it some twenty small ones, whose launches take longer than they do.

    Returns:
        The stages in the order to expand; to project, walk them backwards.
    """
    groups: list[list[int]] = []
    for axis in axes:
        if shape[axis] == 1:
            continue
        joins = groups and groups[-1][-1] == axis - 1
        if joins and math.prod(shape[member] for member in groups[-1]) * shape[axis] <= MAX_JOINED_SIZE:
            groups[-1].append(axis)
        else:
            groups.append([axis])
    stages = [_stage(group, corner, shape, prefer_matrices) for group in groups]
    if len(stages) > 5:
        return tuple(sorted(stages, key=lambda stage: math.prod(stage.sizes) / math.prod(stage.kept)))
    return min(itertools.permutations(stages), key=lambda order: _cost(order, corner))


def _stage(group: list[int], corner: Sequence[int], shape: Sequence[int], prefer_matrices: bool) -> Stage:
    kept = tuple(corner[axis] for axis in group)
    sizes = tuple(shape[axis] for axis in group)
    alone = len(group) == 1 and sizes[0] >= FFT_MIN_SIZE
    is_cheaper = not prefer_matrices and kept[0] > FFT_COST * math.log2(sizes[0])
    largest = max(MAX_PREFERRED_SIZE if prefer_matrices else MAX_BASIS_SIZE, math.prod(shape))
    by_fft = alone and (is_cheaper or kept[0] * sizes[0] > largest)
    return Stage(group[0], group[-1] + 1, kept, sizes, by_fft)


def _cost(order: Sequence[Stage], corner: Sequence[int]) -> float:
    """Time of expanding in this order, in multiply-adds of a matrix product."""
    sizes = list(corner)
    total = 0.0
    for stage in order:
        before, after = math.prod(sizes[: stage.first]), math.prod(sizes[stage.last :])
        num_read = math.prod(sizes)
        sizes[stage.first : stage.last] = stage.sizes
        num_written = math.prod(sizes)
        size = math.prod(stage.sizes)
        work = FFT_COST * math.log2(size) if stage.by_fft else math.prod(stage.kept)
        total += num_written * (work + WRITE_COST)
        is_copied = after > 1 if stage.by_fft else before > 1 and 1 < after < NARROW_COLUMNS
        total += COPY_COST * (num_read + num_written) if is_copied else 0
    return total
