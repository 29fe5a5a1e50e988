"""Sensitivity of a network to rounding errors in each of its tensors, an argument of `save`."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor

from tailcut.errors import ArgumentError


@dataclass(frozen=True)
class Block:
    """Numbers that are rounded one after another, each taking over what the rounding of those before it spoiled.

    Attributes:
        names: of the tensors, one after another; or of one weight, whose rows (all that an output channel has) are
            rounded side by side.
        upper: (n, n), the upper Cholesky factor of the inverse of their curvature; n is their numbers, or those of a
            row. For a row with a kernel, of its DCT along the kernel. Of a convolution in groups (groups, n, n): the
            outputs of each group, which lie one after another, have inputs of their own.
        curvature: (n,), float64, its diagonal: what the error of each number costs by itself; (groups, n) likewise.
        is_turned: whether the weight is (inputs, outputs, kernel ...): what an output channel has lies along axis 0, at
            each place of the kernel by itself.
    """

    names: tuple[str, ...]
    upper: Tensor
    curvature: Tensor
    is_turned: bool = False

    @cached_property
    def conditional(self) -> Tensor:
        """What the error of each number costs when those behind it make it good, (n,), float64: 1 / U_ii^2.

        Of several groups it is the mean: they share their steps.
        """
        costs = self.upper.double().diagonal(dim1=-2, dim2=-1) ** -2
        return costs if costs.ndim == 1 else costs.mean(0)

    @property
    def length(self) -> int:
        """How many numbers are rounded one after another: n."""
        return self.upper.shape[-1]

    def groups(self, values: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Return what the outputs of each group have at each place of a row, with the group's factor.

        Args:
            values: (n, outputs).
        """
        factors = self.upper.reshape(-1, self.length, self.length)
        return list(zip(values.chunk(len(factors), dim=1), factors, strict=True))


def block_of(names: tuple[str, ...], curvature: Tensor, *, is_turned: bool = False) -> Block:
    """Return the block of a curvature.

    Args:
        names: of the tensors.
        curvature: (n, n), or (groups, n, n), float64, symmetric with positive eigenvalues.
        is_turned: see `Block`.

    Raises:
        ArgumentError: its numbers are not finite, or too far apart to be factored.
    """
    try:
        inverse = torch.cholesky_inverse(torch.linalg.cholesky(curvature))
        upper = torch.linalg.cholesky(inverse, upper=True)
    except torch.linalg.LinAlgError as error:  # type: ignore[attr-defined]
        raise ArgumentError(
            f"what an error of {names[0]} costs cannot be measured: the inputs of its layer, or their gradients, are "
            "too large or too far apart for float32; normalise the inputs, and look for weights of extreme size"
        ) from error
    diagonal = curvature.diagonal(dim1=-2, dim2=-1)
    return Block(names, upper.float().cpu(), diagonal.cpu().clone(), is_turned)


@dataclass(frozen=True)
class Sensitivity:
    """Sensitivity of a network's loss to its numbers, which determines the steps of a quantised file.

    Attributes:
        curvature: name of a tensor -> the mean over its numbers of the second derivative of the loss, in any unit that
            all share. Coefficients under the plain name of their tensor.
        log_curvature: the same for base-2 logarithms of the numbers, of running variances.
        blocks: of numbers that are rounded with error feedback; none are without. The steps of a plain weight with a
            block may differ along its axes, and those of coefficients with a block follow what their errors cost when
            others make them good.
        rows: name of a plain matrix -> the curvature of each of its rows, float64 (rows,): a row of an embedding that
            is read seldom, or an output that changes little, may be rounded coarsely.
        transforms: name of a plain tensor -> the transform whose numbers are rounded (see `format.quantized.values`);
            of those without an entry the cheapest is taken. Tensors with one, also of coefficients, have just the step
            of their curvature.
    """

    curvature: Mapping[str, float]
    log_curvature: Mapping[str, float]
    blocks: tuple[Block, ...] = ()
    rows: Mapping[str, Tensor] = field(default_factory=dict)
    transforms: Mapping[str, int] = field(default_factory=dict)
