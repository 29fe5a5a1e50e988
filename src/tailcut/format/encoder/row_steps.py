"""Rounding of blocks of numbers with error feedback, and the steps that suit it, of tensors and along their axes."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from tailcut.errors import ArgumentError
from tailcut.format.encoder.estimated_bits import SHIFT_BITS
from tailcut.format.encoder.sensitivity import Block
from tailcut.format.encoder.trellis import COLUMNS, FINER, feedback, rounded_along_trellis, rounded_rows
from tailcut.format.quantized.coder import MAX_STEP, SHIFT
from tailcut.format.quantized.loops import LINE
from tailcut.format.quantized.values import STEPS_PER_OCTAVE, nearest_step, step_sizes

CALL = 256
"""A call of the trellis that is not compiled takes about as long as so many numbers more."""

MOST_SHIFT = 24
"""The largest shift, six octaves: what has no curvature at all is not worth the coarsest step of a file."""


@dataclass(frozen=True)
class RowSteps:
    """The steps of a weight whose rows are rounded with error feedback.

    Attributes:
        step: of the weight, in eighths of an octave.
        shifts: axis -> shifts of the step along it, see `quantized.Coded`.
    """

    step: int
    shifts: Mapping[int, np.ndarray] = field(default_factory=dict)

    def sizes(self, shape: Sequence[int]) -> Tensor:
        """Return the step at each number of the weight, float64, flat."""
        return step_sizes(self.step, shape, self.shifts).expand(math.prod(shape))

    def scaled(self, numbers: Tensor, shape: Sequence[int], *, is_turned: bool) -> tuple[Tensor, Tensor]:
        """Return a weight over what its outputs' steps differ by, and the steps at the places of one output, flat.

        Args:
            numbers: of the weight, flat.
            shape: of the weight.
            is_turned: see `Block`; of such a weight all outputs have the same steps.
        """
        if is_turned:
            return numbers, self.sizes((shape[0], 1))
        own = {axis: shift for axis, shift in self.shifts.items() if axis}
        factors = np.exp2(SHIFT * self.shifts.get(0, np.zeros(shape[0])) / STEPS_PER_OCTAVE)
        scaled = numbers.reshape(shape[0], -1) / torch.from_numpy(factors)[:, None]
        return scaled.reshape(-1), RowSteps(self.step, own).sizes((1, *shape[1:]))


@dataclass(frozen=True)
class Rows:
    """What is known of the rows of a matrix.

    Attributes:
        curvature: of each row, above 0, (rows,), float64.
        numbers: (rows, places), as they are rounded; of any type, anywhere.
    """

    curvature: Tensor
    numbers: Tensor


def row_steps(block: Block, shape: Sequence[int], size: float, rows: Rows | None = None) -> RowSteps:
    """Return the steps at which the errors of a weight do the harm that errors of one step would do without feedback.

    What the error of a number costs when those behind it make it good is its conditional curvature, 1 / U_ii^2. With
    steps in inverse proportion to its root all numbers would cost the same, which takes the fewest bits. It is
    approached by a shift for each input channel and each place of the kernel; of a matrix for each output too.

    Args:
        block: of one weight.
        shape: of the weight.
        size: the step without feedback.
        rows: what is known of each row; None where all are alike.

    Raises:
        ArgumentError: the block was measured for other sizes.
    """
    if block.is_turned:
        found = row_steps(replace(block, is_turned=False), (math.prod(shape[1:]), shape[0]), size)
        return RowSteps(found.step, {1 - axis: shift for axis, shift in found.shifts.items()})
    if math.prod(shape[1:]) != block.length:
        raise _other_size(block, math.prod(shape))
    curvature = block.conditional.reshape(tuple(shape[1:]))
    along = {axis + 1: quarters for axis, quarters in _quarters_along(curvature, shape[0]).items()}
    shifts = {axis: _whole(quarters).to(torch.int64).numpy() for axis, quarters in along.items()}
    sizes = RowSteps(0, shifts).sizes((1, *shape[1:])).reshape(curvature.shape)
    size /= math.sqrt(float((curvature * sizes.square()).mean() / block.curvature.mean()))
    by_rows = None if rows is None else steps_of_rows(Rows(rows.curvature, rows.numbers / sizes.reshape(-1)), size)
    if by_rows is not None and by_rows.shifts:
        return _in_range(by_rows.step, {**by_rows.shifts, **shifts})
    if not along:
        return RowSteps(nearest_step(size))
    longest = max(along, key=lambda axis: len(along[axis]))
    step, shift = _on_grid(along[longest] + 4 * math.log2(size), size)
    return _in_range(step, {**shifts, longest: shift})


def steps_of_rows(rows: Rows, size: float) -> RowSteps:
    """Return the steps at which the errors of a matrix do the harm that errors of one step would do.

    There is one for each row, unless that takes more bits: where most numbers are rounded to 0, shifts cost more than
    they save.

    Args:
        rows: of the matrix.
        size: the one step, in a trellis.
    """
    curvature = rows.curvature
    quarters = 4 * math.log2(size) + 2 * (curvature.mean() / curvature).log2()  # of an octave, of each row's step
    # Most rows of an embedding may be alike, since nothing read them: these have shifts of 0.
    step, shift = _on_grid(quarters, 2 ** (float(quarters.median()) / 4))
    steps = _in_range(step, {0: shift})
    # What a row that is rounded to zeros saves is nothing.
    largest = rows.numbers.abs().amax(1).cpu().double()
    num_alive = int((largest > steps.sizes((len(curvature), 1)) / (2 * FINER)).sum())
    saved = rows.numbers.shape[1] * num_alive * (_waste(quarters) - _waste(quarters - torch.from_numpy(shift)))
    return steps if saved > SHIFT_BITS * len(curvature) else RowSteps(nearest_step(size))


def _on_grid(quarters: Tensor, middle: float) -> tuple[int, np.ndarray]:
    """Return the step and the shifts nearest to steps that are any real number.

    A little finer steps move some of the shifts, so that sizes of files lie closer than steps of whole tensors do.

    Args:
        quarters: logarithms of the steps, in quarters of an octave.
        middle: about the step.
    """
    about = nearest_step(middle)
    near = [(step, _whole(quarters - step / SHIFT)) for step in (about, about - 1, about + 1)]
    # A few shifts may all be rounded the same way: of two grids the one that hits the mean step better.
    step, shift = min(near, key=lambda pair: abs(float((pair[0] / SHIFT + pair[1] - quarters).mean())))
    return step, shift.to(torch.int64).numpy()


def _whole(quarters: Tensor) -> Tensor:
    return quarters.round().clamp(-MOST_SHIFT, MOST_SHIFT)


def _in_range(step: int, shifts: Mapping[int, np.ndarray]) -> RowSteps:
    """Return steps with these shifts, none of which leaves the range of a file."""
    reach = SHIFT * sum(int(np.abs(shift).max()) for shift in shifts.values())
    return RowSteps(min(max(step, reach - MAX_STEP), MAX_STEP - reach), shifts)


def relative_costs(blocks: Sequence[Block], lengths: Mapping[str, int]) -> dict[str, float]:
    """Return what an error costs with feedback over what it costs without, for each tensor of blocks of several.

    The mean of their logarithms is 0: how much less all cost together is not known so well, since the matrix of many
    numbers is measured by few gradients.

    Args:
        blocks: with one number for each of their tensors.
        lengths: of these tensors, by name.

    Raises:
        ArgumentError: a block was measured for other sizes.
    """
    costs: dict[str, float] = {}
    for block in blocks:
        sizes = [lengths[name] for name in block.names]
        if sum(sizes) != block.length:
            raise _other_size(block, sum(sizes))
        parts = zip(block.names, block.conditional.split(sizes), block.curvature.split(sizes), strict=True)
        costs |= {name: float(fed.mean() / alone.mean()) for name, fed, alone in parts if len(fed)}
    total = sum(lengths[name] for name in costs)
    middle = sum(lengths[name] * math.log(cost) for name, cost in costs.items()) / max(total, 1)
    return {name: cost / math.exp(middle) for name, cost in costs.items()}


def _quarters_along(curvature: Tensor, num_alike: int) -> dict[int, Tensor]:
    """Return the shifts along the axes of a curvature, not rounded yet, where they save more bits than they take.

    Args:
        curvature: of numbers, each of which stands for `num_alike`.
        num_alike: how many.
    """
    quarters = -2 * curvature.log2()
    quarters -= quarters.mean()
    found: dict[int, Tensor] = {}
    for axis in range(curvature.ndim):
        rest = tuple(other for other in range(curvature.ndim) if other != axis)
        along = quarters.mean(rest) if rest else quarters
        shaped = _whole(along).reshape(-1, *(1,) * (curvature.ndim - axis - 1))
        saved = num_alike * curvature.numel() * (_waste(quarters) - _waste(quarters - shaped))
        if saved > SHIFT_BITS * len(along):
            found[axis] = along
            quarters = quarters - shaped
    return found


def _waste(quarters: Tensor) -> float:
    """Return the bits that each number takes too many where its step should be so many quarters of an octave larger."""
    energies = torch.exp2(-quarters / 2)
    return 0.5 * math.log2(float(energies.mean() / energies.log().mean().exp()))


def rounded_with_feedback(
    block: Block,
    values: Mapping[str, Tensor],
    sizes: Mapping[str, Tensor],
    *,
    is_dependent: bool = False,
) -> dict[str, Tensor]:
    """Return the numbers of a block as multiples of their steps, each after the errors of those before it.

    Optimal Brain Quantization (Frantar and Alistarh, 2022) in a fixed order, as in GPTQ: the error of a number is made
    good by those that follow, as far as their curvature says that they can.

    Args:
        block: its tensors must be among `values`, in these sizes.
        values: name -> the numbers, flat, float64.
        sizes: name -> the step of each number of a row, flat, float64; of a weight for as many rows as it has, or one.
        is_dependent: whether they are rounded along a trellis, see `trellis`; else each to the nearest.

    Returns:
        name -> whole numbers, flat, float64.

    Raises:
        ArgumentError: the block was measured for other sizes.
    """
    lengths = [len(values[name]) for name in block.names]
    if sum(lengths) % block.length or (len(lengths) > 1 and sum(lengths) > block.length):
        raise _other_size(block, sum(lengths))
    steps = torch.cat([sizes[name] for name in block.names])[: block.length]
    if block.is_turned:
        (numbers,) = (values[name] for name in block.names)
        rest = numbers.reshape(block.length, -1).clone()
        rounds = _rounder_of_rows(rest.numel()) if is_dependent else torch.Tensor.round_
        return {block.names[0]: _rounded_in_order(rest, steps, block.upper, rounds).reshape(-1)}
    rest = torch.cat([values[name] for name in block.names]).reshape(-1, block.length).T
    ends = np.cumsum([0, *lengths]).clip(max=len(rest))
    starts = [place for start, stop in pairwise(ends) for place in range(int(start), int(stop), LINE)]
    groups, parts = block.groups(rest), []
    num_numbers = max(rest.numel(), CALL * len(groups))
    for part, upper in groups:
        # A row of these is what all rows of a weight have at one place: it is used at once, so it lies in one piece.
        own = part.contiguous()
        if is_dependent:
            parts.append(rounded_along_trellis(own, steps, upper, starts, num_numbers=num_numbers))
        else:
            parts.append(_rounded_in_order(own, steps, upper, torch.Tensor.round_))
    return dict(zip(block.names, torch.cat(parts, 1).T.reshape(-1).split(lengths), strict=True))


def _rounder_of_rows(num_numbers: int) -> Callable[[Tensor], object]:
    """Return a function that rounds multiples, (n,), along a trellis (changes them).

    Args:
        num_numbers: how many it rounds in all its calls.
    """
    return lambda multiples: multiples.copy_(rounded_rows([multiples[None]], num_numbers=num_numbers)[0][0])


def _rounded_in_order(rest: Tensor, steps: Tensor, upper: Tensor, rounds: Callable[[Tensor], object]) -> Tensor:
    """Return the multiples of a block, (places, rows), one place after another.

    Args:
        rest: its numbers; becomes what is left of them.
        steps: of the places.
        upper: see `Block`.
        rounds: rounds the multiples at a place, (rows,), to whole numbers (changes them).
    """
    result = torch.empty_like(rest)
    for start in range(0, len(rest), COLUMNS):
        inside = rest[start : start + COLUMNS]  # becomes the errors
        num = len(inside)
        scaled = feedback(upper, start, start + num)
        for place, step in enumerate(steps[start : start + num]):
            errors, rounded = inside[place], result[start + place]
            rounds(torch.div(errors, step, out=rounded))
            errors.addcmul_(rounded, step, value=-1)
            inside[place + 1 :].addr_(scaled[place, place + 1 : num], errors, alpha=-1)
        rest[start + num :].addmm_(scaled[:, num:].T, inside, alpha=-1)
    return result


def _other_size(block: Block, count: int) -> ArgumentError:
    return ArgumentError(
        f"the sensitivity was measured for {block.length} numbers of {block.names[0]} (and others), the "
        f"network has {count}: measure it again"
    )
