"""Codecs 3 to 5, `quantized`: integers on lattices to bytes and back, by an adaptive binary range coder."""

import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, MutableSequence, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import numpy as np

from tailcut.compiling import is_installed
from tailcut.errors import CorruptFileError, LimitError, MissingExtraError
from tailcut.format.codecs.range_coder import closed, is_at_end, opened
from tailcut.format.quantized import loops as plain
from tailcut.format.quantized.levels import INITIAL_STOP, INITIAL_ZERO

EVEN, ALONG_AXES, DEPENDENT = NUMBERS = (3, 4, 5)
"""The codecs' numbers in the file: each tensor has one step; or steps may differ along its axes; or what a number can
be may depend on those before it as well."""

MAX_MAGNITUDE = (1 << (plain.LAST_BUCKET + 1)) - 1
"""The largest number, and the smallest below 0."""

COMPILED_FROM = 1 << 14
"""From so many numbers on, the compiled loops are worth their import."""

NUMBERS_PER_BYTE = 6144
"""More numbers than that a byte cannot hold: the least decision takes 0.0014 bits."""

MAX_INTEGERS = 1 << 16
"""The most whole numbers of type 11 in a file: they are read one by one."""

MAX_UNCOMPILED = 1 << 20
"""The most numbers that are read or written without numba: about four seconds (`python -m bench coding`)."""

NUM_TRANSFORMS = 4

ONE_ROW = 1 << 62
"""Length of a row that never ends."""

MAX_STEP = 400
"""Steps are 2^(-50) to 2^50."""

SHIFT = 2
"""Eighths of an octave that a shift of one is."""

ODD_LATER = 2
"""So many levels above that of the number is the first probability of 0 in an odd state, whose 0 is half as wide."""

LEAST_MEAN, APART = 2.0**-5, 0.75
"""What `expected_level` adds to mean magnitudes, and how much of what the places of a number say counts in it."""

_CHUNK = 4096
_BYTES_PER_NUMBER = 64  # never reached: 43 decisions of at most 10 bits
_PARAMETERS, (_WHOLE, _AXES, _SHIFT) = plain.PARAMETER_SETS[:4], plain.PARAMETER_SETS[4:]
_TRANSFORM, _COUNT = _PARAMETERS[0], _PARAMETERS[3]


@dataclass(frozen=True)
class Layout:
    """Layout of a tensor, known to a reader before its numbers.

    Attributes:
        key: tensors of one key (the last part of a name) follow one another's parameters.
        shape: of the tensor.
        size: how many numbers it has at most: its coefficients, or all.
        order: the places of its first n > 0 numbers where they are coefficients in order, and the sizes of a corner
            that holds them all: row-major positions in it, int64 (n,); None where they are all numbers in row-major
            order.
        is_integer: whole numbers, kept as they are.
    """

    key: str
    shape: tuple[int, ...]
    size: int
    order: Callable[[int], tuple[np.ndarray, tuple[int, ...]]] | None = None
    is_integer: bool = False

    @property
    def may_shift(self) -> bool:
        """Whether steps may differ along the axes, from codec 4 on."""
        return self.order is None and not self.is_integer and len(self.shape) > 1

    @property
    def row(self) -> int:
        """How many numbers a row has in the trellis of codec 5: all of them where they are in order or of one axis."""
        return max(1, math.prod(self.shape[1:])) if self.order is None and len(self.shape) > 1 else ONE_ROW


@dataclass
class Coded:
    """A tensor as whole numbers.

    Attributes:
        numbers: int64 (n,), the first n of the tensor; those behind are 0.
        transform: what turns them into the tensor, see `values`.
        step: the quantisation step is 2^(step / 8).
        offset: added to each number.
        bits: what they take in the payload, filled in by `encode` and `decode`.
        shifts: axis -> for each index along it by how many quarters of an octave the step is larger, int64.
        is_dependent: each number is one of those that the numbers before it in its row allow, see
            `loops.coded_number`.
    """

    numbers: np.ndarray
    transform: int = 0
    step: int = 0
    offset: int = 0
    bits: float = 0.0
    shifts: Mapping[int, np.ndarray] = field(default_factory=dict)
    is_dependent: bool = False


