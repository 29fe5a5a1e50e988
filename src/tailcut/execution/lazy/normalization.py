"""Normalisation of lazy maps: statistics of the full map follow from mean and covariance of the low-rank one.

For y = A z + b over some positions: mean(y) = A mean(z) + b, var(y) = diag(A cov(z) A^T). Low-rank values are centred
before they are multiplied: E[x^2] - E[x]^2 would lose half the digits.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from tailcut.execution.cpu.tiles import once_differentiable
from tailcut.execution.ir.expression import Affine, Expression, is_pointwise
from tailcut.execution.lazy.lazy_map import LazyMap, handles, shape_of
from tailcut.execution.lazy.operations import scale_parts
from tailcut.transform.exact import has_float64

# Numbers at a time, which stay in the second-level cache; chunks are merged in float64.
CHUNK_NUMBERS = 1 << 18
DEVICE_CHUNK_NUMBERS = 1 << 24
MIN_CHUNK = 1 << 10  # positions


# Functions of torch itself have other arguments than those of the same name that modules call.
@handles(functional.batch_norm)
def batch_norm(
    input: Any,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Any:
    """Fold batch norm into the parts. Statistics of the batch need affine parts; else the map is written."""
    if not isinstance(input, LazyMap) or input.channel_axis != 1 or not all(map(is_pointwise, input.parts)):
        return NotImplemented
    if not training:
        if running_mean is None or running_var is None:
            return NotImplemented
        mean, var = running_mean, running_var
    else:
        affine = [part for part in input.parts if isinstance(part, Affine)]
        if len(affine) < len(input.parts):
            return NotImplemented
        count = shape_of(input).numel() // shape_of(input)[1]
        if count <= 1:
            return NotImplemented
        moments = [_batch_moments(part) for part in affine]
        mean = torch.cat([entry[0] for entry in moments])
        var = torch.cat([entry[1] for entry in moments])
        if running_mean is not None and running_var is not None:
            unbiased = var.detach() * (count / (count - 1))
            _update_running(running_mean, running_var, mean.detach(), unbiased, momentum)
    scale = torch.rsqrt(var + eps)
    if weight is not None:
        scale = scale * weight
    shift = -mean * scale if bias is None else bias - mean * scale
    return input.like(scale_parts(input.parts, scale.to(input.dtype), shift.to(input.dtype)))


def _update_running(running_mean: Tensor, running_var: Tensor, mean: Tensor, var: Tensor, momentum: float) -> None:
    # At once, since the forward may read them, and without counting as a write, as torch's own update.
    running_mean.data.mul_(1 - momentum).add_(mean.to(running_mean.dtype), alpha=momentum)
    running_var.data.mul_(1 - momentum).add_(var.to(running_var.dtype), alpha=momentum)


def _batch_moments(part: Affine) -> tuple[Tensor, Tensor]:
    """Return mean and biased variance of each channel, (channels,)."""
    mean, covariance = source_moments(part.source.flatten(1))
    matrix = part.matrix.to(mean.dtype)
    full_mean = matrix @ mean
    if part.shift is not None:
        full_mean = full_mean + part.shift
    return full_mean, variance(matrix, covariance)


def variance(matrix: Tensor, covariance: Tensor) -> Tensor:
    """Compute diag(matrix @ covariance @ matrix.T), never below zero."""
    return ((matrix @ covariance) * matrix).sum(-1).clamp_min(0)


def source_moments(source: Tensor) -> tuple[Tensor, Tensor]:
    """Compute mean (k,) and biased covariance (k, k) over the positions of (k, positions).

    In the source's type, of half types in float32, where sums of squares do not overflow.
    """
    mean, covariance = _Moments.apply(source)  # type: ignore[no-untyped-call]
    return mean, covariance


class _Moments(torch.autograd.Function):
    """Mean and covariance, with a backward pass in one product: a covariance does not change with the mean."""

    @staticmethod
    def forward(ctx: Any, source: Tensor) -> tuple[Tensor, Tensor]:
        mean, covariance = _chunked_moments(source)
        wide = _wide_type(source)
        mean, covariance = mean.to(wide), covariance.to(wide)
        ctx.save_for_backward(source, mean)
        return mean, covariance

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, of_mean: Tensor, of_covariance: Tensor) -> Tensor:
        source, mean = ctx.saved_tensors
        positions = source.shape[1]
        matrix = (of_covariance + of_covariance.T) / positions
        shift = (of_mean / positions)[:, None]
        result = torch.empty_like(source)
        for chunk in _chunks(source):
            result[:, chunk] = torch.addmm(shift, matrix, source[:, chunk] - mean[:, None])
        return result


def _wide_type(source: Tensor) -> torch.dtype:
    """Return the type that sums of squares are computed in, as torch does in its norms."""
    return torch.promote_types(source.dtype, torch.float32)


def _chunks(source: Tensor) -> Iterator[slice]:
    """Yield ranges of positions of (k, positions)."""
    numbers = CHUNK_NUMBERS if source.device.type == "cpu" else DEVICE_CHUNK_NUMBERS
    length = max(MIN_CHUNK, numbers // source.shape[0])
    for start in range(0, source.shape[1], length):
        yield slice(start, min(start + length, source.shape[1]))


def _chunked_moments(source: Tensor) -> tuple[Tensor, Tensor]:
    """Compute mean and covariance in float64; each chunk is centred on its own mean (Chan, Golub, LeVeque, 1979)."""
    k, positions = source.shape
    exact = torch.float64 if has_float64(source.device) else torch.float32
    mean = torch.zeros(k, dtype=exact, device=source.device)
    scatter = torch.zeros(k, k, dtype=exact, device=source.device)
    for places in _chunks(source):
        start, chunk = places.start, source[:, places].to(_wide_type(source))
        middle = chunk.mean(1)
        centred = chunk - middle[:, None]
        apart, own = middle.to(exact) - mean, chunk.shape[1]
        scatter += centred @ centred.T
        scatter += torch.outer(apart, apart) * (start * own / (start + own))
        mean += apart * (own / (start + own))
    return mean, scatter / positions


@handles(functional.layer_norm, torch.layer_norm)
def layer_norm(
    input: Any,
    normalized_shape: Sequence[int],
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
) -> Any:
    """Normalise over the channels at each position: (A z + b - mean) r is affine in (z r, r).

    Positions are not mixed, so that one of them, however large, takes nothing from the digits of the others.
    """
    last = input.ndim - 1
    fits = isinstance(input, LazyMap) and input.channel_axis == last and len(normalized_shape) == 1
    part = input.parts[0] if fits and len(input.parts) == 1 else None
    if not isinstance(part, Affine) or part.matrix.shape[1] + 1 >= part.channels:
        return NotImplemented
    source, extended = _with_one(part)
    extended = extended - extended.mean(0)
    flat = source.flatten(1)
    wide = _wide_type(flat)
    inverse = torch.rsqrt(_squares(extended.to(wide), flat.to(wide)) / part.channels + eps)
    scaled = (flat * inverse).to(flat.dtype)
    if weight is not None:
        extended = (extended * weight[:, None]).to(flat.dtype)
    shift = None if bias is None else bias.to(flat.dtype)
    return input.like([Affine(part.channels, scaled.reshape(source.shape), extended, shift)])


def _squares(matrix: Tensor, source: Tensor) -> Tensor:
    """Compute |matrix @ z|^2 for each column z of `source` (k, positions): (positions,), without the full product.

    With the triangle R of the matrix's QR decomposition it is |R z|^2, which loses no more digits than the full
    product where terms cancel; the quadratic form z^T (matrix^T matrix) z loses twice as many, but not its gradient,
    and it can be differentiated where columns depend on each other.
    """
    triangle = torch.linalg.qr(matrix.detach(), mode="r").R
    squares: Tensor = (triangle @ source.detach()).square().sum(0)
    if not torch.is_grad_enabled() or not (matrix.requires_grad or source.requires_grad):
        return squares
    form: Tensor = ((matrix.T @ matrix @ source) * source).sum(0)
    return form + (squares - form).detach()


def _with_one(part: Affine) -> tuple[Tensor, Tensor]:
    """Return source and matrix with the shift as the matrix's last column, over a source that is constant one."""
    if part.shift is None:
        return part.source, part.matrix
    one = part.source.new_ones(1, *part.source.shape[1:])
    return torch.cat([part.source, one]), torch.cat([part.matrix, part.shift[:, None]], dim=1)


