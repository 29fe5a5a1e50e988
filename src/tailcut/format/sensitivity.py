"""Sensitivity of a network to rounding errors in each of its tensors, an argument of `save`."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor


@dataclass(frozen=True)
class Block:
    """Numbers that are rounded one after another, each taking over what the rounding of those before it spoiled.

    Attributes:
        names: of the tensors, one after another; or of one weight, whose rows (all that an output channel has) are
            rounded side by side.
        upper: (n, n), the upper Cholesky factor of the inverse of their curvature; n is their numbers, or those of a
            row. For a row with a kernel, of its DCT along the kernel.
    """

    names: tuple[str, ...]
    upper: Tensor


def block_of(names: tuple[str, ...], curvature: Tensor) -> Block:
    """Return the block of a curvature.

    Args:
        names: of the tensors.
        curvature: (n, n), float64, symmetric with positive eigenvalues.
    """
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(curvature))
    return Block(names, torch.linalg.cholesky(inverse, upper=True).float().cpu())


@dataclass(frozen=True)
class Sensitivity:
    """Sensitivity of a network's loss to its numbers, which determines the steps of a quantised file.

    Attributes:
        curvature: name of a tensor -> the mean over its numbers of the second derivative of the loss, in any unit that
            all share. Coefficients under the plain name of their tensor.
        log_curvature: the same for base-2 logarithms of the numbers, of running variances.
        blocks: of coefficients that are rounded with error feedback; none are without.
        transforms: name of a plain tensor -> the transform whose numbers are rounded (see `format.quantized.values`);
            of those without an entry the cheapest is taken.
    """

    curvature: Mapping[str, float]
    log_curvature: Mapping[str, float]
    blocks: tuple[Block, ...] = ()
    transforms: Mapping[str, int] = field(default_factory=dict)
