"""Second moments of the inputs of a network's plain layers: the curvature of a layer's own error, by row (GPTQ)."""

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from tailcut.compression.layer_inputs.multiplications import Convolution, Multiplication, multiplications
from tailcut.compression.layer_inputs.recurrent_inputs import is_recurrent
from tailcut.compression.layer_inputs.weight_inputs import listening_before
from tailcut.format.encoder.sensitivity import Block, block_of
from tailcut.model_inputs import ModelInputs
from tailcut.printing import logged
from tailcut.transform import dct

MAX_ROW = 4608
"""The most numbers of a row of which moments are measured: 512 channels with a kernel of 3 x 3."""

POSITIONS = 16
"""Places of an input's map that are looked at."""

DAMPING = 0.01
"""Added to the diagonal of the moments, in parts of its mean."""


def input_blocks(
    model: nn.Module, inputs: Sequence[ModelInputs], stored: set[str], generator: torch.Generator
) -> Iterator[Block]:
    """Yield a block for each plain weight of linear and recurrent layers, and of convolutions.

    The moments are those around the mean where something takes the mean of the error away: a bias, or the running mean
    of batch norm (`tailcut.compress` moves both, but no biases of recurrent layers).

    Args:
        model: in evaluation mode; it is not changed.
        inputs: batches.
        stored: names of the tensors that are stored whole.
        generator: chooses the positions.
    """
    are_centred = has_norms(model)
    moments = {
        name: _Moments(multiplied, generator)
        for name, multiplied in multiplications(model).items()
        if name in stored and _is_measurable(multiplied)
    }
    with torch.no_grad(), listening_before(model, moments, lambda name, x: moments[name].take(x)):
        for batch in logged(inputs, "batches whose moments are measured", len(inputs)) if moments else ():
            batch.run(model)
    for name, moment in logged(moments.items(), "layers", len(moments)):
        if moment.count and not moment.is_mixed:
            multiplied = moment.multiplied
            centred = multiplied.bias is not None or (are_centred and not is_recurrent(multiplied.module))
            yield block_of((name,), moment.curvature(centred=centred), is_turned=multiplied.is_turned)


def has_norms(model: nn.Module) -> bool:
    """Return whether the network has batch norm or instance norm, which take the means of errors away."""
    return any(isinstance(module, nn.modules.batchnorm._NormBase) for module in model.modules())


def _is_measurable(multiplied: Multiplication) -> bool:
    """Return whether the inputs of a weight's rows are measured: those of transposed convolutions in groups are not."""
    weight, groups = multiplied.rows, multiplied.groups
    if not weight.numel() or (groups > 1 and multiplied.is_turned):
        return False
    return groups * weight[0].numel() ** 2 <= MAX_ROW**2


class _Moments:
    """Sums of products of the inputs of each row of a weight, which all outputs of a group share.

    Attributes:
        count: of the positions.
        is_mixed: whether the calls differ in how many groups there are: attention, once with keys of other inputs.
    """

    def __init__(self, multiplied: Multiplication, generator: torch.Generator) -> None:
        self.multiplied, self.generator = multiplied, generator
        self.row = multiplied.rows[0].numel()
        self.count, self.is_mixed = 0, False

    def take(self, x: Tensor) -> None:
        """Add the inputs of a call."""
        given, most = self.multiplied.inputs(x), POSITIONS * len(x)
        found = input_rows(self.multiplied.convolution, given, most, self.generator).float().cpu()
        if not len(found):
            return
        rows = by_group(found, self.row)
        if not self.count:
            self._begin(rows)
        elif len(rows) != len(self.total):
            self.is_mixed = True
            return
        rows = rows - self.origin
        self.count += len(found)
        self.total += rows.double().sum(1)
        self.products.baddbmm_(rows.mT, rows)

    def _begin(self, rows: Tensor) -> None:
        """Make room for the groups of the first inputs, (groups, positions, row)."""
        self.origin = rows.mean(1, keepdim=True)  # else float32 would lose the spread of inputs that are far from 0
        self.total = torch.zeros(len(rows), self.row, dtype=torch.float64, device="cpu")
        self.products = torch.zeros(len(rows), self.row, self.row, dtype=torch.float32, device="cpu")

    def curvature(self, *, centred: bool) -> Tensor:
        """Return the curvature, (row, row), or (groups, row, row), float64.

        That of each group has a mean of 1 along its diagonal: how much the group matters is not known from its inputs.
        """
        moments, mean = self.products.double() / self.count, self.total[:, None] / self.count
        moments -= mean.mT * mean
        if not centred:
            mean += self.origin
            moments += mean.mT * mean
        diagonal = moments.diagonal(dim1=1, dim2=2)
        diagonal += DAMPING * diagonal.mean(1, keepdim=True) + 1e-12
        return moments[0] if len(moments) == 1 else moments / diagonal.mean(1)[:, None, None]


def by_group(rows: Tensor, length: int) -> Tensor:
    """Return inputs of all groups of rows, (positions, groups x length), as (groups, positions, length)."""
    parts: Tensor = rows.unflatten(1, (-1, length))
    return parts.movedim(1, 0)


def input_rows(layer: Convolution | None, x: Tensor, most: int, generator: torch.Generator) -> Tensor:
    """Return what the rows of a weight meet at some positions of an input, (positions, row); of groups one by one.

    Args:
        layer: a convolution, whose kernel's axes are transformed by a DCT; None for a product along the last axis.
        x: the input.
        most: how many positions are chosen at most, of all images together.
        generator: chooses them, the same for inputs of one shape.
    """
    if layer is None:
        flat = x.reshape(-1, x.shape[-1])
        return flat[_chosen(len(flat), most, flat.device, generator)]
    kernel: tuple[int, ...] = layer.kernel_size
    x = x[None] if x.ndim == 1 + len(kernel) else x
    mode = "constant" if layer.padding_mode == "zeros" else layer.padding_mode
    windows = functional.pad(x, _pads(layer), mode=mode)
    for axis, (size, step, reach) in enumerate(zip(kernel, layer.stride, layer.dilation, strict=True), 2):
        windows = windows.unfold(axis, reach * (size - 1) + 1, step)[..., ::reach]
    spatial = windows.shape[2 : 2 + len(kernel)]
    chosen = _chosen(windows.shape[0] * spatial.numel(), most, x.device, generator)
    # Not by torch's own, whose first use imports sympy, which takes as long as all the rest of a small network.
    places = tuple(map(torch.from_numpy, np.unravel_index(chosen.cpu().numpy(), (windows.shape[0], *spatial))))
    patches = windows.movedim(1, 1 + len(kernel))[places]
    return dct(patches.float(), tuple(range(2, 2 + len(kernel)))).flatten(1)


def _pads(layer: Convolution) -> list[int]:
    """Return how far a convolution pads both ends of its axes, the last axis first."""
    padding: str | tuple[int, ...] = layer.padding
    if isinstance(padding, tuple):
        return [int(side) for side in reversed(padding) for _ in range(2)]
    return list(layer._reversed_padding_repeated_twice)  # of "same" and "valid" torch counts them


def _chosen(count: int, most: int, device: torch.device, generator: torch.Generator) -> Tensor:
    if count <= most:
        return torch.arange(count, device=device)
    return torch.randint(count, (most,), generator=generator, device="cpu").to(device)
