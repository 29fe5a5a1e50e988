"""The cost model: seconds that a way would take, from sizes alone, so that every machine decides alike.

The constants describe two common cores (or a current GPU). Only their ratios matter: how much slower a product with
a few rows is than one between square matrices, and what a byte costs.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Device:
    """Speeds of a device.

    Attributes:
        dense: operations per second of a dense convolution or product of large matrices.
        tile: of the products of a few rows that tiles are made of.
        core: of the convolutions of a few channels.
        memory: bytes per second to and from memory.
        call: seconds that one call from Python takes.
    """

    dense: float
    tile: float
    core: float
    memory: float
    call: float


DEVICES = {
    "cpu": Device(dense=250e9, tile=40e9, core=20e9, memory=15e9, call=8e-6),
    "cuda": Device(dense=30e12, tile=8e12, core=4e12, memory=2e12, call=8e-6),
}
# A product reaches the dense speed at this many channels on both sides.
FULL_SPEED_CHANNELS = 32
# Calls from Python that a narrow layer makes beyond those of a dense one.
EXTRA_CALLS = 24
# The backward pass makes each tile again and then takes two products per product; a dense layer takes two.
BACKWARD_TILES = 3.0
BACKWARD_DENSE = 2.0


@dataclass(frozen=True)
class Costs:
    """Estimates for one device, with or without a backward pass."""

    device: Device
    with_gradients: bool

    @classmethod
    def of(cls, device_type: str, *, with_gradients: bool) -> "Costs":
        """The estimates for a torch device type; unknown ones count as "cuda"."""
        return cls(DEVICES.get(device_type, DEVICES["cuda"]), with_gradients)

    def product(self, flops: float, num_bytes: float, narrowest: int) -> float:
        """Seconds of a convolution or matrix product.

        Args:
            flops: operations.
            num_bytes: bytes of operands and result.
            narrowest: the smaller one of its numbers of input and output channels.
        """
        speed = max(self.device.core, self.device.dense * min(1.0, narrowest / FULL_SPEED_CHANNELS))
        seconds = max(flops / speed, num_bytes / self.device.memory) + self.device.call
        return seconds * (1 + BACKWARD_DENSE) if self.with_gradients else seconds

    def tiles(self, flops: float) -> float:
        """Seconds of so many operations in tiles."""
        return self._with_backward(flops / self.device.tile)

    def move(self, num_bytes: float) -> float:
        """Seconds to read or write so many bytes."""
        return self._with_backward(num_bytes / self.device.memory)

    def overhead(self) -> float:
        """Seconds of the extra calls of a narrow layer."""
        return self._with_backward(EXTRA_CALLS * self.device.call)

    def _with_backward(self, seconds: float) -> float:
        return seconds * (1 + BACKWARD_TILES) if self.with_gradients else seconds
