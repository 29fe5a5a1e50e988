"""A program in integers: each layer reads one map of 16 bits as it is, and no sum overflows."""

import math
from dataclasses import dataclass, field, replace
from itertools import pairwise

import numpy as np

from tailcut.errors import StructureError
from tailcut.export_c.integer.arithmetic import (
    MOST_ROUNDED,
    MOST_SUM,
    ONE,
    Ints,
    cosines,
    least_shift,
    rounded,
    scaled,
    split_bits,
)
from tailcut.export_c.integer.functions import FUNCTIONS, function_of
from tailcut.export_c.integer.units import Units, with_units
from tailcut.export_c.integer.weights import LEAST_BITS, MAX_BITS, MOST, IntegerWeight, integer_weight, made_dense
from tailcut.export_c.program.program import (
    ADAPTIVE,
    Kind,
    Leaf,
    Map,
    Norm,
    Op,
    Operation,
    Program,
    Resampling,
    Segment,
    Stage,
    Value,
    of_leaf,
)
from tailcut.export_c.program.weights import Weight

# Bits of the rows of an expression where nothing multiplies them.
MOST_ROW_BITS = 24
# Sums of rows are doubled before they are divided.
SUM_BITS = 28
# Weights that would have fewer beside an input of 16 bits read a copy of it that has fewer.
LEAST_WEIGHT_BITS = 8


@dataclass(eq=False)
class IntegerStage:
    """A stage and the numbers that integers need; see `tailcut_integer_stage`.

    Attributes:
        stage: a layer of one map as it is, or expressions that are stored, projected, averaged or given out.
        weight: of a layer.
        row_bits: of the rows of expressions; of the projected input of a layer of the whole input.
        in_shift: of the products with cosines that a stage projects on.
        out_bits: of the numbers of the map that is written, their sign aside.
        units: exponents of the rows of expressions.
        mix_shifts: of a leaf's cosines times scale, by the identity of the operation.
    """

    stage: Stage
    weight: IntegerWeight | None = None
    row_bits: int = MAX_BITS
    in_shift: int = 0
    out_bits: int = 0
    units: Units = field(default_factory=Units)
    mix_shifts: dict[int, int] = field(default_factory=dict)


@dataclass(eq=False)
class IntegerProgram:
    """A network in integers for one size of input.

    Attributes:
        stages: in order.
        input_shape, output_shapes: as those of the program it is of.
        rounded_weights: names of tensors that were rounded to 16 bits.
        dense_weights: names of truncated tensors that lie in flash as dense ones.
        arena_numbers, rows_numbers: of 16 and of 32 bits; filled in by `memory.plan`.
    """

    stages: list[IntegerStage]
    input_shape: tuple[int, ...]
    output_shapes: tuple[tuple[int, ...], ...]
    rounded_weights: tuple[str, ...]
    dense_weights: tuple[str, ...] = ()
    arena_numbers: int = 0
    rows_numbers: int = 0

    def is_narrow_norm(self, norm: Norm) -> bool:
        """Tell if the channels of a measured batch norm are sums of cosines."""
        leaves = [leaf for item in self.stages for leaf in item.stage.value.leaves()]
        return any(leaf.is_narrow for leaf in leaves if leaf.norm is norm)


def integer_program(program: Program) -> IntegerProgram:
    """Return a program in integers.

    Raises:
        StructureError: a layer has no form in integers (the message names it).
    """
    for stage in program.stages:
        _check(stage)
    stages: list[Stage] = []
    spread: dict[int, Map] = {}
    for stage in program.stages:
        stages += _split(replace(stage, value=_reading_spread(stage.value, spread)), spread)
    # A weight that two layers share has the shifts of each.
    made = [_made(stage) for stage in stages]
    bits = _map_bits(made)
    for item in made:
        _set(item, bits)
    weights = [item.weight for item in made if item.weight is not None]
    rounded_ones = dict.fromkeys(item.weight.name for item in weights if item.is_rounded)
    truncated = {weight.name for stage in program.stages for weight in stage.weights if weight.is_truncated}
    dense = dict.fromkeys(item.weight.name for item in weights if not item.weight.is_truncated)
    names = tuple(rounded_ones), tuple(name for name in dense if name in truncated)
    return IntegerProgram(made, program.input_shape, program.output_shapes, *names)


def _made(stage: Stage) -> IntegerStage:
    if stage.weight is not None:
        return IntegerStage(stage, integer_weight(stage.weight))
    stage, units = with_units(stage)
    return IntegerStage(stage, units=units)


def _check(stage: Stage) -> None:
    """Raise `StructureError` for what integers have no form of."""
    wrong, where = _what_is_wrong(stage), stage.node
    if wrong is None:
        ops = [op for segment in stage.value.segments for op in segment.ops] + [*stage.value.ops]
        wrong, where = _wrong_function(ops), f"before {stage.node}"
    if wrong is not None:
        raise StructureError(f"{where}: integers have no form of {wrong}; export with the arithmetic float32")


