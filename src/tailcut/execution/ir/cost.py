"""The cost model: seconds that a strategy would take, from sizes alone, so that every machine decides alike.

Only the ratios of the constants matter: how much slower a convolution of a few channels is than one of many, what a
number made in a tile costs beside its products, what a byte costs, and what a low-rank layer's calls from Python cost.
Those of the CPU were fitted to one thread's times of these parts on a current server core; more threads divide all
of them nearly alike. Those of GPUs fit the published UNet on an H200 (`python -m bench cuda`).
"""

import math
from dataclasses import dataclass
from typing import NamedTuple


@dataclass(frozen=True)
class Device:
    """Speeds of a device.

    Attributes:
        dense: operations per second of a dense convolution or product of large matrices.
        per_output: the same at most, for each output channel.
        per_root_input: the same at most, times the square root of the number of input channels.
        tile: operations per second of the products that tiles are made of.
        elements: numbers per second that a tile makes, activates and drops, besides their products.
        memory: bytes per second of maps, to and from memory.
        call: seconds that one call from Python takes.
    """

    dense: float
    per_output: float
    per_root_input: float
    tile: float
    elements: float
    memory: float
    call: float


DEVICES = {
    "cpu": Device(dense=100e9, per_output=3.1e9, per_root_input=25e9, tile=75e9, elements=2.2e9, memory=6e9, call=8e-6),
    "cuda": Device(
        dense=30e12, per_output=0.9e12, per_root_input=7.5e12, tile=2.4e12, elements=3e11, memory=2e12, call=8e-6
    ),
    # Dense products of TF32 and 16-bit numbers run on matrix units; tiles are as slow as before.
    "cuda matrix units": Device(
        dense=150e12, per_output=4.5e12, per_root_input=37e12, tile=2.4e12, elements=3e11, memory=2e12, call=8e-6
    ),
}
# Bytes of a number in a map or a weight, as the estimates count them.
NUMBER_BYTES = 4
# Calls from Python that a low-rank layer makes, with what follows it, beyond those of a dense one.
EXTRA_CALLS = 45
# The backward pass in units of the forward pass. Tiles are made again, and each product has two gradients.
BACKWARD_TILES = 4.5
BACKWARD_DENSE = 2.3
BACKWARD_CALLS = 2.5
# Channels that a convolution takes at once.
VECTOR = 8
# The estimates are right to about a third, small products gain less from more threads than dense
# convolutions do, and a wrong choice of a low-rank strategy costs more than a missed one.
MARGIN = 0.6
# With gradients the margin is smaller: a full map is kept, and all that follows reads and writes it again, which these
# estimates count only once.
MARGIN_WITH_GRADIENTS = 0.75
# The same for a whole network: the modules between its layers are not in the estimates, and calls from Python take as
# long with several threads. With gradients the margin is smaller: dense weights are rebuilt in each step.
NETWORK_MARGIN = 0.45
NETWORK_MARGIN_WITH_GRADIENTS = 0.8
# Cost of making a map over that of writing it, up to which it is recomputed while gradients are kept.
PATIENCE_WITH_GRADIENTS = 3.5
# Passes over a weight to build it from its coefficients, and to bring its gradient back.
PASSES_PER_WEIGHT = 4
# The same where a fast transform makes it, as for large corners.
PASSES_OF_FFT = 25


class Work(NamedTuple):
    """Estimated cost of a computation: seconds, multiplications, and bytes of maps and weights."""

    seconds: float
    macs: float
    moved_bytes: float

    def plus(self, other: "Work") -> "Work":
        """Return the sum of two costs."""
        return Work(self.seconds + other.seconds, self.macs + other.macs, self.moved_bytes + other.moved_bytes)


@dataclass(frozen=True)
class Costs:
    """Estimates for one device, with or without a backward pass."""

    device: Device
    with_gradients: bool

    @classmethod
    def of(cls, device_type: str, *, with_gradients: bool, tensor_cores: bool = False) -> "Costs":
        """Return the estimates for a torch device type; unknown ones count as "cuda".

        Args:
            device_type: "cpu", "cuda", ...
            with_gradients: of a forward with its backward.
            tensor_cores: dense products run on a GPU's matrix units.
        """
        name = "cuda matrix units" if tensor_cores else device_type
        return cls(DEVICES.get(name, DEVICES["cuda"]), with_gradients)

    def product(self, flops: float, num_bytes: float, num_in: int, num_out: int) -> float:
        """Estimate the seconds of a convolution or matrix product.

        Args:
            flops: operations.
            num_bytes: bytes of operands and result.
            num_in: input channels that one output channel sees.
            num_out: output channels that one input channel reaches.
        """
        device = self.device
        flops *= _padded(num_in) / num_in * _padded(num_out) / num_out
        speed = min(device.dense, device.per_output * num_out, device.per_root_input * math.sqrt(num_in))
        seconds = max(flops / speed, num_bytes / device.memory) + device.call
        return self._with_backward(seconds, BACKWARD_DENSE)

    def tiles(self, flops: float, elements: float) -> float:
        """Estimate the seconds of so many operations in tiles, which make and drop so many numbers."""
        return self._with_backward(flops / self.device.tile + elements / self.device.elements, BACKWARD_TILES)

    def move(self, num_bytes: float) -> float:
        """Estimate the seconds to read or write so many bytes."""
        return self._with_backward(num_bytes / self.device.memory, BACKWARD_DENSE)

    def rebuild(self, flops: float, num_bytes: float, *, is_whole: bool) -> float:
        """Estimate the seconds to rebuild a weight or a part of it; without gradients it is built once and kept.

        Args:
            flops: operations, by products.
            num_bytes: bytes of what is made.
            is_whole: it is the whole weight, for which there are fast transforms too.
        """
        if not self.with_gradients:
            return 0.0
        one_pass = num_bytes / self.device.memory
        products = (1 + BACKWARD_DENSE) * flops / self.device.dense
        return PASSES_PER_WEIGHT * one_pass + (min(products, PASSES_OF_FFT * one_pass) if is_whole else products)

    def overhead(self) -> float:
        """Estimate the seconds of the extra calls of a low-rank layer."""
        return self._with_backward(EXTRA_CALLS * self.device.call, BACKWARD_CALLS)

    def is_costly(self, flops: float, elements: float, num_bytes: float) -> bool:
        """Return whether a map that is used twice is better written than made twice.

        Written, it is written once and read twice. With gradients it then stays in memory until the backward pass, so
        making it again may cost several times as much.

        Args:
            flops: operations to make it, in tiles.
            elements: numbers that tiles make on the way.
            num_bytes: what it takes in memory.
        """
        patience = PATIENCE_WITH_GRADIENTS if self.with_gradients else 1.0
        return self.tiles(flops, elements) > patience * self.move(3 * num_bytes)

    def is_clearly_less(self, seconds: float, than: float) -> bool:
        """Return whether a low-rank strategy is the better one beyond the errors of these estimates."""
        return seconds < (MARGIN_WITH_GRADIENTS if self.with_gradients else MARGIN) * than

    def network_pays(self, seconds: float, dense: float) -> bool:
        """Return whether so many seconds in the layers of a network are clearly less than with all of them dense."""
        return seconds < (NETWORK_MARGIN_WITH_GRADIENTS if self.with_gradients else NETWORK_MARGIN) * dense

    def _with_backward(self, seconds: float, backward: float) -> float:
        return seconds * (1 + backward) if self.with_gradients else seconds


def _padded(channels: int) -> int:
    """Round a number of channels up to whole vectors; a few channels have kernels of their own."""
    return channels if channels < VECTOR else math.ceil(channels / VECTOR) * VECTOR
