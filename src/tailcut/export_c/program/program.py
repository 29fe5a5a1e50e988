"""A network as a C program runs it: passes over rows, whose inputs are expressions of maps in memory.

`runtime/tailcut_run.h` has the same structures; `memory` gives the maps their places, `writing/` writes them down.
"""

from __future__ import annotations

import enum
import math
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

from tailcut.export_c.program.weights import Floats, Weight

MAX_LEAVES = 8


class Kind(enum.IntEnum):
    """Ways in which a stage treats its input."""

    CONV = 0
    CONV_TRANSPOSED = 1
    FLAT = 2
    WHOLE = 3
    PROJECT = 4
    STORE = 5
    MEAN = 6
    OUTPUT = 7
    SOFTMAX = 8
    LOG_SOFTMAX = 9
    SOFTMAX_OF_PLACES = 10
    LAYER_NORM = 11
    RMS_NORM = 12
    GROUP_NORM = 13
    PERMUTE = 14
    GRU = 15
    LSTM = 16
    RNN_TANH = 17
    RNN_RELU = 18
    TABLE = 19
    ATTENTION = 20


class Resampling(enum.IntEnum):
    """A change of the input's size."""

    AS_IT_IS = 0
    MAX = 1
    AVERAGE = 2
    PICK = 3
    NEAREST = 4
    BILINEAR = 5


class Operation(enum.IntEnum):
    """A step of an expression."""

    LEAF = 0
    ZERO = 1
    SCALE = 2
    CLAMP = 3
    ADD = 4
    MULTIPLY = 5
    LEAKY = 6
    SIGMOID = 7
    TANH = 8
    SILU = 9
    HARDSWISH = 10
    GELU = 11
    GELU_TANH = 12
    ELU = 13
    SOFTPLUS = 14
    MISH = 15
    UNIT = 16  # integers alone have these two
    FUNCTION = 17


ADAPTIVE = (0, 0)
"""The stride of pooling windows that follow from both sizes."""

OF_TWO = (Operation.ADD, Operation.MULTIPLY)


@dataclass(eq=False)
class Map:
    """Numbers (channels, height, width) in memory, channels of one row side by side.

    Attributes:
        view_of: the map whose numbers these are, with other sizes (that one is of one row, or of one channel).
        first: the place of the first number among those of `view_of`.
        is_viewed: whether another map is a view of it, so that its rows have to lie one after the other.
        offset, row_stride: filled in by `memory.plan`; in floats. An input whose channels are side by side, of one
            column, has its row stride from the start; so has a view whose channels of one row are side by side.
    """

    channels: int
    height: int
    width: int
    is_input: bool = False
    view_of: Map | None = None
    is_viewed: bool = False
    offset: int = -1
    row_stride: int = 0
    first: int = 0

    @property
    def channel_stride(self) -> int:
        """From a channel to the next."""
        return self.height * self.width if self.is_in_planes else self.width

    @property
    def is_in_planes(self) -> bool:
        """True for the caller's input and views, unless the channels of one row are side by side there too."""
        return (self.is_input or self.view_of is not None) and self.row_stride == 0

    def has_strides(self, strides: tuple[int, int, int]) -> bool:
        """Tell if channels, rows and columns are so far apart from one to the next."""
        row = self.width if self.is_in_planes else self.row_stride or self.channels * self.width
        found = zip((self.channel_stride, row, 1), strides, (self.channels, *self.size), strict=True)
        return all(own == wanted or size == 1 for own, wanted, size in found)

    @property
    def owner(self) -> Map:
        """The map that has the memory."""
        return self if self.view_of is None else self.view_of

    @property
    def is_planar(self) -> bool:
        """True if its numbers lie channel by channel, so that they may be seen with other sizes."""
        return self.is_in_planes or 1 in (self.channels, self.height)

    @property
    def size(self) -> tuple[int, int]:
        """Height and width."""
        return self.height, self.width

    @property
    def sizes(self) -> tuple[int, int, int]:
        """Channels, height and width."""
        return self.channels, self.height, self.width

    @property
    def floats(self) -> int:
        """Count of its numbers."""
        return self.channels * self.height * self.width