def _what_is_wrong(stage: Stage) -> str | None:
    if stage.kind in (Kind.SOFTMAX, Kind.LOG_SOFTMAX):
        return "softmax (give out what it reads: the largest is the same)"
    if stage.kind == Kind.TABLE:
        return "a number for each place"
    if stage.kind > Kind.SOFTMAX and stage.kind != Kind.PERMUTE:
        return stage.kind.name.lower().replace("_", " ")
    if stage.value.window.stride == ADAPTIVE:
        return "an adaptive pooling of which neither size divides the other"
    if stage.norm is not None and scaled(stage.norm.epsilon)[0] <= 0:
        return "batch norm by the input's own statistics without an epsilon"
    sizes = zip(stage.value.source, stage.value.size, strict=True)
    if stage.value.resampling == Resampling.BILINEAR and any(2 * one * two >= 1 << 32 for one, two in sizes):
        return "an enlargement of so many rows or columns"
    return None


def _wrong_function(ops: list[Op]) -> str | None:
    """Return what is wrong with a function of what a stage reads, if anything."""
    try:
        for op in ops:
            if op.kind in FUNCTIONS:
                function_of(op)
    except StructureError as error:
        return str(error)
    is_steep = any(op.kind == Operation.LEAKY and _largest(op) > 1 for op in ops)
    return "a leaky ReLU with a slope beyond -1 to 1" if is_steep else None


def _largest(op: Op) -> float:
    return float(np.abs(op.low if op.scale is None else op.scale).max())


def _reading_spread(value: Value, spread: dict[int, Map]) -> Value:
    """Return a value that reads what transposed convolutions have stored, in place of what they would spread."""
    leaves = {
        id(leaf): leaf if leaf.up is None else replace(leaf, map=spread[id(leaf.map)], up=None)
        for leaf in value.leaves()
    }

    def read(op: Op) -> Op:
        return op if op.leaf is None else replace(op, leaf=leaves[id(op.leaf)])

    segments = [Segment(segment.channels, tuple(map(read, segment.ops))) for segment in value.segments]
    return replace(value, segments=tuple(segments))


def _split(stage: Stage, spread: dict[int, Map]) -> list[Stage]:
    """Return stages whose layers read one map as it is; `spread` gets the outputs of transposed convolutions."""
    weight, value = stage.weight, stage.value
    if weight is None:
        return [stage]
    if stage.kind == Kind.PROJECT and stage.out is not None:
        rows, columns = weight.sizes[2:]
        out = spread[id(stage.out)] = Map(weight.corner[0], value.size[0] * rows, value.size[1] * columns)
        window = replace(stage.window, kernel=(rows, columns), stride=(rows, columns))
        stage = replace(stage, kind=Kind.CONV_TRANSPOSED, out=out, window=window)
    if weight.is_truncated and (stage.groups > 1 or stage.kind == Kind.FLAT):
        weight = made_dense(weight, keeps_out=stage.groups == 1)
    if stage.kind == Kind.FLAT:
        sizes = weight.sizes[0], value.channels, *value.size
        weight = replace(weight, sizes=sizes, corner=sizes)
        stage = replace(stage, kind=Kind.CONV, window=replace(stage.window, kernel=value.size))
    before: list[Stage] = []
    if weight.is_truncated and weight.is_narrow_in and weight.sizes[1] > 1:
        projected = Map(weight.corner[1], *value.size)
        before = [Stage(Kind.PROJECT, value, projected, node=stage.node)]
        value = of_leaf(Leaf(projected, weight.corner[1], *value.size))
    elif not _is_direct(value) or _leaves_too_few_bits(stage, weight):
        stored = Map(value.channels, *value.size)
        before = [Stage(Kind.STORE, value, stored, node=stage.node)]
        value = of_leaf(Leaf(stored, value.channels, *value.size))
    return [*before, replace(stage, value=value, weight=weight)]


def _is_direct(value: Value) -> bool:
    """Tell if a value is one whole map as it lies in memory."""
    if not value.is_plain or len(value.segments) > 1 or len(value.segments[0].ops) > 1:
        return False
    leaf = value.segments[0].ops[0].leaf
    if leaf is None or leaf.norm is not None or leaf.is_narrow or (leaf.top, leaf.left, leaf.first) != (0, 0, 0):
        return False
    return (leaf.map.channels, leaf.map.height, leaf.map.width) == (value.channels, *value.size)


def _leaves_too_few_bits(stage: Stage, weight: Weight) -> bool:
    """Tell if a layer reads the input itself, and its 16 bits would leave the weights too few: one of many inputs."""
    is_input = any(leaf.map.owner.is_input for leaf in stage.value.leaves())
    return is_input and stage.kind != Kind.WHOLE and integer_weight(weight).spare_bits() < LEAST_WEIGHT_BITS


