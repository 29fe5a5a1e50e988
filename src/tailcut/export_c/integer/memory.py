"""Places of a program's maps in the arena of 16-bit numbers, and what each stage needs for itself of both kinds."""

from tailcut.errors import StructureError
from tailcut.export_c.integer.program import IntegerProgram, IntegerStage
from tailcut.export_c.program.memory import MAX_ARENA, Buffer, give_place, stack_depth
from tailcut.export_c.program.program import Kind, Resampling

# Of a channel's batch norm: scale and shift, mantissa and exponent of each.
NORM_NUMBERS = 4


def plan(program: IntegerProgram) -> None:
    """Give every map and every stage's scratch its place; fills in the program.

    Raises:
        StructureError: it would be more memory than the offsets in C can tell.
    """
    last: dict[int, int] = {}
    for number, item in enumerate(program.stages):
        for leaf in item.stage.value.leaves():
            last[id(leaf.map.owner)] = number
            if leaf.norm is not None:
                last[id(leaf.norm)] = number
    buffers = [Buffer(num_exponents(program), 0, len(program.stages), [])]
    for number, item in enumerate(program.stages):
        scratch = max(scratch_numbers(item), measured_numbers(program, item))
        buffers.append(Buffer(scratch, number, number, [item.stage]))
        out, norm = item.stage.out, item.stage.norm
        if norm is not None:
            buffers.append(Buffer(NORM_NUMBERS * norm.channels, number, last.get(id(norm), number), [norm]))
        if out is not None:
            out.row_stride = out.channels * out.width
            buffers.append(Buffer(out.floats, number, last.get(id(out), number), [out]))
    placed: list[Buffer] = []
    for buffer in [buffers[0], *sorted(buffers[1:], key=lambda item: -item.floats)]:
        give_place(buffer, placed)
        placed.append(buffer)
    program.arena_numbers = max(buffer.offset + buffer.floats for buffer in placed)
    program.rows_numbers = max(max(row_numbers(item), measured_rows(program, item)) for item in program.stages)
    if program.arena_numbers > MAX_ARENA:
        raise StructureError(
            f"the network needs {2 * program.arena_numbers:,} bytes for one input, C code has at most "
            f"{2 * MAX_ARENA:,}; give a smaller input"
        )


def num_exponents(program: IntegerProgram) -> int:
    """Count the exponents that the arena begins with: of the input, of the map of each stage."""
    return 1 + len(program.stages)


def mix_numbers(item: IntegerStage) -> int:
    """Factors of one channel, at most."""
    return max([1, *(leaf.num_narrow for leaf in item.stage.value.leaves())])


def scratch_numbers(item: IntegerStage) -> int:
    """Count the numbers of 16 bits that a stage takes for itself, as `run_stage` of `tailcut_run_integer.c` does."""
    stage, value = item.stage, item.stage.value
    weight = None if item.weight is None else item.weight.weight
    if weight is not None:
        (_, num_in, rows, columns), (height, width) = weight.corner, weight.sizes[2:]
        made = rows * height + columns * width
        cosines = max(rows * height + height + 1, made + width + 1)  # with the table that they are made of
        if stage.kind == Kind.WHOLE:
            return max(cosines, made + num_in * columns * (height + rows))
        products = num_in * weight.taps
        return weight.corner[0] * products + cosines if weight.is_truncated else products
    counts = [mix_numbers(item)]
    for leaf in value.leaves():
        counts.append(leaf.map.channels + (leaf.num_channels + 1 if leaf.is_narrow else 0))
    if stage.kind == Kind.PROJECT and stage.out is not None:
        counts.append(value.channels + 1 + stage.out.channels)
    return sum(counts)


def measured_numbers(program: IntegerProgram, item: IntegerStage) -> int:
    """Count the numbers of 16 bits that `measure` takes after a stage."""
    norm, out = item.stage.norm, item.stage.out
    if norm is None or out is None:
        return 0
    return out.channels + (norm.channels + 1 if program.is_narrow_norm(norm) else 0)


def measured_rows(program: IntegerProgram, item: IntegerStage) -> int:
    """Count the numbers of 32 bits that `measure` takes after a stage."""
    norm, out = item.stage.norm, item.stage.out
    if norm is None or out is None:
        return 0
    return out.channels + (out.channels**2 if program.is_narrow_norm(norm) else out.channels)


def row_numbers(item: IntegerStage) -> int:
    """Count the numbers of 32 bits that a stage takes."""
    stage, value, out = item.stage, item.stage.value, item.stage.out
    if item.weight is not None and stage.kind != Kind.WHOLE and out is not None:
        return out.width
    if stage.kind == Kind.WHOLE and out is not None and item.weight is not None:
        return max(out.channels, item.weight.weight.corner[3])
    width = value.source[1]
    count = stack_depth(value.segments) * width + value.size[1]
    count += 0 if value.resampling == Resampling.AS_IT_IS else 2 * width
    return count + (out.channels * value.size[1] if stage.kind == Kind.PROJECT and out is not None else 0)