@dataclass(eq=False)
class Norm:
    """Batch norm by the statistics of the input itself: scales and shifts for each channel, measured by a stage."""

    channels: int
    gamma: Floats | None
    beta: Floats | None
    epsilon: float
    offset: int = -1


@dataclass(frozen=True, eq=False)
class Leaf:
    """A map as an expression reads it; see `tailcut_leaf`."""

    map: Map
    num_channels: int
    height: int
    width: int
    first: int = 0
    is_narrow: bool = False
    top: int = 0
    left: int = 0
    norm: Norm | None = None
    up: Weight | None = None

    @property
    def is_whole(self) -> bool:
        """True if it is a map of sums of nothing, as it lies in memory."""
        is_placed = (self.first, self.top, self.left) == (0, 0, 0) and self.norm is None and self.up is None
        same = (self.num_channels, self.height, self.width) == (self.map.channels, *self.map.size)
        return is_placed and same and not self.is_narrow

    @property
    def num_narrow(self) -> int:
        """Numbers that a channel is a sum of, 0 for whole maps."""
        if not self.is_narrow:
            return 0
        return self.map.channels if self.up is None else self.up.corner[0]


@dataclass(frozen=True, eq=False)
class Op:
    """A step of an expression. `scale` and `shift` are per channel, or None for `low` and `high` in all."""

    kind: Operation
    leaf: Leaf | None = None
    scale: Floats | None = None
    shift: Floats | None = None
    low: float = 1.0
    high: float = 0.0

    def of_channels(self, channels: slice, leaves: dict[tuple[int, int], Leaf]) -> Op:
        """Return the step for some of the channels; `leaves` are those made before, which are read once."""
        scale = None if self.scale is None else self.scale[channels]
        shift = None if self.shift is None else self.shift[channels]
        leaf = self.leaf
        if leaf is not None:
            made = replace(leaf, first=leaf.first + channels.start)
            leaf = leaves.setdefault((id(leaf), channels.start), made)
        return replace(self, scale=scale, shift=shift, leaf=leaf)


@dataclass(frozen=True, eq=False)
class Segment:
    """Some channels, and the operations that make them on a stack of rows."""

    channels: int
    ops: tuple[Op, ...]

    def leaves(self) -> list[Leaf]:
        """List the maps that are read."""
        return [op.leaf for op in self.ops if op.leaf is not None]


@dataclass(frozen=True)
class Window:
    """The kernel of a pooling or a layer, along both axes."""

    kernel: tuple[int, int] = (1, 1)
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int] = (0, 0)
    dilation: tuple[int, int] = (1, 1)


