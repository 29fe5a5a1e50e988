"""The trained numbers of a network that a quantised file rounds, as one flat vector with places along their axes."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from tailcut.format.container.streams import Kept
from tailcut.format.network.tensors import NetworkTensors
from tailcut.format.quantized.coder import APART, LEAST_MEAN
from tailcut.format.quantized.values import KERNEL_DCT, NONE, kernel_transform
from tailcut.transform.dct import kernel_dct
from tailcut.transform.order import l1_order_index

PRIOR, PRIOR_OF_TENSOR = 8, 4
"""Numbers that a place, and a tensor, are credited with beforehand, as in the coder."""

FIRST_MEAN = 1.0
"""The mean magnitude that a tensor is expected to have beforehand."""


@dataclass(frozen=True)
class TrainedTensor:
    """One tensor that is trained for bytes.

    Attributes:
        name: its plain name.
        parameter: what the optimiser trains; of coefficients its first `count` entries count.
        count: how many numbers it has.
        shape: of the dense tensor.
        index: the places of coefficients along the axes longer than 1, int64 (count, axes); None of a whole tensor.
        transform: `NONE`, or `KERNEL_DCT` where the DCT along the kernel is rounded.
    """

    name: str
    parameter: nn.Parameter
    count: int
    shape: tuple[int, ...]
    index: Tensor | None
    transform: int

    def numbers(self, values: Tensor) -> Tensor:
        """Return the numbers that are rounded, (count,), of a tensor shaped like the parameter."""
        if self.transform == KERNEL_DCT:
            return kernel_dct(values).reshape(-1)
        return values.reshape(-1)[: self.count]

    def values(self, numbers: Tensor) -> Tensor:
        """Return the tensor, shaped like the parameter, of numbers as `numbers` gives them; the rest is 0."""
        if self.transform == KERNEL_DCT:
            return kernel_dct(numbers.reshape(self.shape), inverse=True)
        missing = self.parameter.numel() - self.count
        return torch.cat([numbers, numbers.new_zeros(missing)]).reshape(self.parameter.shape)

    def offset(self, steps: Tensor) -> Tensor:
        """Return the offset that the file subtracts, a whole number of steps: of gains, which lie around 1.

        Args:
            steps: the numbers in steps, (count,).
        """
        if self.index is not None or len(self.shape) > 1 or self.count == 1:
            return steps.new_zeros(())
        middle = steps.median().round()
        return torch.where(middle.abs() > 2 * (steps - middle).abs().mean(), middle, torch.zeros_like(middle))


def trained_tensors(tensors: NetworkTensors) -> list[TrainedTensor]:
    """Return the coefficients and floating-point parameters of a network that require a gradient."""
    found = [
        TrainedTensor(entry.name, entry.parameter, entry.num_kept, entry.shape, _kept_index(entry), NONE)
        for entry in tensors.coefficients
        if entry.parameter.requires_grad
    ]
    for other in tensors.others:
        tensor, shape = other.tensor, other.shape
        if isinstance(tensor, nn.Parameter) and tensor.requires_grad and tensor.is_floating_point() and tensor.numel():
            transform = kernel_transform(shape)
            found.append(TrainedTensor(other.name, tensor, tensor.numel(), shape, None, transform))
    return found


def _kept_index(entry: Kept) -> Tensor:
    axes = [axis for axis, size in enumerate(entry.shape) if size > 1]
    order = l1_order_index(entry.shape, entry.num_kept, axes=entry.axes, weights=entry.order_weights)
    return torch.from_numpy(order[:, axes].copy())


class Lattices:
    """Expected magnitudes of numbers, from those of their tensor and of their places along the axes.

    The coder of the file learns them number by number; here all others of a place tell.

    Attributes:
        counts: how many numbers each tensor has.
    """

    def __init__(self, tensors: Sequence[TrainedTensor]) -> None:
        self.counts = [tensor.count for tensor in tensors]
        self._lattices = [
            _Whole(tensor.shape) if tensor.index is None else _Scattered(tensor.index.to(tensor.parameter.device))
            for tensor in tensors
        ]

    def means(self, magnitudes: Tensor) -> Tensor:
        """Return the magnitudes that the code expects, (numbers,), of the same type, without gradient."""
        parts = magnitudes.detach().split(self.counts)
        return torch.cat([_means(lattice, part) for lattice, part in zip(self._lattices, parts, strict=True)])


class _Whole:
    """The places of a tensor of which all numbers are rounded.

    Attributes:
        shape: of the tensor, without axes of length 1.
        num_axes: how many these are.
    """

    def __init__(self, shape: Sequence[int]) -> None:
        self.shape = [size for size in shape if size > 1]
        self.num_axes = len(self.shape)

    def sums(self, magnitudes: Tensor) -> Iterator[tuple[Tensor, Tensor | int]]:
        """Yield, for each axis, the sum over the place of each number, and how many numbers lie in it.

        Args:
            magnitudes: of that shape; the sums can be expanded to it.
        """
        for axis, size in enumerate(self.shape):
            others = [other for other in range(magnitudes.ndim) if other != axis]
            yield magnitudes.sum(others, keepdim=True), magnitudes.numel() // size


class _Scattered:
    """The places of coefficients, a corner of their tensor, side by side."""

    def __init__(self, index: Tensor) -> None:
        self.shape, self.num_axes = [len(index)], index.shape[1]
        self._places = [(place, place.bincount()) for place in index.unbind(1)]

    def sums(self, magnitudes: Tensor) -> Iterator[tuple[Tensor, Tensor | int]]:
        """Yield what `_Whole.sums` does."""
        for place, members in self._places:
            yield magnitudes.new_zeros(len(members)).index_add_(0, place, magnitudes)[place], members[place]


def _means(lattice: _Whole | _Scattered, magnitudes: Tensor) -> Tensor:
    """Return the magnitudes that the code expects of the numbers of a tensor, (count,)."""
    whole = (PRIOR_OF_TENSOR * FIRST_MEAN + magnitudes.sum() - magnitudes).div_(len(magnitudes) - 1 + PRIOR_OF_TENSOR)
    if lattice.num_axes < 2:  # along a single axis each number is a place of its own, which tells nothing
        return whole.add_(LEAST_MEAN)
    magnitudes, whole = magnitudes.reshape(lattice.shape), whole.reshape(lattice.shape)
    product = torch.ones_like(whole)
    for sums, members in lattice.sums(magnitudes):
        # The mean of all others in the place of each number and PRIOR more like `whole`, plus LEAST_MEAN.
        others = members - 1 + PRIOR
        product *= ((sums + others * LEAST_MEAN) - magnitudes).add_(whole, alpha=PRIOR).div_(others)
    level, apart = whole.add_(LEAST_MEAN).log2_(), product.log2_()
    return level.mul_(1 - APART * lattice.num_axes).add_(apart, alpha=APART).exp2_().reshape(-1)
