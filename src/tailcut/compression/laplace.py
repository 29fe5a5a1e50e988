"""The bits that rounded numbers take, as a function that has gradients: a discretised Laplace distribution."""

import math
from typing import Any

import torch
from torch import Tensor

CHUNK = 1 << 20
"""So many numbers at a time go through the formulas: what they become on the way stays in a processor's cache."""


def laplace_bits(values: Tensor, means: Tensor) -> Tensor:
    """Return the bits of each number where numbers are expected to have these mean magnitudes.

    -log2 of the probability that a Laplace distribution gives to the interval of width 1 around the value. For whole
    numbers these are the probabilities of a code; between them it goes on smoothly, as Ballé et al., "End-to-end
    optimized image compression" (2017), have it for numbers with uniform noise in place of rounding.

    Args:
        values: in steps, (numbers,). It has gradients by them.
        means: expected magnitudes of the rounded numbers, above 0; the same shape. It has none by these.

    Returns:
        The same shape.
    """
    bits: Tensor = _LaplaceBits.apply(values, means)  # type: ignore[no-untyped-call]
    return bits


class _LaplaceBits(torch.autograd.Function):
    """The bits, and their derivative by the values, which is all that a backward needs."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, means: Tensor) -> Tensor:
        length = CHUNK if values.device.type == "cpu" else max(1, len(values))
        pairs = zip(values.split(length), means.split(length), strict=True)
        parts = [_bits_and_slope(*pair) for pair in pairs]
        ctx.save_for_backward(torch.cat([slope for _, slope in parts]))
        return torch.cat([bits for bits, _ in parts])

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        (slope,) = ctx.saved_tensors
        return gradient * slope, None


def _bits_and_slope(values: Tensor, means: Tensor) -> tuple[Tensor, Tensor]:
    """Return the bits of numbers, and their derivative by these."""
    root = (torch.sqrt(1 + 4 * means.square()) - 1) / (2 * means)  # exp(-1 / (2 b)) of the distribution of that mean
    decay = -2 * torch.log(root)  # 1 / b
    size = values.abs()
    is_inside = size < 0.5  # the interval has 0 in it: 1 - root cosh(size / b), else exp(-size / b) sinh(1 / (2 b))
    grown = torch.exp(decay * size.clamp(max=0.5))
    rises, falls = root * grown / 2, root / grown / 2
    left = 1 - rises - falls
    part = torch.where(is_inside, left, (1 / root - root) / 2)
    bits = torch.where(is_inside, 0.0, decay * size) - torch.log(part)
    slope = decay * torch.where(is_inside, (rises - falls) / left, 1.0) * values.sign()
    return bits / math.log(2), slope / math.log(2)
