"""A program in integers, run in Python for many images: bit for bit what `runtime/tailcut_run_integer.c` computes."""

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional

from tailcut.errors import ArgumentError
from tailcut.export_c.integer.arithmetic import (
    ONE,
    Ints,
    bits_of,
    cosines,
    divided,
    halved,
    in_units,
    rounded,
    saturated,
    scaled,
    shifted,
)
from tailcut.export_c.integer.bounds import Bound
from tailcut.export_c.integer.functions import FUNCTIONS, function_of
from tailcut.export_c.integer.measuring import Measured, measured
from tailcut.export_c.integer.program import (
    IntegerProgram,
    IntegerStage,
    linear_behind,
    scale_of,
    shift_of,
)
from tailcut.export_c.integer.weights import MAX_BITS, MOST
from tailcut.export_c.program.program import Kind, Leaf, Map, Op, Operation, Resampling, Segment, Stage

NO_EXPONENT = -32768
NUMBERS_AT_ONCE = 1 << 22


@dataclass(frozen=True)
class IntegerOutput:
    """One output of a network in integers: a number is `numbers` times 2^`exponents`.

    Attributes:
        numbers: int64 (images, ...), within 16 bits.
        exponents: int64 (images,).
    """

    numbers: Ints
    exponents: Ints

    def to_float(self) -> npt.NDArray[np.float64]:
        """Return what the numbers mean."""
        powers = self.exponents.reshape(-1, *(1,) * (self.numbers.ndim - 1))
        made: npt.NDArray[np.float64] = np.ldexp(self.numbers.astype(np.float64), powers)
        return made


def simulate(
    program: IntegerProgram, numbers: npt.ArrayLike, exponent: npt.ArrayLike = -MAX_BITS
) -> tuple[IntegerOutput, ...]:
    """Run a program in integers.

    Args:
        program: of `integer_program`.
        numbers: inputs, integers within 16 bits, (images, *program.input_shape).
        exponent: a number of the input is `numbers` times 2^exponent; within -100 and 100, one or one for each image.

    Returns:
        The outputs.

    Raises:
        ArgumentError: the inputs do not fit.
    """
    given = np.asarray(numbers)
    fits = given.dtype.kind in "iu" and given.shape[1:] == program.input_shape
    if not fits or given.max(initial=0) > MOST or given.min(initial=0) < -MOST - 1:
        raise ArgumentError(
            f"expected integers within 16 bits of shape (images, {', '.join(map(str, program.input_shape))}), got "
            f"{given.dtype!s} {given.shape}"
        )
    exponents = np.asarray(exponent)
    if (
        exponents.dtype.kind not in "iu"
        or exponents.shape not in ((), given.shape[:1])
        or np.abs(exponents).max() > 100
    ):
        raise ArgumentError(f"expected an exponent within -100 and 100, or one for each image, got {exponent!r}")
    exponents = np.broadcast_to(exponents.astype(np.int64), given.shape[:1])
    at_once = max(
        1,
        NUMBERS_AT_ONCE
        // max(item.stage.value.channels * math.prod(item.stage.value.source) for item in program.stages),
    )
    parts = [
        _Run(program, given[start : start + at_once].astype(np.int64), exponents[start : start + at_once]).outputs
        for start in range(0, max(1, len(given)), at_once)
    ]
    return tuple(
        IntegerOutput(np.concatenate([one.numbers for one in own]), np.concatenate([one.exponents for one in own]))
        for own in zip(*parts, strict=True)
    )


