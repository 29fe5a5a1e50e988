"""Training in bfloat16 on CPUs with matrix units (AMX): convolutions and attention as matrix products that fill them.

oneDNN gives each row of a map to the matrix unit by itself, which is filled by 16 points: on a row of 4 points a
convolution of many channels takes four times as long as its multiplications, on a row of 2 eight times. Here all
windows of the batch are the rows of one matrix (im2col), which fills the unit whatever the map's size. The copies of
the windows cost more than that where maps are larger or weights smaller. Torch's attention for CPUs is made for long
sequences; over few tokens two products and a softmax take a fraction of its time. The limits below are measured, by
`python -m bench matrix_unit`.
"""

import logging
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional
from torch.overrides import TorchFunctionMode

logger = logging.getLogger(__name__)

MAX_PLACES = 16  # of the output map of a convolution
MIN_ELEMENTS = 1 << 19  # of its weight
MAX_TOKENS = 256  # of attention


def fast_products(device: torch.device, precision: str) -> AbstractContextManager[object]:
    """Return the context in which a training with this `training.precision` runs its steps fastest on this device."""
    pays_here = precision == "bf16" and device.type == "cpu" and has_amx_bf16()
    return OnMatrixUnit() if pays_here else nullcontext()


def has_amx_bf16() -> bool:
    """Return whether this CPU multiplies matrices of bfloat16 in a unit of its own (Intel AMX)."""
    # torch 2.11 may not tell; such a training runs as it would without the unit.
    capabilities = getattr(torch.cpu, "get_capabilities", dict[str, Any])()
    return bool(capabilities.get("amx_bf16", False))


def computes_bfloat16() -> bool:
    """Return whether oneDNN has kernels for bfloat16 on this CPU; without them torch emulates it, number by number."""
    # Where torch does not tell, as without oneDNN, nothing is known of its speed.
    tells = getattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", None)
    return tells is None or bool(tells())


def warn_of_emulation(device: torch.device, precision: str) -> None:
    """Say that a training with this `training.precision` would take far longer on this CPU than in float32."""
    if precision == "bf16" and device.type == "cpu" and not computes_bfloat16():
        logger.warning(
            "training.precision bf16: this processor has no instructions for bfloat16, a convolution takes some twenty "
            "times as long as in float32; --set training.precision=fp32 trains faster here"
        )