@handles(functional.group_norm, torch.group_norm)
def group_norm(
    input: Any, num_groups: int, weight: Tensor | None = None, bias: Tensor | None = None, eps: float = 1e-5
) -> Any:
    """Normalise per image and group: each group becomes a part of its own, over sources scaled per image."""
    part = input.parts[0] if isinstance(input, LazyMap) and len(input.parts) == 1 else None
    if not isinstance(part, Affine) or input.channel_axis != 1 or input.ndim < 3:
        return NotImplemented
    if 2 * num_groups * (part.matrix.shape[1] + 2) > part.channels or part.channels % num_groups:
        return NotImplemented
    source, extended = _with_one(part)
    wide = _wide_type(source)
    flat = source.flatten(2).to(wide)  # (k, batch, positions)
    mean = flat.mean(2)  # (k, batch)
    centred = flat - mean[:, :, None]
    covariance = torch.einsum("ibp,jbp->bij", centred, centred) / flat.shape[2]
    parts: list[Expression] = []
    size = part.channels // num_groups
    for start in range(0, part.channels, size):
        own = extended[start : start + size]
        parts.append(_one_group(source, own.to(wide), mean, centred, covariance, eps))
    result = input.like(parts)
    if weight is None and bias is None:
        return result
    scale = extended.new_ones(part.channels) if weight is None else weight.to(extended.dtype)
    shift = extended.new_zeros(part.channels) if bias is None else bias.to(extended.dtype)
    return input.like(scale_parts(parts, scale, shift))