class _Run:
    def __init__(self, program: IntegerProgram, given: Ints, exponents: Ints) -> None:
        self.program, self.num = program, len(given)
        self.given = given, exponents
        self.maps: dict[int, tuple[Ints, Ints]] = {}
        self.norms: dict[int, Measured] = {}
        self.outputs: list[IntegerOutput] = []
        for item in program.stages:
            self._stage(item)

    def _map(self, found: Map) -> tuple[Ints, Ints]:
        owner = found.owner
        numbers, exponents = self.given if owner.is_input else self.maps[id(owner)]
        if found is owner and not owner.is_input:
            return numbers, exponents
        if not owner.is_input:  # as it lies in memory
            numbers = numbers.reshape(self.num, *owner.sizes).swapaxes(1, 2)
        numbers = numbers.reshape(self.num, -1)[:, found.first : found.first + found.floats]
        if found.is_in_planes:
            return numbers.reshape(self.num, *found.sizes), exponents
        return numbers.reshape(self.num, found.height, found.channels, found.width).swapaxes(1, 2), exponents

    def _stage(self, item: IntegerStage) -> None:
        stage = item.stage
        if stage.kind in (Kind.CONV, Kind.CONV_TRANSPOSED):
            self._write(item, *self._convolved(item))
        elif stage.kind == Kind.WHOLE:
            self._write(item, *self._whole(item))
        else:
            rows, exponents = self._rows(item)
            if stage.kind == Kind.OUTPUT:
                shape = self.program.output_shapes[len(self.outputs)]
                numbers = np.clip(rows, -MOST, MOST).reshape(self.num, *shape)
                self.outputs.append(IntegerOutput(numbers, exponents))
            elif stage.kind == Kind.PROJECT and stage.out is not None:
                self._write(item, self._projected(item, rows, stage.out.channels), exponents + item.in_shift - 14)
            elif stage.kind == Kind.MEAN:
                size = stage.value.size[0] * stage.value.size[1]
                halves = (size & -size).bit_length() - 1
                sums = divided(rows.sum((2, 3), keepdims=True), size >> halves)
                self._write(item, sums, exponents - halves)
            else:
                self._write(item, rows, exponents)

    def _projected(self, item: IntegerStage, rows: Ints, count: int) -> Ints:
        factors = cosines(rows.shape[1], count)
        if not item.in_shift:
            return _products("nchw,cb->nbhw", rows, factors)
        sums = np.zeros((self.num, count, *rows.shape[2:]), np.int64)
        for channel, factor in enumerate(factors):
            sums += rounded(rows[:, channel, None] * factor[:, None, None], item.in_shift)
        return sums

    def _write(self, item: IntegerStage, numbers: Ints, exponents: Ints) -> None:
        stored, shift = _stored(numbers, item.out_bits)
        if item.stage.kind == Kind.PERMUTE:
            stored = _permuted(item.stage, stored)
        self.maps[id(item.stage.out)] = stored, exponents + shift
        norm = item.stage.norm
        if norm is not None:
            is_narrow = self.program.is_narrow_norm(norm)
            self.norms[id(norm)] = measured(norm, stored, exponents + shift, is_narrow=is_narrow)

    def _convolved(self, item: IntegerStage) -> tuple[Ints, Ints]:
        stage, weight = item.stage, item.weight
        (leaf,) = stage.value.leaves()
        numbers, exponents = self._map(leaf.map)
        if weight is None:
            raise TypeError("a layer has a weight")
        factors = weight.core() if weight.weight.is_truncated else weight.dense()
        by, out = stage.window, stage.out
        maps, weights = (torch.from_numpy(part.astype(np.float64)) for part in (numbers, factors))  # exact below 2^53
        if stage.kind == Kind.CONV:
            sums = functional.conv2d(maps, weights, None, by.stride, by.padding, by.dilation, stage.groups)
        else:
            height, width = (0, 0) if out is None else (out.height, out.width)
            full = functional.conv_transpose2d(maps, weights.transpose(0, 1), None, by.stride, dilation=by.dilation)
            padded = functional.pad(full, (0, width + by.padding[1], 0, height + by.padding[0]))
            sums = padded[:, :, by.padding[0] :, by.padding[1] :][:, :, :height, :width]
        return _to_ints(sums), exponents + weight.exponent

    def _whole(self, item: IntegerStage) -> tuple[Ints, Ints]:
        weight = item.weight
        (leaf,) = item.stage.value.leaves()
        numbers, exponents = self._map(leaf.map)
        if weight is None:
            raise TypeError("a layer has a weight")
        for axis, bits in ((3, MAX_BITS), (2, item.row_bits)):
            size, count = weight.weight.sizes[axis], weight.weight.corner[axis]
            basis = cosines(size, count) if axis in weight.weight.axes else np.eye(size, dtype=np.int64) << 14
            basis = rounded(basis, weight.kernel_shift)
            numbers = _products("nchw,wk->nchk" if axis == 3 else "nchw,hk->nckw", numbers, basis)
            numbers, shift = _stored(numbers, bits)
            exponents = exponents + shift + weight.kernel_shift - 14
        sums = np.zeros((weight.weight.corner[0], self.num), np.int64)
        out, place_in, rows, columns = weight.index
        terms = numbers[:, place_in, rows, columns] * weight.coefficients()
        np.add.at(sums, out, terms.T)
        return sums.T[:, :, None, None], exponents + weight.exponent

    def _rows(self, item: IntegerStage) -> tuple[Ints, Ints]:
        """Expressions, changes of size and operations of a stage, (images, channels, height, width)."""
        value = item.stage.value
        units = self._exponents(item)
        made = [self._segment(item, segment, units) for segment in value.segments]
        stack, unit = [np.concatenate([_resampled(item, rows) for rows, _ in made], 1)], made[0][1]
        for op in value.ops:
            unit = _apply(item, op, stack, units, unit)
        return stack[0], units[0]

    def _segment(self, item: IntegerStage, segment: Segment, units: Ints) -> tuple[Ints, int]:
        """Return rows of a segment, and the number of their unit."""
        stack: list[Ints] = []
        skip, unit = False, 0
        for place, op in enumerate(segment.ops):
            if skip:
                skip = False
            elif op.leaf is not None:
                stack.append(self._leaf(item, segment, place, op.leaf, units[unit]))
                skip = linear_behind(segment, place) is not None
            elif op.kind == Operation.ZERO:
                stack.append(np.zeros((self.num, segment.channels, *item.stage.value.source), np.int64))
            else:
                unit = _apply(item, op, stack, units, unit)
        return stack[0], unit

    def _leaf(self, item: IntegerStage, segment: Segment, place: int, leaf: Leaf, unit: Ints) -> Ints:
        numbers, exponents = self._map(leaf.map)
        mix, mix_exponents = self._mix(item, segment, place, leaf)
        if leaf.is_narrow:
            sums = _products("nbhw,ncb->nchw", numbers, mix)
        else:
            sums = numbers[:, leaf.first : leaf.first + segment.channels] * mix[:, :, :1, None]
        power = exponents[:, None] + mix_exponents - unit[:, None]
        height, width = item.stage.value.source
        rows = np.zeros((self.num, segment.channels, height, width), np.int64)
        start = in_units(*self._factors(segment, place, leaf)[1], unit[:, None])[:, :, None, None]
        if leaf.norm is None:  # a measured norm comes before the zeros around the map, what is linear else behind them
            rows += start
        inside = rows[:, :, leaf.top : leaf.top + leaf.height, leaf.left : leaf.left + leaf.width]
        inside[...] = start + shifted(sums, power[:, :, None, None])
        return rows

    def _factors(self, segment: Segment, place: int, leaf: Leaf) -> tuple[tuple[Ints, Ints], tuple[Ints, Ints]]:
        """Return scale and shift of a leaf's channels, each (images, channels) of mantissas and of exponents."""
        if leaf.norm is not None:
            own = slice(leaf.first, leaf.first + segment.channels)
            found = self.norms[id(leaf.norm)]
            return (found.scale[0][:, own], found.scale[1][:, own]), (found.shift[0][:, own], found.shift[1][:, own])
        linear, shape = linear_behind(segment, place), (self.num, segment.channels)
        scale, shift = scale_of(linear, segment.channels), shift_of(linear, segment.channels)
        return (
            (np.broadcast_to(scale[0], shape), np.broadcast_to(scale[1], shape)),
            (np.broadcast_to(shift[0], shape), np.broadcast_to(shift[1], shape)),
        )

    def _mix(self, item: IntegerStage, segment: Segment, place: int, leaf: Leaf) -> tuple[Ints, Ints]:
        """Return the factors of a leaf, (images, channels, narrow ones or 1), and their exponents."""
        mantissas, exponents = self._factors(segment, place, leaf)[0]
        if not leaf.is_narrow:
            return mantissas[:, :, None], exponents
        shift = item.mix_shifts[id(segment.ops[place])]
        own = cosines(leaf.num_channels, leaf.map.channels)[leaf.first : leaf.first + segment.channels]
        return rounded(own * mantissas[:, :, None], shift), exponents - 14 + shift

    def _exponents(self, item: IntegerStage) -> Ints:
        """Return the least exponents of each image in which all rows have the stage's bits, (units, images)."""
        found = np.full((item.units.count, self.num), NO_EXPONENT, np.int64)
        value, first = item.stage.value, 0

        def make_room(bound: Bound, unit: int) -> None:
            wanted = np.where(bound.most > 0, bound.exponent_for(item.row_bits), NO_EXPONENT)
            np.maximum(found[unit], wanted.max(1), out=found[unit])

        for segment in value.segments:
            stack: list[Bound] = []
            skip, unit = False, 0
            for place, op in enumerate(segment.ops):
                if skip:
                    skip = False
                    continue
                if op.leaf is not None:
                    stack.append(self._leaf_bound(item, segment, place, op.leaf))
                    skip = linear_behind(segment, place) is not None
                elif op.kind == Operation.ZERO:
                    zeros = np.zeros((self.num, segment.channels), np.int64)
                    stack.append(Bound(zeros, zeros))
                else:
                    unit = _bound(op, stack, unit)
                if op.kind != Operation.UNIT:
                    make_room(stack[-1], unit)
            for op in value.ops:
                unit = _bound(op.of_channels(slice(first, first + segment.channels), {}), stack, unit)
                if op.kind != Operation.UNIT:
                    make_room(stack[-1], unit)
            first += segment.channels
        return np.where(found == NO_EXPONENT, 0, found)

    def _leaf_bound(self, item: IntegerStage, segment: Segment, place: int, leaf: Leaf) -> "Bound":
        numbers, exponents = self._map(leaf.map)
        largest = np.where(numbers < 0, -1 - numbers, numbers).max((2, 3)) + 1
        mix, mix_exponents = self._mix(item, segment, place, leaf)
        if leaf.is_narrow:
            most = (np.abs(mix) @ largest[:, :, None])[:, :, 0]
        else:
            most = largest[:, leaf.first : leaf.first + segment.channels] * np.abs(mix[:, :, 0])
        bound = Bound(most, exponents[:, None] + mix_exponents)
        return bound.plus(Bound.of(*self._factors(segment, place, leaf)[1]))


