"""Encoder side of quantised files: the choice of tensors, steps and transforms."""

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from tailcut.errors import ArgumentError
from tailcut.format import quantized
from tailcut.format.container.numbers import INTEGERS, QUANTIZED, has_non_finite, type_number
from tailcut.format.container.streams import layout_of_kept, layout_of_other
from tailcut.format.encoder.estimated_bits import coded_bits, expected_bits
from tailcut.format.encoder.row_steps import (
    Rows,
    RowSteps,
    relative_costs,
    rounded_with_feedback,
    row_steps,
    steps_of_rows,
)
from tailcut.format.encoder.sensitivity import Block, Sensitivity
from tailcut.format.encoder.step_search import COARSEST, FINEST, TooFewBytesError
from tailcut.format.encoder.trellis import FINER, rounded_rows
from tailcut.format.network.tensors import NetworkTensors, OtherTensor
from tailcut.format.quantized import Coded, Layout
from tailcut.format.quantized.coder import MAX_INTEGERS, MAX_MAGNITUDE
from tailcut.format.quantized.values import (
    DCT,
    KERNEL_DCT,
    LOG2,
    NONE,
    STEPS_PER_OCTAVE,
    FineStepError,
    coded,
    kernel_transform,
    nearest_step,
    quantize,
    step_size,
    transform_of,
)
from tailcut.transform.exact import exact
from tailcut.weights.planning.byte_budget import STATISTICS

MAX_LINE = 1 << 12
"""Axes of plain weights longer than this are not transformed: the reader in C takes the square of their length."""

WORTH = 1.05
"""A DCT along all axes of a matrix must save one part in twenty of its bits: reading it takes longer."""

RELATIVE_STEP = 0.25
"""Steps in parts of the root mean square of what they round, zeros apart, where the user gives none."""

NORM_EPSILON = 1e-5
"""Batch norm's usual epsilon: a file has no place for a layer's own. It bounds the spread of dead channels alone, whose
variance is near it, and so only chooses among steps."""

WORTH_A_NAME, MOST_NAMES = 100, 3
"""The least numbers of a tensor that is named where a file cannot be so small; how many are named."""

# A step of the logarithm that moves a standard deviation by one part: d log2(v) = 2 / ln(2) d s / s.
_LOG_OF_SPREAD = 2 / float(np.log(2))


def default_sensitivity(tensors: NetworkTensors) -> Sensitivity:
    """Return data-free sensitivities: steps in proportion to the root mean square of each tensor, but for its zeros.

    Batch norm's gains, shifts and means are measured by what they are added to or multiplied with: all get the same
    relative noise.
    """
    scale = {entry.name: _rms(entry.values) for entry in tensors.coefficients}
    others = {other.name: other.tensor.detach() for other in tensors.others}
    logs = {}
    for name, tensor in others.items():
        scale[name] = _rms(tensor)
    for name in others:
        module, _, attribute = name.rpartition(".")
        prefix = f"{module}." if module else ""
        if attribute == "running_var":
            logs[name] = 1 / _LOG_OF_SPREAD**2
            mean, gain, shift = (f"{prefix}{part}" for part in ("running_mean", "weight", "bias"))
            if not others[name].numel():
                continue
            variances = exact(others[name]).clamp(min=NORM_EPSILON)
            spread, least = float(variances.mean().sqrt()), float(variances.min().sqrt())
            scale[name], scale[mean] = 2 * spread * least, spread
            scale[shift] = scale.get(gain, 1.0)
    # Infinities, as masks have them, are stored as they are, and have no scale.
    return Sensitivity({name: 1 / size**2 for name, size in scale.items() if 0 < size < math.inf}, logs)