@dataclass(frozen=True, eq=False)
class Value:
    """Result of a node of the network: expressions, a change of size, further operations.

    Attributes:
        segments: its channels, on the grid `source`.
        source: height and width of the expressions.
        size: height and width after the change of size.
        resampling, window, flag: the change; `flag` counts padding in averages, aligns corners of bilinear maps,
            and reflects picked ones at the edge.
        ops: of one argument, after the change.
        is_flat: seen as one axis of channels, rows and columns.
    """

    segments: tuple[Segment, ...]
    source: tuple[int, int]
    size: tuple[int, int]
    resampling: Resampling = Resampling.AS_IT_IS
    window: Window = Window()
    flag: bool = False
    ops: tuple[Op, ...] = ()
    is_flat: bool = False

    @property
    def channels(self) -> int:
        """Of all segments."""
        return sum(segment.channels for segment in self.segments)

    @property
    def floats(self) -> int:
        """Numbers of the whole map."""
        return self.channels * self.size[0] * self.size[1]

    @property
    def is_plain(self) -> bool:
        """True if it is expressions alone, without a change of size."""
        return self.resampling == Resampling.AS_IT_IS and not self.ops

    @property
    def is_reflected(self) -> bool:
        """True if rows and columns around the map are those within, reflected at its edge."""
        return self.resampling == Resampling.PICK and self.flag

    @property
    def mixes_places(self) -> bool:
        """True if its one axis is not that of the channels alone."""
        return self.is_flat and self.size != (1, 1)

    def leaves(self) -> list[Leaf]:
        """List the maps that are read, each once."""
        return list({id(leaf): leaf for segment in self.segments for leaf in segment.leaves()}.values())

    def of_channels(self, begin: int, stop: int) -> Value:
        """Return some of the channels of a plain value."""
        segments, first = [], 0
        leaves: dict[tuple[int, int], Leaf] = {}
        for segment in self.segments:
            part = slice(max(begin - first, 0), min(stop - first, segment.channels))
            if part.start < part.stop:
                ops = tuple(op.of_channels(part, leaves) for op in segment.ops)
                segments.append(Segment(part.stop - part.start, ops))
            first += segment.channels
        return replace(self, segments=tuple(segments))

    def then(self, op: Op) -> Value:
        """Return the value with one more operation of one argument."""
        if not self.is_plain:
            return replace(self, ops=_joined(self.ops, op))
        segments, begin = [], 0
        for segment in self.segments:
            own = op.of_channels(slice(begin, begin + segment.channels), {})
            segments.append(Segment(segment.channels, _joined(segment.ops, own)))
            begin += segment.channels
        return replace(self, segments=tuple(segments))


def of_leaf(leaf: Leaf, *ops: Op) -> Value:
    """Return the value that reads a map."""
    size = leaf.top + leaf.height, leaf.left + leaf.width
    channels = leaf.num_channels
    return Value((Segment(channels, (Op(Operation.LEAF, leaf), *ops)),), size, size)


def whole_leaf(value: Value) -> Leaf | None:
    """Return the leaf of a value that is one whole map as it lies in memory, None for any other."""
    ops = value.segments[0].ops
    leaf = ops[0].leaf
    is_one = value.is_plain and len(value.segments) == 1 and len(ops) == 1 and leaf is not None
    return leaf if is_one and leaf is not None and leaf.is_whole else None


def joined_channels(values: list[Value]) -> Value:
    """Return the channels of plain values of one size, one behind the other."""
    return replace(values[0], segments=tuple(segment for value in values for segment in value.segments))


def _joined(ops: tuple[Op, ...], op: Op) -> tuple[Op, ...]:
    """With one more; two linear ones after another are one."""
    if not ops or op.kind != Operation.SCALE or ops[-1].kind != Operation.SCALE:
        return (*ops, op)
    before = ops[-1]
    one, two = (_linear(item) for item in (before, op))
    scale, shift = two[0] * one[0], two[0] * one[1] + two[1]
    return (
        *ops[:-1],
        Op(Operation.SCALE, None, _per_channel(scale), _per_channel(shift), _scalar(scale), _scalar(shift)),
    )


def _linear(op: Op) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    return (
        np.asarray(op.low if op.scale is None else op.scale, np.float64),
        np.asarray(op.high if op.shift is None else op.shift, np.float64),
    )


def _per_channel(values: npt.NDArray[np.float64]) -> Floats | None:
    return values.astype(np.float32) if values.ndim else None


def _scalar(values: npt.NDArray[np.float64]) -> float:
    return 0.0 if values.ndim else float(values)


@dataclass(frozen=True, eq=False)
class Recurrence:
    """Weights and biases of a recurrent layer, all gates one below the other.

    Attributes:
        of_input, of_state: weights (gates times hidden, inputs) and (gates times hidden, hidden).
        bias: of the input, or where both are always added their sum.
        state_bias: of a GRU's state.
        is_reversed: from the last step to the first.
    """

    of_input: Weight
    of_state: Weight
    bias: Floats | None = None
    state_bias: Floats | None = None
    is_reversed: bool = False