def _products(formula: str, numbers: Ints, factors: Ints) -> Ints:
    """Return sums of products by the formula, exact as they are below 2^53."""
    parts = (torch.from_numpy(part.astype(np.float64)) for part in (numbers, factors))
    return _to_ints(torch.einsum(formula, *parts))


def _to_ints(sums: torch.Tensor) -> Ints:
    made: Ints = np.rint(sums.numpy()).astype(np.int64)
    return made


def _stored(numbers: Ints, bits: int) -> tuple[Ints, Ints]:
    """Return numbers of at most so many bits, and how often those of each image were halved."""
    flat = numbers.reshape(len(numbers), -1)
    largest = np.where(flat < 0, -1 - flat, flat).max(1)
    shift = np.maximum(bits_of(largest) - bits, 0)
    return halved(numbers, shift.reshape(-1, *(1,) * (numbers.ndim - 1))), shift


def _bound(op: Op, stack: list[Bound], unit: int) -> int:
    """Do an operation on bounds (changes the stack). Return the number of the unit after it."""
    if op.kind == Operation.UNIT:
        return int(op.low)
    if op.kind == Operation.ADD:
        top = stack.pop()
        stack[-1] = stack[-1].plus(top)
    elif op.kind == Operation.MULTIPLY:
        top = stack.pop()
        stack[-1] = stack[-1].times(top)
    elif op.kind == Operation.SCALE:
        stack[-1] = stack[-1].through(op)
    elif op.kind in FUNCTIONS:
        stack[-1] = stack[-1].through_function(function_of(op))
    elif op.kind == Operation.CLAMP:
        stack[-1] = stack[-1].clamped(op)
    return unit