def _one_group(source: Tensor, matrix: Tensor, mean: Tensor, centred: Tensor, covariance: Tensor, eps: float) -> Affine:
    """Compute (A z - mean) r, with the mean over channels and positions, and r = 1 / deviation, of each image.

    With the matrix's mean row a and B = A - 1 a, it is (B z + 1 a (z - mean z)) r: affine in (z r, a (z - mean z) r),
    and nothing large is subtracted at the end.
    """
    row = matrix.mean(0)
    apart = matrix - row
    within = ((matrix @ covariance) * matrix).sum(-1).mean(-1)  # (batch,)
    variances = within + (apart @ mean).square().mean(0)
    inverse = torch.rsqrt(variances.clamp_min(0) + eps)
    shape = (1, -1, *([1] * (source.ndim - 2)))
    common = torch.einsum("i,ibp->bp", row, centred).reshape(1, *source.shape[1:])
    scaled = torch.cat([source.to(common.dtype), common]) * inverse.reshape(shape)
    spread = torch.cat([apart, torch.ones_like(apart[:, :1])], dim=1)
    return Affine(matrix.shape[0], scaled.to(source.dtype), spread.to(source.dtype), None)


@handles(functional.instance_norm)
def instance_norm(input: Any, *args: Any, **kwargs: Any) -> Any:
    """Run one group per channel as batch norm for one image; for more it gains nothing from low-rank sources."""
    names = ("running_mean", "running_var", "weight", "bias", "use_input_stats", "momentum", "eps")
    given = dict(zip(names, args, strict=False)) | kwargs
    if not given.get("use_input_stats", True) or shape_of(input)[0] != 1 or given.get("running_mean") is not None:
        return NotImplemented
    return batch_norm(input, None, None, given.get("weight"), given.get("bias"), True, 0.0, given.get("eps", 1e-5))
