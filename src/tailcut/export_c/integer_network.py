"""A network as its C code in integers runs it, in PyTorch: to measure it before it is flashed."""

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from tailcut.errors import ArgumentError
from tailcut.export_c.export import integer_program_of, network_of
from tailcut.export_c.integer.program import IntegerProgram
from tailcut.export_c.integer.simulate import simulate
from tailcut.export_c.integer.weights import MAX_BITS
from tailcut.structure import NetworkView

MOST = (1 << MAX_BITS) - 1


class IntegerNetwork(NetworkView):
    """A network that computes what `export_c(..., arithmetic="integer")` writes computes, bit for bit, as float32.

    Each image becomes integers of 16 bits with the least exponent that holds its largest number. It follows the numbers
    that the network has when a size of input comes for the first time, runs on the CPU, and has no gradients.

    Args:
        source: the network; not changed.
    """

    def __init__(self, source: nn.Module) -> None:
        super().__init__()
        self.source = network_of(source)
        self._programs: dict[tuple[int, ...], IntegerProgram] = {}
        self.training = False  # its own: `eval` would reach into the source

    def forward(self, images: Tensor) -> Tensor | tuple[Tensor, ...]:
        """Return the outputs for inputs of the network, the batch first.

        Raises:
            ArgumentError, StructureError: as `export_c`.
        """
        shape = tuple(images.shape[1:])
        if shape not in self._programs:
            self._programs[shape] = integer_program_of(self.source, example_input=torch.zeros(1, *shape))
        program = self._programs[shape]
        if len(images) == 0:
            none = tuple(torch.zeros(0, *size, device=images.device) for size in program.output_shapes)
            return none[0] if len(none) == 1 else none
        outputs = simulate(program, *to_integers(images.detach().cpu().numpy()))
        found = tuple(torch.from_numpy(output.to_float().astype(np.float32)).to(images.device) for output in outputs)
        return found[0] if len(found) == 1 else found


def to_integers(numbers: npt.NDArray[np.floating]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Return integers within 16 bits and an exponent for each image (the first axis), the least that holds it.

    Raises:
        ArgumentError: a number is not finite.
    """
    if not np.isfinite(numbers).all():
        raise ArgumentError("the inputs have numbers that are not finite, which integers cannot hold")
    largest = np.abs(numbers).max(tuple(range(1, numbers.ndim)), initial=0.0).astype(np.float64)
    exponents = np.frexp(largest)[1].astype(np.int64) - MAX_BITS
    exponents = np.clip(np.where(largest > 0, exponents, 0), -100, 100)
    scaled = np.ldexp(numbers.astype(np.float64), -exponents.reshape(-1, *(1,) * (numbers.ndim - 1)))
    return np.clip(np.rint(scaled), -MOST - 1, MOST).astype(np.int64), exponents