def _apply(item: IntegerStage, op: Op, stack: list[Ints], units: Ints, unit: int) -> int:
    """Do an operation on rows (changes the stack). Return the number of the unit after it."""
    each = units[:, :, None, None, None]
    if op.kind == Operation.UNIT:
        return int(op.low)
    if op.kind == Operation.ADD:
        top = stack.pop()
        most = 1 << item.row_bits
        # Errors of a product may be as large as its room, where its factors are large in other channels.
        stack[-1] = np.clip(stack[-1] + top, -most, most)
    elif op.kind == Operation.MULTIPLY:
        one, two = item.units.sources[id(op)]
        top = stack.pop()
        stack[-1] = saturated(stack[-1] * top, each[one] + each[two] - each[unit], 1 << item.row_bits)
    elif op.kind in FUNCTIONS:
        (source,) = item.units.sources[id(op)]
        function = function_of(op)
        stack[-1] = function.of(stack[-1], each[source], each[unit], item.row_bits)
    else:
        stack[-1] = _applied(op, stack[-1], units[unit], item.row_bits)
    return unit


def _applied(op: Op, rows: Ints, unit: Ints, row_bits: int) -> Ints:
    """Return rows after an operation of one argument."""
    channels = rows.shape[1]
    if op.kind == Operation.CLAMP:
        low, high = (in_units(*scaled(bound), unit)[:, None, None, None] for bound in (op.low, op.high))
        return np.minimum(np.maximum(rows, low), high)
    mantissas, exponents = (part[None, :, None, None] for part in scale_of(op, channels))
    made: Ints = shifted(rows * mantissas, exponents)
    if op.kind == Operation.LEAKY:
        return np.where(rows < 0, made, rows)
    start = in_units(*shift_of(op, channels), unit[:, None])[:, :, None, None]
    limited: Ints = np.clip(made + start, -(1 << row_bits), 1 << row_bits)
    return limited