@dataclass
class _Memory:
    """Of the latest tensor of a key: transform, step, offset, count; axes; and the mean magnitude in 1 / 256."""

    parameters: list[int] = field(default_factory=lambda: [0, 0, 0, 0])
    axes: int = 0
    mean: int = 4 * plain.ONE


@dataclass
class _State:
    """Everything that a coder has learnt, and the loops that it uses."""

    codec: int
    loops: Any
    zeros: MutableSequence[int]
    seen: MutableSequence[int]
    coder: MutableSequence[int]
    keys: dict[str, _Memory] = field(default_factory=dict)
    latest: int = 0

    @property
    def is_compiled(self) -> bool:
        return self.loops is not plain

    def ints(self, values: Sequence[int] | np.ndarray) -> MutableSequence[int]:
        """As the loops take them."""
        if self.is_compiled:
            return np.ascontiguousarray(values, dtype=np.int64)  # type: ignore[return-value]
        return values.tolist() if isinstance(values, np.ndarray) else list(values)

    def bits(self) -> float:
        """Written or read so far."""
        return 8.0 * int(self.coder[2]) - math.log2(int(self.coder[1]))

    def memory(self, key: str) -> _Memory:
        return self.keys.setdefault(key, _Memory())


def codec_number(tensors: Iterable[Coded]) -> int:
    """Return the least codec that can write all these tensors."""
    needed = {DEPENDENT if tensor.is_dependent else ALONG_AXES if len(tensor.shifts) else EVEN for tensor in tensors}
    return max(needed, default=EVEN)


def encode(layouts: Sequence[Layout], tensors: Sequence[Coded]) -> bytes:
    """Return the payload of these tensors in their `codec_number`; sets the number of bits of each.

    Args:
        layouts: of the tensors.
        tensors: at most `size` numbers each, of magnitudes up to `MAX_MAGNITUDE`.
    """
    return Encoder(layouts, codec_number(tensors)).level(layouts, tensors)


def decode(payload: bytes, layouts: Sequence[Layout], codec: int = EVEN) -> list[Coded]:
    """Return the tensors of a payload.

    Args:
        payload: of the stream.
        layouts: of its tensors.
        codec: 3 to 5.

    Raises:
        CorruptFileError: it is not a payload of tensors of these layouts.
        LimitError: they have more whole numbers than are allowed.
        MissingExtraError: they have so many numbers that numba is needed.
    """
    return Decoder(layouts, codec).level(payload, layouts)


class Encoder:
    """Writes the levels of a file, the lowest first: each goes on with what those before it have taught the contexts.

    Args:
        layouts: of the tensors of the highest level.
        codec: of all levels, see `codec_number`.
    """

    def __init__(self, layouts: Sequence[Layout], codec: int = EVEN) -> None:
        self._state = _state(layouts, codec)

    def level(self, layouts: Sequence[Layout], tensors: Sequence[Coded], known: Sequence[int] = ()) -> bytes:
        """Return the payload of a level; sets the number of bits of each tensor, in this level.

        Args:
            layouts: of its tensors.
            tensors: their numbers, those of the levels below too.
            known: how many numbers of each of the first tensors the levels below have.
        """
        state = self._state
        state.coder = state.ints([0, 1 << 32, 0])
        buffer: Any = np.zeros(0, np.uint8) if state.is_compiled else bytearray()
        for layout, tensor, count in itertools.zip_longest(layouts, tensors, known):
            start = state.bits()
            buffer = _encode_tensor(state, buffer, layout, tensor, count)
            tensor.bits = state.bits() - start
        buffer = _with_room(state, buffer, 1)
        return closed(state.coder, buffer)


