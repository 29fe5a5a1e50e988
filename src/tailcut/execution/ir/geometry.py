"""Sizes of one call of a layer, and its convolution on other numbers of channels."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

# Numbers of a map that a convolution on the CPU takes at once, so that its operands stay in the second-level cache.
BAND_NUMBERS = 1 << 17

_CONVOLUTIONS: tuple[Any, ...] = (functional.conv1d, functional.conv2d, functional.conv3d)
_TRANSPOSED: tuple[Any, ...] = (
    functional.conv_transpose1d,
    functional.conv_transpose2d,
    functional.conv_transpose3d,
)


@dataclass(frozen=True)
class Geometry:
    """One call of a linear layer or a convolution.

    Attributes:
        in_channels: of the input.
        out_channels: of the output.
        groups: of the convolution, 1 for linear layers.
        channel_axis: where the channels are, in input and output.
        positions: batch times the input's positions.
        out_positions: the same of the output.
        taps: products of the convolution per pair of channels.
        kernel_size: positions of the kernel.
        kernel: their numbers per spatial axis; empty for linear layers.
        stride: per spatial axis; empty for linear layers.
        padding: zeros before and after, per spatial axis.
        dilation: per spatial axis.
        padding_mode: as in `torch.nn.Conv2d`.
        output_padding: of a transposed convolution, else zeros.
        is_transposed: whether it is a transposed convolution.
    """

    in_channels: int
    out_channels: int
    groups: int
    channel_axis: int
    positions: int
    out_positions: int
    taps: int
    kernel_size: int
    kernel: tuple[int, ...] = ()
    stride: tuple[int, ...] = ()
    padding: tuple[tuple[int, int], ...] = ()
    dilation: tuple[int, ...] = ()
    padding_mode: str = "zeros"
    output_padding: tuple[int, ...] = ()
    is_transposed: bool = False

    @property
    def is_one_position(self) -> bool:
        """True if each output position reads one input position and nothing is padded."""
        return self.kernel_size == 1 and not self.is_transposed and not any(map(any, self.padding))

    def convolve(self, source: Tensor, core: Tensor, bias: Tensor | None) -> Tensor:
        """Apply the convolution to (channels, batch, *spatial), with a core (out, in, *kernel)."""
        if not self.stride:
            flat = core.flatten(1) @ source.flatten(1)
            flat = flat if bias is None else flat + bias[:, None]
            return flat.reshape(core.shape[0], *source.shape[1:])
        if self.is_transposed:
            return self._transposed(source, core, bias)
        if self._is_large(source) and not (torch.is_grad_enabled() and (source.requires_grad or core.requires_grad)):
            return self._in_bands(source, core, bias)
        x = source.transpose(0, 1)
        before = [pad[0] for pad in self.padding]
        if self.padding_mode != "zeros" or any(one != two for one, two in self.padding):
            mode = "constant" if self.padding_mode == "zeros" else self.padding_mode
            x = functional.pad(x, [number for pad in reversed(self.padding) for number in pad], mode=mode)
            before = [0] * len(before)
        x = _channels_last(x)
        result: Tensor = _CONVOLUTIONS[len(self.stride) - 1](
            x, core, bias, self.stride, before, self.dilation, self.groups
        )
        return result.transpose(0, 1).contiguous()

    def _is_large(self, source: Tensor) -> bool:
        """Return whether the map is one that goes through no cache, of a kind that can be cut into bands of rows."""
        is_plain = self.padding_mode == "zeros" and self.groups == 1 and all(step == 1 for step in self.stride)
        return source.ndim == 4 and is_plain and source.device.type == "cpu" and source.numel() > 2 * BAND_NUMBERS

    def _in_bands(self, source: Tensor, core: Tensor, bias: Tensor | None) -> Tensor:
        """Apply the convolution band by band, so that the unfolded input never exists as a whole."""
        (top, bottom), (left, right) = self.padding
        batch, height, width = source.shape[1:]
        reach = [step * (size - 1) for step, size in zip(self.dilation, self.kernel, strict=True)]
        rows, columns = height + top + bottom - reach[0], width + left + right - reach[1]
        result = source.new_empty(core.shape[0], batch, rows, columns)
        length = max(1, BAND_NUMBERS // (source.shape[0] * batch * width))
        for begin in range(0, rows, length):
            end = min(begin + length, rows)
            # Of the rows that it reads; some or all lie before or after those that are there.
            first, last = begin - top, end - top + reach[0]
            low, high = (min(max(row, 0), height) for row in (first, last))
            above = min(max(-first, 0), last - first)
            band = source[:, :, low:high].transpose(0, 1)
            band = functional.pad(band, (left, right, above, last - first - above - (high - low)))
            made = torch.conv2d(_channels_last(band), core, bias, dilation=self.dilation)
            result[:, :, begin:end] = made.transpose(0, 1)
        return result

    def _transposed(self, source: Tensor, core: Tensor, bias: Tensor | None) -> Tensor:
        is_plain = not any(map(any, self.padding)) and not any(self.output_padding)
        is_dense = all(step == 1 or size == 1 for step, size in zip(self.dilation, self.kernel, strict=True))
        if self.kernel == self.stride and is_plain and is_dense:
            return self._side_by_side(source, core, bias)
        # Here the core is (out, in, ...) with the input whole; torch wants (in, out / groups, ...).
        result: Tensor = _TRANSPOSED[len(self.stride) - 1](
            source.transpose(0, 1),
            core.transpose(0, 1),
            bias,
            self.stride,
            [pad[0] for pad in self.padding],
            self.output_padding,
            self.groups,
            self.dilation,
        )
        return result.transpose(0, 1).contiguous()

    def _side_by_side(self, source: Tensor, core: Tensor, bias: Tensor | None) -> Tensor:
        """Apply a transposed convolution whose kernels do not overlap: one product, then a pixel shuffle."""
        num_out, num_in = core.shape[:2]
        matrix = core.movedim(1, -1).reshape(-1, num_in)
        flat = matrix @ source.flatten(1)
        if bias is not None:
            flat = flat + bias.repeat_interleave(self.kernel_size)[:, None]
        batch, *sizes = source.shape[1:]
        num = len(sizes)
        woven = [axis for n in range(num) for axis in (num + 2 + n, n + 1)]
        split = flat.reshape(num_out, *self.kernel, batch, *sizes)
        # From (out, *kernel, batch, *sizes) to (out, batch, size, kernel, size, kernel, ...).
        order = [0, num + 1, *woven]
        return split.permute(order).reshape(
            num_out, batch, *(size * step for size, step in zip(sizes, self.kernel, strict=True))
        )


def geometry_of(layer: nn.Module, shape: Sequence[int], args: tuple[Any, ...]) -> Geometry | None:
    """Return the sizes of the call layer(x, *args); None for inputs without a batch, of odd ranks or channels."""
    if isinstance(layer, nn.Linear):
        if len(shape) < 2 or 0 in shape or shape[-1] != layer.in_features:
            return None
        positions = math.prod(shape[:-1])
        return Geometry(layer.in_features, layer.out_features, 1, len(shape) - 1, positions, positions, positions, 1)
    if not isinstance(layer, _ConvNd) or len(shape) != len(layer.kernel_size) + 2 or 0 in shape:
        return None
    if shape[1] != layer.in_channels:
        return None
    is_transposed = isinstance(layer, _ConvTransposeNd)
    if is_transposed and (layer.groups > 1 or args):
        return None
    padding = _padding(layer)
    outs = _out_sizes(layer, shape[2:], padding)
    if min(outs) < 1:
        return None
    positions, out_positions = shape[0] * math.prod(shape[2:]), shape[0] * math.prod(outs)
    kernel = math.prod(layer.kernel_size)
    return Geometry(
        layer.in_channels,
        layer.out_channels,
        layer.groups,
        1,
        positions,
        out_positions,
        kernel * (positions if is_transposed else out_positions),
        kernel,
        tuple(layer.kernel_size),
        tuple(layer.stride),
        padding,
        tuple(layer.dilation),
        layer.padding_mode,
        tuple(layer.output_padding),
        is_transposed,
    )


def _padding(layer: _ConvNd) -> tuple[tuple[int, int], ...]:
    """Return the zeros before and after, per axis, as torch's forward adds them."""
    if layer.padding == "same" and layer.padding_mode == "zeros":
        reaches = [step * (size - 1) for step, size in zip(layer.dilation, layer.kernel_size, strict=True)]
        return tuple((reach // 2, reach - reach // 2) for reach in reaches)
    if isinstance(layer.padding, str) or layer.padding_mode != "zeros":
        flat = list(layer._reversed_padding_repeated_twice)
        return tuple((flat[2 * axis], flat[2 * axis + 1]) for axis in reversed(range(len(flat) // 2)))
    return tuple((pad, pad) for pad in layer.padding if isinstance(pad, int))


def _out_sizes(layer: _ConvNd, sizes: Sequence[int], padding: Sequence[tuple[int, int]]) -> list[int]:
    outs = []
    for axis, size in enumerate(sizes):
        reach = layer.dilation[axis] * (layer.kernel_size[axis] - 1)
        pads, stride = sum(padding[axis]), layer.stride[axis]
        if isinstance(layer, _ConvTransposeNd):
            outs.append((size - 1) * stride - pads + reach + layer.output_padding[axis] + 1)
        else:
            outs.append((size + pads - reach - 1) // stride + 1)
    return outs


def _channels_last(x: Tensor) -> Tensor:
    """Return the tensor in channels-last order, in which the CPU convolves a few channels several times faster."""
    if x.ndim == 4 and x.device.type == "cpu":
        return x.contiguous(memory_format=torch.channels_last)
    return x.contiguous()


def pooled_size(size: int, kernel: int, stride: int, padding: int, *, ceil_mode: bool) -> int:
    """Return the number of windows of a pooling along one axis, as torch counts them."""
    room = size + 2 * padding - kernel
    if not ceil_mode:
        return room // stride + 1
    number = -(-room // stride) + 1
    return number - 1 if (number - 1) * stride >= size + padding else number  # the last one begins within the map
