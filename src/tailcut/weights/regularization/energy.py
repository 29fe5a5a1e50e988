"""Energy (sum of squares) that a cut removes from weights, and a test for weights that were never trained.

The transform is orthonormal, so the energy of a weight is that of its coefficients, and what is lost is the energy of
those left out: the squared distance between the weight before and after. Of a weight as it is drawn at the start
(uniform, normal, orthogonal) nothing is lost that was learned; of a trained one, the layer's answers.
"""

import math
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from tailcut.errors import EnergyWarning
from tailcut.transform.exact import exact, where_exact

# Above this part of the energy of trained weights a cut without training is warned of. A ResNet-20 trained on CIFAR-10
# keeps its accuracy where 2.4 % are lost, and falls by eleven points where 9 % are; others may stand less.
_WORTH_A_WARNING = 0.01
# By how many standard deviations the slices of a weight differ in energy before it counts as trained. Of 900 weights
# of fresh networks the most is 5.1; 20 steps of Adam on a small network give 60 to 70, full training hundreds.
_MOST_BY_CHANCE = 10.0
# Weights of no more numbers do not reach that: those of the trained LeNets have up to 7.1.
_FEW = 1 << 13


@dataclass(frozen=True)
class Loss:
    """The energy of one weight, and what is left of it.

    Attributes:
        name: of the tensor.
        before: the sum of squares of the weight.
        after: that of the coefficients that are kept.
        is_trained: the weight is not as a random initialisation leaves it.
    """

    name: str
    before: float
    after: float
    is_trained: bool

    @property
    def part(self) -> float | None:
        """The part of the energy that is lost, 0 to 1; None where the numbers are not finite."""
        return part_lost(self.before, self.after)


def part_lost(before: float, after: float) -> float | None:
    """Return the lost part of an energy, 0 to 1, or None if unknown."""
    if not (math.isfinite(before) and math.isfinite(after)):
        return None
    return max(0.0, 1 - after / before) if before > 0 else 0.0


def energy(values: Tensor) -> float:
    """Return the sum of squares in float64; NaN on the meta device."""
    if values.is_meta:
        return math.nan
    return float(torch.linalg.vector_norm(where_exact(values.detach()), dtype=torch.float64)) ** 2


def looks_trained(weight: Tensor) -> bool:
    """Return whether a weight differs from a random initialisation.

    An initialisation draws all numbers of a weight alike, so that its slices along any axis (the rows, the columns, the
    places of a kernel) have the same energy but for chance; training gives each output, input and place its own size.
    This is the chi-squared test of that, on each axis. Constant weights, identities and orthogonal matrices count as
    initialisations too.
    """
    if weight.is_meta or weight.ndim < 2:
        return False
    squares = exact(weight.detach()).square()
    mean, variance = squares.mean(), squares.var(correction=0)
    if not bool(variance > 1e-12 * mean.square()):  # constant, or not finite
        return False
    return any(_excess(squares, axis, mean, variance) > _MOST_BY_CHANCE for axis in range(squares.ndim))


def which_are_trained(weights: Sequence[Tensor], others: Iterable[Tensor]) -> list[bool]:
    """Tell which weights were trained: those that look so, and with a trained network the small ones.

    A few thousand numbers, as of a first or a last layer, differ too little from chance.

    Args:
        weights: those that are cut.
        others: the network's other weights, which are looked at only if they matter.
    """
    found = [looks_trained(weight) for weight in weights]
    is_small = [weight.numel() <= _FEW for weight in weights]
    open_ones = any(small and not trained for small, trained in zip(is_small, found, strict=True))
    if not open_ones or not (any(found) or any(map(looks_trained, others))):
        return found
    return [trained or small for trained, small in zip(found, is_small, strict=True)]


def _excess(squares: Tensor, axis: int, mean: Tensor, variance: Tensor) -> float:
    """Return the spread of the slices' energies along an axis, in standard deviations of random weights."""
    size = squares.shape[axis]
    per_slice = squares.numel() // size
    if size < 2 or per_slice < 2:
        return 0.0
    slices = squares.mean(dim=[other for other in range(squares.ndim) if other != axis])
    chi_squared = float((slices - mean).square().sum() * per_slice / variance)
    return (chi_squared - (size - 1)) / math.sqrt(2 * (size - 1))


def total_lost(losses: Sequence[Loss]) -> float | None:
    """Return the part of the total energy that was lost."""
    return part_lost(sum(loss.before for loss in losses), sum(loss.after for loss in losses))


def lost_of_trained(losses: Sequence[Loss]) -> float | None:
    """Return the lost part of the energy of the weights that look trained, or None if none does."""
    trained = [loss for loss in losses if loss.is_trained]
    return total_lost(trained) if trained else None


def worth_a_warning(lost: float | None) -> bool:
    """Return whether trained weights that lost this part of their energy likely predict something else."""
    return lost is not None and lost > _WORTH_A_WARNING


def percent(part: float | None) -> str:
    """Return a part of the energy as text.

    >>> percent(0.0213), percent(0.00004), percent(None)
    ('2.1 %', '< 0.1 %', '')
    """
    if part is None:
        return ""
    return "< 0.1 %" if 0 < part < 0.0005 else f"{100 * part:.1f} %"


def warn_of_loss(losses: Sequence[Loss], *, stacklevel: int) -> None:
    """Warn, as `EnergyWarning`, where a cut took much of trained weights."""
    lost = lost_of_trained(losses)
    if not worth_a_warning(lost):
        return
    worst = max((loss for loss in losses if loss.is_trained), key=lambda loss: loss.part or 0.0)
    warnings.warn(
        f"this network looks trained, and {percent(lost)} of the energy of its trained weights lies in coefficients "
        f"that are left out (most in {worst.name}: {percent(worst.part)}), so expect it to be less accurate, perhaps "
        "by far. "
        "Train it on before it is used; or keep all coefficients (keep_ratio=1) and cut them while training, with "
        "tailcut.TailTruncation. regularize(..., warn=False) says that this is known",
        EnergyWarning,
        stacklevel=stacklevel + 1,
    )
