"""Places of a program's maps in the arena, and the memory that each stage needs for itself."""

import math
from dataclasses import dataclass

from tailcut.errors import StructureError
from tailcut.export_c.program.program import (
    OF_TWO,
    Kind,
    Leaf,
    Map,
    Norm,
    Operation,
    Program,
    Recurrence,
    Resampling,
    Segment,
    Stage,
    Table,
)
from tailcut.export_c.program.weights import Weight

MAX_ARENA = (1 << 31) - 1
# Channels that are made before they are projected; of maps of one number.
CHANNELS_AT_ONCE = 4
VECTOR = 16
# Rows of factors of a kernel's columns, and a sum.
COLUMN_LINES = 5
# Of a prepared buffer: which network it is of.
HEAD_FLOATS = 2
# Of a coefficient whose axes are all projected: its value and two places.
TERM_FLOATS = 3
# Parts in which a convolution makes its output at most: each costs time.
MAX_PARTS = 4


def plan(program: Program) -> None:
    """Give every map, every measured norm and every stage's scratch its place; fills in the program.

    Raises:
        StructureError: it would be more memory than the offsets in C can tell.
    """
    _place_all(program)
    for stage in program.stages:
        _make_parts(program, stage)
    program.prepared_floats = HEAD_FLOATS + sum(map(prepared_floats, program.stages))
    if program.arena_floats > MAX_ARENA:
        raise StructureError(
            f"the network needs {4 * program.arena_floats:,} bytes for one input, C code has at most "
            f"{4 * MAX_ARENA:,}; give a smaller input"
        )


def _place_all(program: Program) -> None:
    placed: list[Buffer] = []
    for buffer in sorted(_buffers(program), key=lambda item: -item.floats):
        give_place(buffer, placed)
        placed.append(buffer)
    program.arena_floats = max((buffer.offset + buffer.floats for buffer in placed), default=0)