def completed(sensitivity: Sensitivity, tensors: NetworkTensors) -> Sensitivity:
    """With an entry for every tensor: one that was not measured, or came out as 0, matters as much as the middle one.

    Args:
        sensitivity: as measured.
        tensors: of the network.

    Raises:
        ArgumentError: it is no sensitivity, or was measured on another network.
    """
    if not isinstance(sensitivity, Sensitivity):
        raise ArgumentError(
            f"sensitivity must be what tailcut.measure_sensitivity gives, got {type(sensitivity).__name__}"
        )
    usual = default_sensitivity(tensors)
    known = [
        sensitivity.curvature[name] / size
        for name, size in usual.curvature.items()
        if sensitivity.curvature.get(name, 0) > 0
    ]
    if not usual.curvature:  # all numbers are 0, and will be with any step
        return usual
    if not known and any(name in sensitivity.curvature for name in usual.curvature):
        raise ArgumentError(
            "no number of the network changes its loss: are its outputs always the same (a last layer of zeros), or "
            "large numbers (coordinates, prices), which were taken for classes? For numbers give measure_sensitivity a "
            "loss="
        )
    if not known:
        raise ArgumentError("the sensitivity has no tensor of this network: measure it on the network that is saved")
    middle = sorted(known)[len(known) // 2]
    curvature = {name: middle * size for name, size in usual.curvature.items()}
    curvature |= {name: size for name, size in sensitivity.curvature.items() if size > 0}
    logs = {name: middle * size for name, size in usual.log_curvature.items()}
    logs |= {name: size for name, size in sensitivity.log_curvature.items() if size > 0}
    return replace(sensitivity, curvature=curvature, log_curvature=logs)


def types_of_others(others: Sequence[OtherTensor], dtype: torch.dtype | None) -> list[int]:
    """Return the number type of each other tensor in a quantised file.

    Parameters and running statistics are rounded, whole numbers kept as they are in the same payload; all else (masks,
    positions, means and deviations of inputs) stays exact.

    Args:
        others: the tensors.
        dtype: for floats that are not quantised; their own when None.
    """
    types, num_integers = [], 0
    for other in others:
        tensor = other.tensor.detach()
        is_statistic = other.name.rpartition(".")[2] in STATISTICS
        if tensor.is_floating_point():
            rounded = (other.is_parameter or is_statistic) and not has_non_finite("", tensor, is_parameter=True)
            stored = tensor.dtype if dtype is None else dtype
            types.append(QUANTIZED if rounded else type_number(stored, name=other.name))
        else:
            number = type_number(tensor.dtype, name=other.name)
            numbers = tensor.to(torch.int64)
            # What is coded is each less the one before it; that of a level's first number may be any of them.
            fits = num_integers + tensor.numel() <= MAX_INTEGERS
            fits = fits and not bool(((numbers > MAX_MAGNITUDE // 2) | (numbers < -MAX_MAGNITUDE // 2)).any())
            num_integers += tensor.numel() if fits else 0
            types.append(INTEGERS if fits else number)
    return types


@contextmanager
def naming_exact(tensors: NetworkTensors) -> Iterator[None]:
    """Within the block, the error for a size that no step reaches names the largest tensors that no step changes.

    Args:
        tensors: of the network.
    """
    try:
        yield
    except TooFewBytesError as error:
        pairs = zip(tensors.others, types_of_others(tensors.others, None), strict=True)
        exact = [(other.tensor.numel(), other.name) for other, number in pairs if number != QUANTIZED]
        large = [f"{name} ({size:,} numbers)" for size, name in sorted(exact, reverse=True) if size >= WORTH_A_NAME]
        if not large:
            raise
        raise TooFewBytesError(f"{error}: {', '.join(large[:MOST_NAMES])}") from error


@dataclass
class Rounding:
    """Rounds the tensors of a network to any step, and codes them.

    Attributes:
        tensors: of the network.
        types: of the other tensors, see `types_of_others`.
        with_coefficients: whether the coefficients are rounded too.
        sensitivity: what the steps are in proportion to.
        known: name of a weight -> what was rounded of it already, by `rounded_weight` at the same step.
    """

    tensors: NetworkTensors
    types: Sequence[int]
    with_coefficients: bool
    sensitivity: Sensitivity
    known: Mapping[str, Coded] = field(default_factory=dict)

    def values(self, step: float) -> dict[str, Tensor]:
        """Return the numbers that a reader decodes at this step, flat, by name; integers separately."""
        names = [entry.name for entry in self.tensors.coefficients if self.with_coefficients]
        pairs = zip(self.tensors.others, self.types, strict=True)
        names += [other.name for other, number in pairs if number in (QUANTIZED, INTEGERS)]
        found = zip(names, self.rounded(step), strict=True)
        return {name: quantized.dequantize(tensor, layout) for name, (layout, tensor) in found if not layout.is_integer}

    @property
    def rounded_by_rows(self) -> list[str]:
        """Names of the weights whose rows are rounded side by side with error feedback."""
        return [other.name for other, block in self._others_with_blocks() if block is not None]

    def rounded_weight(self, name: str, values: Tensor, step: float) -> tuple[Coded, Tensor]:
        """Return the whole numbers of one of these weights if it had other values, and what a reader makes of them.

        Args:
            name: of the weight.
            values: flat.
            step: of the network.
        """
        for other, block in self._others_with_blocks():
            if other.name == name and block is not None:
                layout, made = self._rounded_rows(other, block, values, step)
                return made, quantized.dequantize(made, layout)
        raise KeyError(f"{name} is none of the weights that are rounded by rows")

    def rounded(self, step: float) -> Iterator[tuple[Layout, Coded]]:
        """Yield the layout and the whole numbers of each tensor, in the order of the payload.

        Args:
            step: of the network; a tensor's own step is `step` over the root of its curvature.

        Raises:
            FineStepError: the step is too fine for a tensor.
        """
        values = self._values()
        if self.with_coefficients:
            yield from self._rounded_coefficients(values, step)
        for (other, block), number in zip(self._others_with_blocks(), self.types, strict=True):
            layout = layout_of_other(other.name, other.shape, is_integer=number == INTEGERS)
            if number == INTEGERS:
                yield layout, Coded(other.tensor.detach().reshape(-1).cpu().to(torch.int64).numpy())
            elif other.name in self.known:
                yield layout, self.known[other.name]
            elif block is not None:
                yield self._rounded_rows(other, block, values[other.name], step)
            elif number == QUANTIZED:
                candidates = list(self._candidates(other, step))
                made = _cheapest(other.tensor, layout, candidates, _spread(other.name, values))
                if layout.may_shift and other.name not in self.sensitivity.transforms:
                    made = self._along_trellis(other, layout, made, step)
                yield layout, made

    def _along_trellis(self, other: OtherTensor, layout: Layout, made: Coded, step: float) -> Coded:
        """Return a tensor of several axes that was rounded to the nearest, with errors of the same harm in fewer bits.

        Args:
            other: the tensor.
            layout: of it.
            made: it, rounded to the nearest.
            step: of the network.
        """
        ways = [(made.transform, RowSteps(nearest_step(FINER * step_size(made.step))))]
        rows = self._rows_of(other, other.tensor)
        if rows is not None:
            size = FINER * self._step_of(other.name, self.sensitivity.curvature, step)
            ways.append((NONE, steps_of_rows(rows, size)))
        found = []
        for transform, steps in ways[:1] + [way for way in ways[1:] if way[1].shifts]:
            multiples = transform_of(other.tensor, layout, transform) / steps.sizes(layout.shape)
            (rounded,) = rounded_rows([multiples.reshape(-1, layout.row)])
            found.append(coded(rounded.reshape(-1), transform, steps.step, layout, steps.shifts, is_dependent=True))
        return min(found, key=lambda tried: coded_bits(tried, layout))

    def estimated_bytes(self, step: float) -> float:
        """Return about the bytes of the numbers at this step, at once: as if each tensor had a Laplace distribution."""
        bits = 0.0
        for name, (count, mean) in self._magnitudes.items():
            bits += count * float(expected_bits(mean / self._step_of(name, self.sensitivity.curvature, step)))
        return bits / 8

    @cached_property
    def _magnitudes(self) -> dict[str, tuple[int, float]]:
        """How many numbers each tensor has, and the mean of their magnitudes."""
        return {name: (len(x), float(x.abs().mean())) for name, x in self._values().items() if len(x)}

    def _others_with_blocks(self) -> Iterator[tuple[OtherTensor, Block | None]]:
        """Yield each other tensor, with its block if it is rounded by rows."""
        blocks = {block.names[0]: block for block in self.sensitivity.blocks if len(block.names) == 1}
        for other, number in zip(self.tensors.others, self.types, strict=True):
            yield other, blocks.get(other.name) if number == QUANTIZED else None

    def _rounded_coefficients(self, values: Mapping[str, Tensor], step: float) -> Iterator[tuple[Layout, Coded]]:
        entries = self.tensors.coefficients
        nearest = self._rounded_to_nearest
        steps = {
            entry.name: nearest_step(size if entry.name in nearest else FINER * size)
            for entry, size in zip(entries, self._steps_of_kept(step), strict=True)
        }
        numbers: dict[str, Tensor] = {}
        for block in self._blocks_of_kept():
            sizes = {name: torch.full_like(values[name], step_size(steps[name])) for name in block.names}
            is_dependent = not nearest & set(block.names)
            numbers |= rounded_with_feedback(block, values, sizes, is_dependent=is_dependent)
        alone = {name: values[name] / step_size(eighth) for name, eighth in steps.items() if name not in numbers}
        along = [name for name in alone if name not in nearest]
        numbers |= alone | dict(
            zip(along, map(torch.ravel, rounded_rows([alone[name][None] for name in along])), strict=True)
        )
        for entry in entries:
            name, layout = entry.name, layout_of_kept(entry)
            yield layout, coded(numbers[name], NONE, steps[name], layout, is_dependent=name not in nearest)

    @property
    def _rounded_to_nearest(self) -> set[str]:
        """Names of tensors that no trellis rounds: they were trained for their steps, or share a block with such."""
        learned = set(self.sensitivity.transforms)
        return learned.union(*(block.names for block in self.sensitivity.blocks if learned & set(block.names)))

    def _blocks_of_kept(self) -> list[Block]:
        names = {entry.name for entry in self.tensors.coefficients}
        return [block for block in self.sensitivity.blocks if set(block.names) <= names]

    def _steps_of_kept(self, step: float) -> list[float]:
        """Return the step of each tensor of coefficients."""
        entries = self.tensors.coefficients
        blocks = [
            block for block in self._blocks_of_kept() if not self.sensitivity.transforms.keys() & set(block.names)
        ]
        costs = relative_costs(blocks, {entry.name: entry.num_kept for entry in entries})
        curvature = {name: size * costs.get(name, 1.0) for name, size in self.sensitivity.curvature.items()}
        return [self._step_of(entry.name, curvature, step) for entry in entries]

    def _rounded_rows(self, other: OtherTensor, block: Block, values: Tensor, step: float) -> tuple[Layout, Coded]:
        """Round a plain weight: with a kernel, the DCT along it."""
        layout = layout_of_other(other.name, other.shape, is_integer=False)
        transform = kernel_transform(other.shape)
        numbers = transform_of(values, layout, transform)
        size = self._step_of(other.name, self.sensitivity.curvature, step)
        is_learned = other.name in self.sensitivity.transforms
        if is_learned:
            steps = RowSteps(nearest_step(size))
        else:
            rows = None if block.is_turned else self._rows_of(other, values)
            steps = row_steps(block, other.shape, FINER * size, rows)
        scaled, sizes = steps.scaled(numbers, other.shape, is_turned=block.is_turned)
        given = {other.name: sizes}
        multiples = rounded_with_feedback(block, {other.name: scaled}, given, is_dependent=not is_learned)[other.name]
        return layout, coded(multiples, transform, steps.step, layout, steps.shifts, is_dependent=not is_learned)

    def _rows_of(self, other: OtherTensor, values: Tensor) -> Rows | None:
        """Return what is known of each row of a matrix, if it was measured.

        Args:
            other: the matrix.
            values: of it, as they are rounded.
        """
        curvature = self.sensitivity.rows.get(other.name)
        if curvature is None or not bool((curvature > 0).all()):
            return None
        if len(curvature) != other.shape[0]:
            raise ArgumentError(
                f"the sensitivity was measured for {len(curvature)} rows of {other.name}, the network has "
                f"{other.shape[0]}: measure it again"
            )
        return Rows(curvature, values.detach().reshape(len(curvature), -1))

    def _values(self) -> dict[str, Tensor]:
        """Return the values to round, flat, by name.

        Raises:
            ArgumentError: a number is not finite.
        """
        named = {entry.name: entry.values for entry in self.tensors.coefficients if self.with_coefficients}
        for other, number in zip(self.tensors.others, self.types, strict=True):
            if number == QUANTIZED:
                named[other.name] = other.tensor.detach()
        for name, tensor in named.items():
            if has_non_finite("", tensor, is_parameter=True):
                raise ArgumentError(f"{name} has numbers that are not finite, which cannot be quantised")
        return {name: tensor.detach().cpu().double().reshape(-1) for name, tensor in named.items()}

    def _candidates(self, other: OtherTensor, step: float) -> Iterator[tuple[int, float]]:
        """Yield the ways to round a tensor, each a transform and a step."""
        size = self._step_of(other.name, self.sensitivity.curvature, step)
        if other.name in self.sensitivity.transforms:
            yield self.sensitivity.transforms[other.name], size
            return
        is_variance = other.name.rpartition(".")[2] == "running_var"
        if is_variance and bool((other.tensor >= 0).all()):
            yield LOG2, self._step_of(other.name, self.sensitivity.log_curvature, step)
        else:
            yield NONE, size
        if _is_short(other.shape) and not _has_row_of_zeros(other.tensor):
            yield DCT, size
        if kernel_transform(other.shape) != NONE:
            yield KERNEL_DCT, size

    def _step_of(self, name: str, curvature: Mapping[str, float], step: float) -> float:
        return step / math.sqrt(curvature.get(name, 1.0))  # a tensor of zeros has no entry


def finest_eighth(sensitivity: Sensitivity, tensors: NetworkTensors) -> int:
    """Return the finest step to try, in eighths of an octave: `FINEST`, or finer where gradients are small.

    Where a network is all but certain of its outputs, all its gradients are near 0, and a step of `FINEST` may round
    everything away. With the step that is returned at least half of the tensors are rounded to 16 bits or more.

    Args:
        sensitivity: of every tensor, see `completed`.
        tensors: of the network.
    """
    known = list(map(math.log2, _relative_curvatures(sensitivity, tensors)))
    # A tensor's step is the network's over the root of its curvature, its size is the root of 1 over the usual one.
    return min(FINEST, math.floor(FINEST + STEPS_PER_OCTAVE * sorted(known)[len(known) // 2] / 2)) if known else FINEST


def coarsest_eighth(sensitivity: Sensitivity, tensors: NetworkTensors) -> int:
    """Return the coarsest step to try, in eighths of an octave: `COARSEST`, or coarser where gradients are large.

    Those of a network whose outputs are thousands, of dollars for example, are so large that a step of `COARSEST`
    rounds nothing away. Arguments are those of `finest_eighth`.
    """
    known = [ratio for ratio in _relative_curvatures(sensitivity, tensors) if 0 < ratio < math.inf]
    return max([COARSEST, *(math.ceil(COARSEST + STEPS_PER_OCTAVE * math.log2(ratio) / 2) for ratio in known)])


def _relative_curvatures(sensitivity: Sensitivity, tensors: NetworkTensors) -> list[float]:
    """Return the curvature of each tensor over the usual one of its size."""
    usual = default_sensitivity(tensors).curvature
    return [sensitivity.curvature[name] / size for name, size in usual.items()]


def _is_short(shape: Sequence[int]) -> bool:
    """Return whether a tensor is worth trying with a DCT along all of its axes: readers take long ones line by line."""
    return len(shape) in (1, 2) and 1 < max(shape) <= MAX_LINE


def _has_row_of_zeros(matrix: Tensor) -> bool:
    """Return whether a row is meant to be 0, as that of an embedding's padding: a DCT along the rows would move it."""
    return matrix.ndim > 1 and not bool((matrix.detach() != 0).any(1).all())


def _cheapest(values: Tensor, layout: Layout, candidates: list[tuple[int, float]], spread: Tensor | None) -> Coded:
    """Return the cheapest of the candidates. A running variance stays above 0.

    Of running means, those that move a channel by more than its spread are the last choice. A channel whose weights are
    all 0 has no variance, so the least error of its mean would be its output; and where ReLU cuts it off, no gradient
    tells so.

    Raises:
        FineStepError: the steps of all candidates are too fine.
    """
    found, failures = [], []
    for transform, step in candidates:
        try:
            tensor = quantize(values, layout, transform, nearest_step(step))
        except FineStepError as error:
            failures.append(error)
            continue
        is_variance = layout.key == "running_var" and transform != LOG2
        if is_variance and not bool((quantized.dequantize(tensor, layout) > 0).all()):
            continue
        is_slow = transform == DCT and len(layout.shape) > 1
        cost = coded_bits(tensor, layout) * (WORTH if is_slow else 1)
        found.append(((_excess(tensor, values, layout, spread), cost), tensor))
    if not found and failures:
        raise failures[0]
    if not found:  # variances below 0, which were so before
        found.append(((0.0, 0.0), quantize(values, layout, NONE, nearest_step(candidates[0][1]))))
    return min(found, key=lambda pair: pair[0])[1]


def _spread(name: str, values: Mapping[str, Tensor]) -> Tensor | None:
    """Return the standard deviations that batch norm divides by, (channels,), for its running mean; else None."""
    path, _, attribute = name.rpartition("running_")
    variances = values.get(f"{path}running_var") if attribute == "mean" else None
    return None if variances is None else (variances.clamp(min=0) + NORM_EPSILON).sqrt()


def _excess(tensor: Coded, values: Tensor, layout: Layout, spread: Tensor | None) -> float:
    """Return by how many standard deviations a channel's mean is moved at most; 0 where it is less than one."""
    if spread is None or not len(spread):
        return 0.0
    errors = quantized.dequantize(tensor, layout).double() - values.detach().cpu().double().reshape(-1)
    moved = float((errors.abs() / spread).max())
    return moved if moved > 1 else 0.0


def _rms(values: Tensor) -> float:
    """Return the root mean square of the numbers that are not 0.

    The others, of a pruned weight, are rounded without an error, and have no part in the noise.
    """
    count = int(values.count_nonzero())
    return math.sqrt(float(exact(values.detach()).square().sum()) / count) if count else 0.0