class Decoder:
    """Reads the levels of a file, the lowest first.

    Args:
        layouts: of the tensors of the highest level to be read.
        codec: of all levels.

    Raises:
        LimitError: they have more whole numbers than are allowed.
        MissingExtraError: they have so many numbers that numba is needed.
    """

    def __init__(self, layouts: Sequence[Layout], codec: int = EVEN) -> None:
        self._state = _state(layouts, codec)

    def level(self, payload: bytes, layouts: Sequence[Layout], below: Sequence[Coded] = ()) -> list[Coded]:
        """Return the tensors of a level, with the numbers and bits of the levels below.

        Args:
            payload: of the level.
            layouts: of its tensors.
            below: the first of these tensors, as the levels below have them.

        Raises:
            CorruptFileError: it is not a payload of tensors of these layouts.
        """
        state = self._state
        state.coder = state.ints(opened(payload))
        source: Any = np.frombuffer(payload, np.uint8) if state.is_compiled else payload
        most, tensors = NUMBERS_PER_BYTE * (len(payload) + 8), []
        for layout, lower in itertools.zip_longest(layouts, below):
            start = state.bits()
            tensor = _decode_tensor(state, source, layout, most, lower)
            most -= len(tensor.numbers) - (0 if lower is None else len(lower.numbers))
            most -= sum(map(len, tensor.shifts.values()))
            tensor.bits = state.bits() - start + (0 if lower is None else lower.bits)
            tensors.append(tensor)
        if not is_at_end(state.coder, payload):
            raise corrupt(f"its {len(payload)} bytes are not the code of any numbers of these tensors")
        return tensors


def corrupt(reason: str) -> CorruptFileError:
    """Return the error for a payload that breaks a rule."""
    return CorruptFileError(f"quantized payload: {reason}; the file is damaged, get a fresh copy of it")


def check_codable(num_numbers: int) -> None:
    """Raise `MissingExtraError` if so many numbers are coded by compiled loops alone, and numba is not installed."""
    if num_numbers > MAX_UNCOMPILED and not is_installed():
        raise MissingExtraError(f"coding {num_numbers:,} quantised numbers", "numba", "fast")


def _state(layouts: Sequence[Layout], codec: int) -> _State:
    num_integers = sum(layout.size for layout in layouts if layout.is_integer)
    if num_integers > MAX_INTEGERS:
        raise LimitError(f"{num_integers} whole numbers in the quantised payload, at most {MAX_INTEGERS} are allowed")
    num_numbers = sum(layout.size for layout in layouts)
    if codec >= ALONG_AXES:
        num_numbers += sum(sum(layout.shape) for layout in layouts if layout.may_shift)
    check_codable(num_numbers)
    loops = _compiled_loops() if num_numbers >= COMPILED_FROM and is_installed() else plain
    state = _State(codec, loops, [], [], [])
    zeros = [1 << 15] * plain.NUM_CONTEXTS
    for level, (zero, start) in enumerate(_initial_sets()):
        base = plain.SET_SIZE * level
        zeros[base] = zero
        for bucket in range(plain.LAST_BUCKET):
            zeros[base + 1 + bucket] = INITIAL_STOP[max(start - 2 * bucket, 0)]
    for level in range(plain.LEVELS):
        zeros[plain.SET_SIZE * level + plain.ODD_ZERO] = INITIAL_ZERO[min(level + ODD_LATER, plain.LEVELS - 1)]
    state.zeros, state.seen = state.ints(zeros), state.ints([8] * plain.NUM_CONTEXTS)
    return state


def _initial_sets() -> Iterator[tuple[int, int]]:
    """For each set the probability of zero, and the level whose buckets it begins with."""
    for level in range(plain.LEVELS):
        yield INITIAL_ZERO[level], level
    for level in (6, 13, 6, 6, 6, 6, 10):  # the sets of parameters, of whole numbers, of axes and shifts
        yield INITIAL_ZERO[level], level


@cache
def _compiled_loops() -> Any:
    from tailcut.format.quantized.compiled import loops  # imports numba

    return loops