def _map_bits(stages: list[IntegerStage]) -> dict[int, int]:
    """Choose the bits of every map, so that those that read it share 31 between its numbers and their factors."""
    bits: dict[int, int] = {}
    for item in stages:
        stage = item.stage
        if stage.out is not None:
            most = MAX_BITS
            if stage.norm is not None:  # whose products of two numbers less their means have 32 bits
                most = min(MAX_BITS - 1, SUM_BITS - (stage.out.height * stage.out.width).bit_length())
            bits[id(stage.out)] = max(LEAST_BITS, most)
        for leaf in stage.value.leaves():
            owner = leaf.map.owner
            wanted = bits.setdefault(id(owner), MAX_BITS)
            if owner.is_input:
                continue
            if item.weight is not None and stage.kind != Kind.WHOLE:
                wanted = min(wanted, item.weight.wanted_bits())
            elif leaf.is_narrow:
                wanted = min(wanted, -(-split_bits(2.0 * leaf.num_narrow) // 2))
            bits[id(owner)] = max(LEAST_BITS, wanted)
    return bits


def _set(item: IntegerStage, bits: dict[int, int]) -> None:
    """Choose the shifts of a stage."""
    stage, weight = item.stage, item.weight
    item.out_bits = 0 if stage.out is None else bits[id(stage.out)]
    if weight is not None:
        (leaf,) = stage.value.leaves()
        if stage.kind == Kind.WHOLE:
            item.row_bits = weight.set_for_whole()
        else:
            weight.set_for_core(bits[id(leaf.map.owner)])
        return
    is_bilinear = stage.value.resampling == Resampling.BILINEAR  # differences of rows are multiplied
    is_short = is_bilinear or _multiplies_rows(stage.value) or stage.kind == Kind.OUTPUT
    most = MAX_BITS - is_bilinear if is_short else MOST_ROW_BITS
    if stage.value.resampling == Resampling.AVERAGE:
        most = min(most, SUM_BITS - math.prod(stage.value.window.kernel).bit_length())
    if stage.kind == Kind.MEAN:
        most = min(most, SUM_BITS - math.prod(stage.value.size).bit_length())
    if stage.kind == Kind.PROJECT:
        most = min(most, 30 - 14)
        channels, products = stage.value.channels, 1 << (14 + most)
        found = least_shift(lambda shift: channels * ((products >> shift) + 1) <= MOST_SUM)
        item.in_shift = 0 if found is None else found
    if most < LEAST_BITS:
        raise StructureError(
            f"{stage.node}: {stage.value.channels} channels of {stage.value.size} are too many for sums of 32 bits; "
            "export with the arithmetic float32"
        )
    item.row_bits = most
    for segment in stage.value.segments:
        for place, op in enumerate(segment.ops):
            if op.leaf is not None and op.leaf.is_narrow:
                item.mix_shifts[id(op)] = _mix_shift(segment, place, bits[id(op.leaf.map.owner)])


def _multiplies_rows(value: Value) -> bool:
    kinds = [[op.kind for op in segment.ops] for segment in value.segments]
    normed = any(leaf.norm is not None for leaf in value.leaves())  # a linear operation behind it is its own
    behind = [kind for own in kinds for before, kind in pairwise(own) if before != Operation.LEAF or normed]
    behind += [op.kind for op in value.ops]
    multiplying = {Operation.LEAKY, Operation.UNIT}
    return (
        any(multiplying & {*own} for own in kinds)
        or Operation.UNIT in behind
        or Operation.SCALE in behind
        or Operation.LEAKY in behind
    )


def linear_behind(segment: Segment, place: int) -> Op | None:
    """Return the linear operation behind a leaf, which is done with it; None if there is none, or a measured one."""
    leaf = segment.ops[place].leaf
    if leaf is not None and leaf.norm is not None:
        return None
    following = segment.ops[place + 1 : place + 2]
    return following[0] if following and following[0].kind == Operation.SCALE else None


def scale_of(op: Op | None, channels: int) -> tuple[Ints, Ints]:
    """Return the scales of an operation for each channel, scaled; 1 for none."""
    if op is None:
        return np.full(channels, ONE), np.full(channels, -14)
    return scaled(np.broadcast_to(op.low if op.scale is None else op.scale, channels))


def shift_of(op: Op | None, channels: int) -> tuple[Ints, Ints]:
    """Return the shifts of an operation for each channel, scaled; 0 for none."""
    if op is None:
        return np.zeros(channels, np.int64), np.zeros(channels, np.int64)
    return scaled(np.broadcast_to(op.high if op.shift is None else op.shift, channels))


def mix_products(segment: Segment, place: int) -> Ints:
    """Return cosines times scale of a narrow leaf, the largest scale for measured ones, before their shift."""
    leaf = segment.ops[place].leaf
    if leaf is None:
        raise TypeError("a leaf is expected")
    own = cosines(leaf.num_channels, leaf.map.channels)[leaf.first : leaf.first + segment.channels]
    if leaf.norm is not None:
        return own * MOST
    return own * scale_of(linear_behind(segment, place), segment.channels)[0][:, None]


def _mix_shift(segment: Segment, place: int, bits: int) -> int:
    products = mix_products(segment, place)

    def fits(shift: int) -> bool:
        mix = np.abs(rounded(products, shift))
        return bool(mix.max() < 1 << 15 and int(mix.sum(1).max()) << bits <= MOST_ROUNDED)

    found = least_shift(fits)
    if found is None:
        raise StructureError("a map of too many narrow channels for sums of 32 bits")
    return found