@dataclass(frozen=True, eq=False)
class Table:
    """Numbers for each place, which are added to a map once it is stored, or to the scores of attention.

    Attributes:
        weight: (rows, channels, 1, columns); of attention (tokens, tokens, 1, 1), or so for each head.
        first: the row of the map that the first of them is added to.
    """

    weight: Weight
    first: int = 0


@dataclass(frozen=True, eq=False)
class Attention:
    """What of the channels of a map are queries, keys and values; its rows are the tokens.

    Attributes:
        num_heads: each has so many of the channels of queries and keys, and of those of the values.
        keys: channels of the queries, and of the keys.
        values: channels of the values.
        is_causal: whether no token reads a later one.
    """

    num_heads: int
    keys: int
    values: int
    is_causal: bool = False


@dataclass(eq=False)
class Stage:
    """One pass over an input; see `tailcut_stage`.

    Attributes:
        pool: rows and columns of a convolution's output of which the largest number alone is stored.
        part: outputs that are made at a time; 0 for all.
        epsilon: of a norm that is done once its numbers are stored.
        strides: of a permutation, from a channel, a row and a column of its input to the next in its output.
        recurrence: of a recurrent layer.
        table: numbers for each place that are added; of attention to its scores.
        attention: of attention, whose output takes the place of its queries.
        may_replace: whether what is stored may take the rows of a map that is read for the last time.
    """

    kind: Kind
    value: Value
    out: Map | None = None
    weight: Weight | None = None
    window: Window = Window()
    groups: int = 1
    norm: Norm | None = None
    output_offset: int = 0
    scratch_offset: int = 0
    node: str = ""
    pool: tuple[int, int] = (1, 1)
    part: int = 0
    epsilon: float = 0.0
    strides: tuple[int, int, int] = (0, 0, 0)
    recurrence: Recurrence | None = None
    table: Table | None = None
    attention: Attention | None = None
    may_replace: bool = False

    @property
    def is_pooled(self) -> bool:
        """True if the largest numbers alone of the output are stored."""
        return self.pool != (1, 1)

    @property
    def weights(self) -> tuple[Weight, ...]:
        """The layer's weights, and those that spread the maps that it reads."""
        ups = [leaf.up for leaf in self.value.leaves()]
        both = (None, None) if self.recurrence is None else (self.recurrence.of_input, self.recurrence.of_state)
        table = None if self.table is None else self.table.weight
        return tuple(weight for weight in (self.weight, table, *both, *ups) if weight is not None)

    @property
    def num_at_once(self) -> int:
        """Outputs whose core is in memory."""
        if self.weight is None or self.out is None:
            return 0
        return self.part or (self.out.channels if self.groups == 1 else self.weight.corner[0])


@dataclass(eq=False)
class Program:
    """A network for one size of input.

    Attributes:
        stages: in order.
        input_shape: (channels, height, width), (channels, length), (length, channels), (height, width) or (features,).
        output_shapes: of all outputs, without the batch.
        arena_floats, prepared_floats: filled in by `memory.plan`.
    """

    stages: list[Stage] = field(default_factory=list)
    input_shape: tuple[int, ...] = ()
    output_shapes: tuple[tuple[int, ...], ...] = ()
    arena_floats: int = 0
    prepared_floats: int = 0

    @property
    def input_floats(self) -> int:
        """Count of the input's numbers."""
        return math.prod(self.input_shape)

    @property
    def output_floats(self) -> int:
        """Count of the numbers of all outputs."""
        return sum(map(math.prod, self.output_shapes))

    @property
    def can_run_in_place(self) -> bool:
        """True if the output may take the input's memory: no stage reads that after an output was begun."""
        kinds = [stage.kind for stage in self.stages]
        begun = kinds.index(Kind.OUTPUT) if Kind.OUTPUT in kinds else 0
        return not any(leaf.map.owner.is_input for stage in self.stages[begun:] for leaf in stage.value.leaves())