def _permuted(stage: Stage, numbers: Ints) -> Ints:
    """Return (images, channels, rows, columns) as the map that a stage writes with its strides."""
    if stage.out is None:
        raise TypeError("a stage that writes a map")
    places = sum(
        np.arange(size).reshape([-1 if axis == own else 1 for axis in range(3)]) * stage.strides[own]
        for own, size in enumerate(numbers.shape[1:])
    )
    memory = np.zeros((len(numbers), stage.out.floats), np.int64)
    memory[:, np.ravel(places)] = numbers.reshape(len(numbers), -1)
    return memory.reshape(len(numbers), stage.out.height, stage.out.channels, stage.out.width).swapaxes(1, 2)


def _resampled(item: IntegerStage, rows: Ints) -> Ints:
    value = item.stage.value
    if value.resampling == Resampling.AS_IT_IS:
        return rows
    if value.resampling in (Resampling.PICK, Resampling.NEAREST):
        places = [_picked(item, axis) for axis in range(2)]
        return rows[:, :, places[0][:, None], places[1]]
    if value.resampling == Resampling.BILINEAR:
        return _enlarged(item, _enlarged(item, rows, 0), 1)
    by, (height, width) = value.window, value.size
    is_max = value.resampling == Resampling.MAX
    low = np.iinfo(np.int64).min
    total = np.full((*rows.shape[:2], height, width), low if is_max else 0, np.int64)
    counts = np.zeros((height, width), np.int64)
    for dy in range(by.kernel[0]):
        for dx in range(by.kernel[1]):
            at_y = np.arange(height) * by.stride[0] + dy - by.padding[0]
            at_x = np.arange(width) * by.stride[1] + dx - by.padding[1]
            there = ((at_y >= 0) & (at_y < rows.shape[2]))[:, None] & ((at_x >= 0) & (at_x < rows.shape[3]))
            part = rows[:, :, np.clip(at_y, 0, rows.shape[2] - 1)[:, None], np.clip(at_x, 0, rows.shape[3] - 1)]
            counts += there | value.flag
            if is_max:
                total = np.where(there, np.maximum(total, part), total)
            else:
                total += np.where(there, part, 0)
    return total if is_max else divided(total, counts)


def _enlarged(item: IntegerStage, rows: Ints, axis: int) -> Ints:
    """Return rows enlarged along one axis, between neighbours."""
    value = item.stage.value
    size, source, at = value.size[axis], value.source[axis], np.arange(value.size[axis])
    above, below = (at * (source - 1), size - 1) if value.flag else ((2 * at + 1) * source - size, 2 * size)
    above, below = np.maximum(above, 0), max(below, 1)
    part = (above % below * ONE // below).reshape((-1, 1) if axis == 0 else (1, -1))
    one = np.minimum(above // below, source - 1)
    first, second = (np.take(rows, place, axis + 2) for place in (one, np.minimum(one + 1, source - 1)))
    made: Ints = first + rounded((second - first) * part, 14)
    return made


def _picked(item: IntegerStage, axis: int) -> Ints:
    value = item.stage.value
    size, source = value.size[axis], value.source[axis]
    if value.resampling == Resampling.NEAREST:
        return np.arange(size) * source // size
    places = np.arange(size) * value.window.stride[axis] - value.window.padding[axis]
    if value.is_reflected:
        places = np.abs(places)
        return np.where(places < source, places, 2 * (source - 1) - places)
    return np.clip(places, 0, source - 1)
