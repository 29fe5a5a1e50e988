"""The bits that rounded numbers take, as a function that has gradients: a discretised Laplace distribution."""

import math

import torch
from torch import Tensor


def laplace_bits(values: Tensor, means: Tensor) -> Tensor:
    """Return the bits of each number where numbers are expected to have these mean magnitudes. Differentiable.

    -log2 of the probability that a Laplace distribution gives to the interval of width 1 around the value. For whole
    numbers these are the probabilities of a code; between them it goes on smoothly, as Ballé et al., "End-to-end
    optimized image compression" (2017), have it for numbers with uniform noise in place of rounding.

    Args:
        values: in steps, any shape.
        means: expected magnitudes of the rounded numbers, above 0; the same shape.

    Returns:
        The same shape.
    """
    root = (torch.sqrt(1 + 4 * means.square()) - 1) / (2 * means)  # exp(-1 / (2 b)) of the distribution of that mean
    decay = -2 * torch.log(root)  # 1 / b
    size = values.abs()
    outside = decay * size - torch.log(torch.sinh(decay / 2))
    inside = -torch.log(1 - root * torch.cosh(decay * size.clamp(max=0.5)))
    return torch.where(size < 0.5, inside, outside) / math.log(2)
