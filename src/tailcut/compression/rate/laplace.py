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
    """Return the bits of numbers, and their derivative by these.

    With h = 1 / (2 b) of the distribution of that mean, asinh(1 / (2 mean)), and a value's size s up to 1/2, the
    interval has 1 - exp(-h) cosh(2 h s) of the probability, written with expm1 to keep its digits where h is small;
    from there on it falls by exp(-2 h) for each step.
    """
    half = 0.5 / means
    square = half.square()
    half.add_(square.div_((square + 1).sqrt_().add_(1))).log1p_()  # asinh, which has no vectorised loop
    beyond = values.abs()
    inner = beyond.clamp(max=0.5)
    beyond.sub_(inner)
    turn = inner.mul_(half).mul_(2)
    near = (turn - half).expm1_()
    far = turn.add_(half).neg_().expm1_()
    both = near + far
    bits = (both * -0.5).log_().neg_().addcmul_(beyond, half, value=2)
    slope = far.sub_(near).div_(both).mul_(half).mul_(values.sign())
    return bits.mul_(1 / math.log(2)), slope.mul_(2 / math.log(2))