def _encode_tensor(state: _State, buffer: Any, layout: Layout, tensor: Coded, known: int | None) -> Any:
    """Write a tensor; `known` numbers of it are in the levels below, None if it is not there."""
    numbers = tensor.numbers
    if layout.is_integer:
        for number in tensor.numbers.tolist():
            buffer = _put(state, buffer, _WHOLE, number - state.latest)
            state.latest = number
        return buffer
    memory, done = state.memory(layout.key), known or 0
    count = 0 if len(numbers) == layout.size else len(numbers) - done + 1
    transform = tensor.transform + (NUM_TRANSFORMS if tensor.is_dependent else 0)
    parameters = [transform, tensor.step, tensor.offset, count]
    for place in _PARAMETERS if known is None else (_COUNT,):
        number = parameters[place - _TRANSFORM]
        buffer = _put(state, buffer, place, number - memory.parameters[place - _TRANSFORM])
        memory.parameters[place - _TRANSFORM] = number
    if state.codec >= ALONG_AXES and layout.may_shift:
        buffer = _put_shifts(state, buffer, memory, tensor.shifts)
    index_of, model = _model(state, layout, len(numbers), memory.mean, is_dependent=tensor.is_dependent)
    _learn(state, numbers[:done], index_of, model)
    for start in range(done, len(numbers), _CHUNK):
        buffer = _with_room(state, buffer, _CHUNK)
        part, index = state.ints(numbers[start : start + _CHUNK]), index_of(start)
        state.loops.put_numbers(state.coder, buffer, state.zeros, state.seen, part, index, *model)
    memory.mean = _mean(model[-1], memory.mean)
    return buffer


def _decode_tensor(state: _State, payload: Any, layout: Layout, most: int, below: Coded | None) -> Coded:
    if layout.is_integer:
        return Coded(np.array(list(_decode_integers(state, payload, layout, most)), dtype=np.int64))
    memory = state.memory(layout.key)
    for place in _PARAMETERS if below is None else (_COUNT,):
        difference = int(state.loops.get_number(state.coder, payload, state.zeros, state.seen, place))
        memory.parameters[place - _TRANSFORM] += difference
    kind, step, offset, count = memory.parameters
    num_kinds = 2 * NUM_TRANSFORMS if state.codec == DEPENDENT else NUM_TRANSFORMS
    is_dependent, transform = kind >= NUM_TRANSFORMS, kind % NUM_TRANSFORMS
    if below is not None:
        is_dependent, transform, step, offset = below.is_dependent, below.transform, below.step, below.offset
    done = 0 if below is None else len(below.numbers)
    num = layout.size if count == 0 else done + count - 1
    if not done <= num <= layout.size or (count and num == layout.size):
        raise corrupt(f"{num} numbers of a tensor of {layout.size}")
    if abs(step) > MAX_STEP or not (below is not None or 0 <= kind < num_kinds):
        raise corrupt(f"transform {kind} and a step of 2^({step} / 8)")
    axes = _get_axes(state, payload, memory, layout)
    _check_claim(num - done + sum(layout.shape[axis] for axis in axes), most)
    shifts = _get_shifts(state, payload, layout, axes)
    numbers = np.zeros(num, np.int64)
    index_of, model = _model(state, layout, num, memory.mean, is_dependent=is_dependent)
    if below is not None:
        numbers[:done] = below.numbers
        _learn(state, below.numbers, index_of, model)
    for start in range(done, num, _CHUNK):
        part, index = state.ints(numbers[start : start + _CHUNK]), index_of(start)
        state.loops.get_numbers(state.coder, payload, state.zeros, state.seen, part, index, *model)
        numbers[start : start + _CHUNK] = part
    memory.mean = _mean(model[-1], memory.mean)
    return Coded(numbers, transform, step, offset, shifts=shifts, is_dependent=is_dependent)


def _put_shifts(state: _State, buffer: Any, memory: _Memory, shifts: Mapping[int, np.ndarray]) -> Any:
    axes = sum(1 << axis for axis in shifts)
    buffer = _put(state, buffer, _AXES, axes - memory.axes)
    memory.axes = axes
    for axis in sorted(shifts):
        for start in range(0, len(shifts[axis]), _CHUNK):
            buffer = _with_room(state, buffer, _CHUNK)
            part = state.ints(shifts[axis][start : start + _CHUNK])
            state.loops.put_alike(state.coder, buffer, state.zeros, state.seen, _SHIFT, part)
    return buffer


def _get_axes(state: _State, payload: Any, memory: _Memory, layout: Layout) -> list[int]:
    """Read the axes along which the steps of a tensor differ."""
    if state.codec < ALONG_AXES or not layout.may_shift:
        return []
    memory.axes += int(state.loops.get_number(state.coder, payload, state.zeros, state.seen, _AXES))
    if not 0 <= memory.axes < 1 << len(layout.shape):
        raise corrupt(f"steps along axes {memory.axes} of a tensor of {len(layout.shape)} axes")
    return [axis for axis in range(len(layout.shape)) if memory.axes >> axis & 1]


