"""Mean and standard deviation of each channel over all pixels of all images, in one pass."""

from typing import Self

import torch
from torch import Tensor

from tailcut.errors import ArgumentError, DataError
from tailcut.transform.exact import exact


class ChannelStatistics:
    """Mean and standard deviation per channel of maps that arrive batch by batch, in float64.

    Each batch is reduced to its count, mean and sum of squared deviations, which are merged with what came before
    (T. Chan, G. Golub, R. LeVeque, 1983): exact to rounding however large the mean is, and in any order of merging.
    Unlike the mean of per-image spreads this is the spread that a network sees.

    Attributes:
        count: numbers per channel so far.
        mean: (n,) float64.
        squares: sums of squared deviations from the mean, (n,) float64.
    """

    def __init__(self, num_channels: int) -> None:
        if num_channels < 1:
            raise ArgumentError(f"expected at least one channel, got {num_channels}")
        self.count = 0
        self.mean = torch.zeros(num_channels, dtype=torch.float64, device="cpu")
        self.squares = torch.zeros(num_channels, dtype=torch.float64, device="cpu")

    def update(self, maps: Tensor) -> Self:
        """Add maps (..., n, height, width), floating point, on any device. Nothing to add is no error.

        Raises:
            ArgumentError: the maps do not have this many channels, or are not floating point.
            DataError: the maps hold something that is no finite number.
        """
        if maps.ndim < 3 or maps.shape[-3] != len(self.mean) or not maps.dtype.is_floating_point:
            raise ArgumentError(
                f"expected floating-point maps (..., {len(self.mean)}, height, width), "
                f"got {maps.dtype} {tuple(maps.shape)}"
            )
        values = exact(maps.detach().movedim(-3, 0).flatten(1))
        if values.shape[1] == 0:
            return self
        mean = values.mean(1)
        if not bool(mean.isfinite().all()):
            raise DataError("the maps hold a number that is not finite")
        squares = (values - mean[:, None]).square_().sum(1)
        self._add(values.shape[1], mean.cpu(), squares.cpu())
        return self

    def merge(self, other: "ChannelStatistics") -> Self:
        """Add what another one has seen, for example in another process.

        Raises:
            ArgumentError: it counts another number of channels.
        """
        if len(other.mean) != len(self.mean):
            raise ArgumentError(f"expected statistics of {len(self.mean)} channels, got {len(other.mean)}")
        self._add(other.count, other.mean, other.squares)
        return self

    @property
    def std(self) -> Tensor:
        """The standard deviation of each channel (dividing by the count), (n,) float64; zeros while nothing came."""
        return (self.squares / max(self.count, 1)).sqrt()

    def _add(self, count: int, mean: Tensor, squares: Tensor) -> None:
        total = self.count + count
        if total == 0:
            return
        difference = mean - self.mean
        self.squares = self.squares + squares + difference.square() * (self.count * count / total)
        self.mean = self.mean + difference * (count / total)
        self.count = total