def _make_parts(program: Program, stage: Stage) -> None:
    """Let a convolution make some outputs at a time if its core is larger than all else, where that saves memory.

    Each part decodes all coefficients and projects the input anew.
    """
    weight, before = stage.weight, program.arena_floats
    if stage.kind != Kind.CONV or weight is None or not weight.is_truncated or stage.groups > 1:
        return
    core = stage.num_at_once * weight.floats_per_output
    if 2 * core <= before:
        return
    parts = min(MAX_PARTS, -(-core // (before - core)))
    stage.part = -(-stage.num_at_once // parts)
    _place_all(program)
    if program.arena_floats >= before:
        stage.part = 0
        _place_all(program)


@dataclass(eq=False)
class Buffer:
    """Numbers that need a place from one stage to another.

    Attributes:
        floats: how many.
        first, last: the stages.
        owners: what is told its place.
        offset: the place.
    """

    floats: int
    first: int
    last: int
    owners: list[Map | Norm | Stage]
    offset: int = 0


def _buffers(program: Program) -> list[Buffer]:
    """All that needs memory, with the first and the last stage that uses it."""
    last: dict[int, int] = {}
    for place, stage in enumerate(program.stages):
        for leaf in stage.value.leaves():
            last[id(leaf.map.owner)] = place
            if leaf.norm is not None:
                last[id(leaf.norm)] = place
    buffers: list[Buffer] = []
    of_map: dict[int, Buffer] = {}
    for place, stage in enumerate(program.stages):
        buffers.append(Buffer(scratch_floats(stage), place, place, [stage]))
        if stage.norm is not None:
            buffers.append(Buffer(2 * stage.norm.channels, place, last.get(id(stage.norm), place), [stage.norm]))
        if stage.out is None:
            continue
        own_last = last.get(id(stage.out), place)
        same = _replaced(stage, place, last)
        if same is not None and not _is_seen_otherwise(same, stage):
            buffer = of_map[id(same)]
            buffer.last = own_last
            buffer.owners.append(stage.out)
            stage.out.row_stride = same.row_stride
        else:
            stage.out.row_stride = stage.out.channels * stage.out.width
            buffer = Buffer(stage.out.floats, place, own_last, [stage.out])
            buffers.append(buffer)
        of_map[id(stage.out)] = buffer
    return buffers


def _is_seen_otherwise(found: Map, stage: Stage) -> bool:
    """Return whether the stage reads the map's numbers through a view too, at other places than its own."""
    return any(leaf.map is not found and leaf.map.owner is found for leaf in stage.value.leaves())


def _replaced(stage: Stage, place: int, last: dict[int, int]) -> Map | None:
    """Return a map that the stage reads row by row for the last time, so that its output may take the same rows.

    An output row is written after all input rows up to the same one were read.
    """
    out, window = stage.out, stage.window
    if stage.may_replace and out is not None and not out.is_viewed:
        return _rewritten(stage, out, place, last)
    if stage.kind != Kind.CONV or out is None or out.is_viewed or stage.value.resampling != Resampling.AS_IT_IS:
        return None
    if stage.part or window.stride != (1, 1) or window.padding[0] > (window.kernel[0] - 1) * window.dilation[0]:
        return None
    for leaf in stage.value.leaves():
        found = leaf.map
        fits = (found.height, found.width) == (out.height, out.width) and out.channels <= found.channels
        is_whole = leaf.up is None and leaf.top == 0 and not found.is_input and found.view_of is None
        if fits and is_whole and last[id(found)] == place:
            return found
    return None


def _rewritten(stage: Stage, out: Map, place: int, last: dict[int, int]) -> Map | None:
    """Return the smallest map, read for the last time, each number of which is read where the stage writes it."""
    value, found = stage.value, {}
    for leaf in value.leaves():
        map_ = leaf.map
        is_own = not map_.is_input and map_.view_of is None and map_.sizes == out.sizes
        if value.is_plain and is_own and last[id(map_)] == place:
            found[id(map_)] = map_
    first = 0
    for segment in value.segments:
        for leaf in segment.leaves():
            is_at_place = (leaf.first, leaf.top, leaf.left, leaf.up, leaf.is_narrow) == (first, 0, 0, None, False)
            if not is_at_place:
                found.pop(id(leaf.map), None)
        first += segment.channels
    return min(found.values(), key=lambda one: one.row_stride, default=None)


def give_place(buffer: Buffer, placed: list[Buffer]) -> None:
    """Give a buffer the lowest place that no other of the same time has."""
    others = sorted(
        (other for other in placed if other.first <= buffer.last and buffer.first <= other.last),
        key=lambda item: item.offset,
    )
    offset = 0
    for other in others:
        if offset + buffer.floats <= other.offset:
            break
        offset = max(offset, other.offset + other.floats)
    buffer.offset = offset
    for owner in buffer.owners:
        if isinstance(owner, Stage):
            owner.scratch_offset = offset
        else:
            owner.offset = offset


class _Bump:
    """Memory that is taken one after the other, as the C program does."""

    def __init__(self) -> None:
        self.used = 0
        self.peak = 0

    def take(self, floats: int) -> None:
        self.used += floats
        self.peak = max(self.peak, self.used)

    def take_core(self, weight: Weight, num_outputs: int, *, is_wide: bool = False) -> None:
        """Take the core of some outputs, and for a while the kernel's cosines, and the narrow core of wide ones."""
        self.take(num_outputs * weight.floats_per_output)
        narrow = weight.sizes[0] + 1 + weight.corner[0] * weight.floats_per_output if is_wide else 0
        self.peak = max(self.peak, self.used + narrow + sum(2 * size + 1 for size in weight.sizes[2:]))


def mix_floats(stage: Stage) -> int:
    """Factors of one channel: of the leaves, of the layer's input, of a norm."""
    channels = CHANNELS_AT_ONCE if _projects_rows(stage) and not _reads_vectors(stage) else 1
    counts = [channels * leaf.num_narrow for leaf in stage.value.leaves()]
    weight = stage.weight
    if weight is not None and weight.is_truncated:
        num = CHANNELS_AT_ONCE if stage.kind == Kind.WHOLE and _reads_vectors(stage) else 1
        counts.append(num * weight.corner[1] + (weight.corner[0] if stage.groups > 1 else 0))
    if stage.norm is not None and stage.out is not None:
        counts.append(stage.out.channels)
    if stage.table is not None and stage.table.weight.is_truncated:
        counts += [*stage.table.weight.corner[:2]]
    if stage.recurrence is not None:
        counts += [*stage.recurrence.of_input.corner[:2], *stage.recurrence.of_state.corner[:2]]
    return max([0, *counts])


def stack_depth(segments: tuple[Segment, ...]) -> int:
    """Rows on the stack but the lowest."""
    deepest = 1
    for segment in segments:
        depth = 0
        for op in segment.ops:
            depth += op.kind in (Operation.LEAF, Operation.ZERO)
            deepest = max(deepest, depth)
            depth -= op.kind in OF_TWO
    return deepest - 1


def scratch_floats(stage: Stage) -> int:
    """Count the floats that a stage takes for itself, as `run_stage` of `tailcut_run.c` does."""
    bump, value, weight = _Bump(), stage.value, stage.weight
    width = value.size[1]
    channels = VECTOR if _reads_vectors(stage) else CHANNELS_AT_ONCE if _projects_rows(stage) else 1
    bump.take(mix_floats(stage))
    bump.take(channels * stack_depth(value.segments) * value.source[1])
    bump.take(0 if value.resampling == Resampling.AS_IT_IS else 2 * channels * value.source[1])
    bump.take(channels * width)
    if weight is not None and _projects_rows(stage) and stage.kind != Kind.WHOLE:
        bump.take(CHANNELS_AT_ONCE * weight.corner[1])
    for leaf in value.leaves():
        _take_leaf(bump, leaf)
    if weight is not None:
        _take_weight(bump, stage, weight)
    if stage.recurrence is not None:
        _take_recurrence(bump, stage, stage.recurrence)
    if stage.table is not None:
        _take_table(bump, stage.table)
    if stage.attention is not None:
        bump.take(stage.value.size[0] + stage.attention.values)
    if stage.norm is None or stage.out is None:
        return bump.peak
    own, count = _Bump(), stage.out.channels
    own.take(mix_floats(stage) + count)
    if weight is not None and weight.is_narrow_out and stage.groups == 1:
        own.take(weight.sizes[0] + 1 + count * count)
    return max(bump.peak, own.peak)


def prepared_floats(stage: Stage) -> int:
    """Count the floats that a stage has in a prepared buffer, as `keep` of `tailcut_run_machine.h` gives them."""
    weight, ups = stage.weight, [leaf.up for leaf in stage.value.leaves() if leaf.up is not None]
    floats = sum(leaf.num_channels * leaf.num_narrow for leaf in stage.value.leaves())
    floats += sum(up.corner[0] * up.floats_per_output for up in ups)
    if stage.recurrence is not None:
        floats += sum(map(_prepared_matrix, (stage.recurrence.of_input, stage.recurrence.of_state)))
    if stage.table is not None:
        floats += _prepared_matrix(stage.table.weight)
    if weight is None or stage.out is None:
        return floats
    if not weight.is_truncated:
        return floats + (0 if weight.stored.is_float32 else len(weight.numbers))
    if stage.groups > 1:
        return floats + stage.out.channels * weight.sizes[1] * weight.taps
    if weight.is_narrow_in:
        floats += weight.sizes[1] * weight.corner[1]
    if stage.kind == Kind.PROJECT:
        return floats
    if stage.kind == Kind.WHOLE:
        kernel = sum(size * count for size, count in zip(weight.sizes[2:], weight.corner[2:], strict=True))
        return floats + kernel + TERM_FLOATS * len(weight.numbers)
    return floats + stage.out.channels * weight.floats_per_output


def _prepared_matrix(weight: Weight) -> int:
    """Count the floats of a recurrent layer's weight, or of a table, in a prepared buffer."""
    if not weight.is_truncated:
        return 0 if weight.stored.is_float32 else len(weight.numbers)
    narrow = zip((weight.is_narrow_out, weight.is_narrow_in), weight.sizes, weight.corner, strict=False)
    return weight.corner[0] * weight.corner[1] + sum(size * count for is_narrow, size, count in narrow if is_narrow)


def _projects_rows(stage: Stage) -> bool:
    """Tell if a stage projects rows on cosines, some channels at a time."""
    weight = stage.weight
    is_narrow = weight is not None and weight.is_truncated and weight.is_narrow_in and stage.groups == 1
    return is_narrow and stage.kind in (Kind.CONV, Kind.CONV_TRANSPOSED, Kind.PROJECT, Kind.WHOLE)


def _reads_vectors(stage: Stage) -> bool:
    """Tell if all maps that a stage reads are of one column, at their place, with channels side by side."""
    value = stage.value
    is_plain = value.resampling == Resampling.AS_IT_IS and value.source[1] == 1
    places = {(leaf.height, leaf.width, leaf.top, leaf.left, leaf.map.channel_stride) for leaf in value.leaves()}
    return is_plain and places <= {(value.source[0], 1, 0, 0, 1)} and all(leaf.up is None for leaf in value.leaves())


def _take_leaf(bump: _Bump, leaf: Leaf) -> None:
    if leaf.is_narrow:
        bump.take(leaf.num_channels + 1)
    if leaf.up is not None:
        if leaf.up.is_truncated:
            bump.take_core(leaf.up, leaf.up.corner[0])
        bump.take(leaf.up.corner[0] * leaf.width)


def _take_weight(bump: _Bump, stage: Stage, weight: Weight) -> None:
    width = stage.value.size[1]
    is_narrow = weight.is_truncated and weight.is_narrow_in
    if is_narrow:
        bump.take(weight.sizes[1] + 1)
    if stage.kind not in (Kind.PROJECT, Kind.WHOLE):
        if weight.is_truncated:
            bump.take_core(weight, stage.num_at_once, is_wide=stage.is_pooled and weight.is_narrow_out)
        elif not weight.stored.is_float32 and stage.kind != Kind.FLAT:
            bump.take(weight.floats_per_output)
    if stage.kind == Kind.WHOLE:
        bump.take(math.prod(weight.corner[1:]) + sum(stage.value.size) + 2)
        bump.take(COLUMN_LINES * weight.corner[3])
    window = stage.window
    reach = (window.kernel[0] - 1) * window.dilation[0]
    if stage.kind == Kind.CONV:
        bump.take((reach + 1) * (stage.value.channels if stage.groups > 1 else weight.corner[1]) * width)
        if stage.is_pooled and stage.out is not None:
            bump.take(stage.out.width * stage.pool[1])
        if stage.groups > 1 and weight.is_truncated:
            bump.take(weight.sizes[1] * weight.taps)
            bump.take(weight.sizes[0] + 1 if weight.is_narrow_out else 0)
    elif stage.kind == Kind.CONV_TRANSPOSED:
        bump.take((reach // window.stride[0] + 1) * weight.corner[1] * width)
    elif stage.kind == Kind.FLAT and is_narrow:
        bump.take(weight.corner[1])


def _take_recurrence(bump: _Bump, stage: Stage, recurrence: Recurrence) -> None:
    """Take what `recur` of `tailcut_run_recurrent.h` does."""
    hidden, num_sums = recurrence.of_state.sizes[1], recurrence.of_state.sizes[0]
    most = 0
    for weight in (recurrence.of_input, recurrence.of_state):
        if not weight.is_truncated:
            continue
        narrow = _take_matrix(bump, weight)
        most = max(most, sum(count for count, is_narrow in zip(weight.corner[1::-1], narrow, strict=True) if is_narrow))
    bump.take(stage.value.channels + 2 * hidden + num_sums * (2 if stage.kind == Kind.GRU else 1) + most)


def _take_matrix(bump: _Bump, weight: Weight) -> tuple[bool, bool]:
    """Take what `start_matrix` of a truncated weight does; return whether its inputs and outputs are narrow."""
    bump.take_core(weight, weight.corner[0])
    narrow = weight.is_narrow_in, weight.is_narrow_out
    bump.take(sum(size + 1 for size, is_narrow in zip(weight.sizes[1::-1], narrow, strict=True) if is_narrow))
    return narrow


def _take_table(bump: _Bump, table: Table) -> None:
    """Take what `add_table` of `tailcut_run_attention.h` does."""
    if table.weight.is_truncated:
        _take_matrix(bump, table.weight)
        bump.take(table.weight.corner[1])