def _get_shifts(state: _State, payload: Any, layout: Layout, axes: Sequence[int]) -> dict[int, np.ndarray]:
    shifts = {}
    for axis in axes:
        found = state.ints(np.zeros(layout.shape[axis], np.int64))
        state.loops.get_alike(state.coder, payload, state.zeros, state.seen, _SHIFT, found)
        shifts[axis] = np.asarray(found, dtype=np.int64)
    return shifts


def _learn(state: _State, known: np.ndarray, index_of: Callable[[int], MutableSequence[int]], model: Any) -> None:
    """Take the numbers that the levels below have into what the others are expected to be."""
    for start in range(0, len(known), _CHUNK):
        part = state.ints(known[start : start + _CHUNK])
        state.loops.learn_numbers(part, index_of(start), *model)


def _decode_integers(state: _State, payload: Any, layout: Layout, most: int) -> Iterator[int]:
    _check_claim(layout.size, most)
    for _ in range(layout.size):
        state.latest += int(state.loops.get_number(state.coder, payload, state.zeros, state.seen, _WHOLE))
        yield state.latest


def _check_claim(num: int, most: int) -> None:
    if num > most:
        raise corrupt(f"it is too short for the {num} numbers of a tensor")


def _put(state: _State, buffer: Any, level: int, number: int) -> Any:
    buffer = _with_room(state, buffer, 1)
    state.loops.put_number(state.coder, buffer, state.zeros, state.seen, level, number)
    return buffer


def _with_room(state: _State, buffer: Any, count: int) -> Any:
    """Return the buffer, enlarged if `count` more numbers may not fit."""
    missing = state.coder[2] + _BYTES_PER_NUMBER * count - len(buffer)
    if missing <= 0:
        return buffer
    more = missing + len(buffer)
    return np.concatenate([buffer, np.zeros(more, np.uint8)]) if state.is_compiled else buffer + bytes(more)


def _model(
    state: _State, layout: Layout, num: int, mean: int, *, is_dependent: bool
) -> tuple[Callable[[int], MutableSequence[int]], tuple[MutableSequence[int], ...]]:
    """Return the `index` argument of `put_numbers` for the chunk that begins at a number, and the later arguments.

    Indices are made chunk by chunk: those of all numbers would take many times the memory of the numbers.
    """
    axes = [axis for axis, size in enumerate(layout.shape) if size > 1]
    # Only so far as the numbers reach: a long axis of which nothing is stored takes no memory.
    strides = [max(1, math.prod(layout.shape[axis + 1 :])) for axis in axes]  # a tensor may be empty
    sizes = [min(layout.shape[axis], -(-num // stride)) for axis, stride in zip(axes, strides, strict=True)]
    positions, corner = np.zeros(0, np.int64), layout.shape
    if layout.order is not None and num:
        positions, corner = layout.order(num)
        sizes = [min(corner[axis], num) for axis in axes]
    first = [sum(sizes[:place]) for place in range(len(sizes))]
    last = [start + size for start, size in zip(first, sizes, strict=True)]

    def index_of(start: int) -> MutableSequence[int]:
        if not len(positions):
            return state.ints(positions)
        index = np.unravel_index(positions[start : start + _CHUNK], corner) if axes else ()
        columns = [index[axis] + offset for axis, offset in zip(axes, first, strict=True)]
        return state.ints(np.stack(columns, axis=1).reshape(-1) if columns else np.zeros(1, np.int64))

    total = [0] * sum(sizes)
    trellis = [layout.row if is_dependent else 0, 0, 0]
    parts: list[Sequence[int]] = [first, last, first, total, total, trellis, [0, 0, mean, mean]]
    return index_of, tuple(map(state.ints, parts))


def _mean(track: MutableSequence[int], before: int) -> int:
    """Return the mean magnitude of a tensor, or that of the tensor before an empty one."""
    return int(plain.ONE * track[0] // track[1]) if track[1] else before