class OnMatrixUnit(TorchFunctionMode):
    """Context in which, under bfloat16 autocast on a CPU, small maps are convolved by matrix products.

    So does attention over few tokens run. Results are torch's to the rounding of bfloat16. Whatever else is called
    runs as ever.
    """

    def __torch_function__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run one function of torch."""
        kwargs = kwargs or {}
        if func is torch.conv2d and len(args) == 7 and not kwargs and _convolution_pays(*args):
            return _convolve(*args)
        if func is functional.scaled_dot_product_attention and len(args) == 3 and _attention_pays(*args, **kwargs):
            return _attend(*args, **kwargs)
        return func(*args, **kwargs)


def _is_rounded(*tensors: Tensor) -> bool:
    """Return whether autocast would have a function run on these tensors in bfloat16, on a CPU."""
    return (
        torch.is_autocast_enabled("cpu")
        and torch.get_autocast_dtype("cpu") == torch.bfloat16
        and all(tensor.device.type == "cpu" for tensor in tensors)
        and all(tensor.dtype in (torch.float32, torch.bfloat16) for tensor in tensors)
    )


def _attention_pays(
    queries: Tensor,
    keys: Tensor,
    values: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> bool:
    """Return whether attention is plain and short; arguments are those of `scaled_dot_product_attention`."""
    del scale  # any
    return (
        attn_mask is None
        and not (dropout_p or is_causal or enable_gqa)
        and _is_rounded(queries, keys, values)
        and queries.dim() == keys.dim() == values.dim() >= 3
        and queries.shape[-1] == keys.shape[-1]
        and queries.shape[:-2] == keys.shape[:-2] == values.shape[:-2]
        and keys.shape[-2] == values.shape[-2]
        and max(queries.shape[-2], keys.shape[-2]) <= MAX_TOKENS
    )


def _attend(queries: Tensor, keys: Tensor, values: Tensor, *, scale: float | None = None, **_: Any) -> Tensor:
    """Return softmax(scale * queries @ keys.T) @ values; autocast has the softmax run in float32."""
    scale = queries.shape[-1] ** -0.5 if scale is None else scale
    return ((queries * scale) @ keys.transpose(-2, -1)).softmax(-1) @ values


def _convolve(
    images: Tensor, weight: Tensor, bias: Tensor | None, stride: Any, padding: Any, dilation: Any, groups: int
) -> Tensor:
    """Return `torch.conv2d` of these arguments, which `_convolution_pays` took."""
    del dilation, groups  # they are 1
    dtype = torch.bfloat16
    apply: Callable[..., Tensor] = _Im2colConvolution.apply
    found = apply(images.to(dtype), weight.to(dtype), _pair(stride), _pair(padding))
    return found if bias is None else found + bias.to(dtype)[:, None, None]


def _convolution_pays(
    images: Tensor, weight: Tensor, bias: Tensor | None, stride: Any, padding: Any, dilation: Any, groups: int
) -> bool:
    """Return whether a convolution runs faster as a matrix product; arguments are those of `torch.conv2d`."""
    if (
        not _is_rounded(images, weight)
        or weight.numel() < MIN_ELEMENTS
        or images.dim() != 4
        or images.shape[1] != weight.shape[1]
        or groups != 1
        or _pair(dilation) != (1, 1)
        or isinstance(padding, str)
        or weight.shape[2:].numel() == 1
    ):
        return False
    height, width = _output_size(images.shape[2:], weight.shape[2:], _pair(stride), _pair(padding))
    return min(height, width) > 0 and height * width <= MAX_PLACES


def _pair(value: int | Sequence[int]) -> tuple[int, int]:
    """Return an argument of torch for both directions as one for each."""
    down, right = (value, value) if isinstance(value, int) else (value[0], value[-1])
    return down, right


def _output_size(
    size: Sequence[int], kernel: Sequence[int], stride: Sequence[int], padding: Sequence[int]
) -> tuple[int, int]:
    height, width = ((n + 2 * p - k) // s + 1 for n, k, s, p in zip(size, kernel, stride, padding, strict=True))
    return height, width


class _Im2colConvolution(torch.autograd.Function):
    """conv2d(images, weight, stride, padding) as one matrix product, in channels-last memory."""

    @staticmethod
    def forward(ctx: Any, images: Tensor, weight: Tensor, stride: Sequence[int], padding: Sequence[int]) -> Tensor:
        (num_out, num_in, *kernel), batch = weight.shape, images.shape[0]
        height, width = _output_size(images.shape[2:], kernel, stride, padding)
        padded = functional.pad(
            images.permute(0, 2, 3, 1), (0, 0, padding[1], padding[1], padding[0], padding[0])
        ).contiguous()
        along_batch, along_height, along_width, along_channels = padded.stride()
        windows = padded.as_strided(
            (batch, height, width, *kernel, num_in),
            (
                along_batch,
                along_height * stride[0],
                along_width * stride[1],
                along_height,
                along_width,
                along_channels,
            ),
        ).reshape(batch * height * width, -1)
        matrix = weight.permute(0, 2, 3, 1).reshape(num_out, -1)
        ctx.save_for_backward(windows, matrix)
        ctx.images, ctx.weight, ctx.size = images.shape, weight.shape, (height, width)
        ctx.stride, ctx.padding = stride, padding
        return (windows @ matrix.t()).view(batch, height, width, num_out).permute(0, 3, 1, 2)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        windows, matrix = ctx.saved_tensors
        num_out, num_in, *kernel = ctx.weight
        rows = gradient.permute(0, 2, 3, 1).reshape(-1, num_out)
        of_images = of_weight = None
        if ctx.needs_input_grad[0]:
            of_images = _sum_of_windows((rows @ matrix).view(-1, *ctx.size, *kernel, num_in), ctx)
        if ctx.needs_input_grad[1]:
            of_weight = (rows.t() @ windows).view(num_out, *kernel, num_in).permute(0, 3, 1, 2)
        return of_images, of_weight, None, None


def _sum_of_windows(windows: Tensor, ctx: Any) -> Tensor:
    """Add windows, (batch, height, width, *kernel, channels), where they lie on the images (col2im)."""
    batch, num_in, *size = ctx.images
    (height, width), (down, right), (above, left) = ctx.size, ctx.stride, ctx.padding
    total = windows.new_zeros(batch, size[0] + 2 * above, size[1] + 2 * left, num_in, dtype=torch.float32)
    for i in range(windows.shape[3]):
        for j in range(windows.shape[4]):
            total[:, i : i + height * down : down, j : j + width * right : right] += windows[:, :, :, i, j]
    inner = total[:, above : above + size[0], left : left + size[1]]
    return inner.to(windows.dtype).permute(0, 3, 1, 2)
