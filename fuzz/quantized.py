"""The target of codecs 3 to 5: descriptions of tensors and payloads, read by the library and by the reference reader.

A content is a byte with the number of tensors, of levels and of the codec, four bytes for each level above the lowest
(`_Step`), six for each tensor (`_described`), and the payloads of the levels, the lowest first.
"""

import math
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TypeVar

import numpy as np
from conformance.quantized_writer import Writer
from conformance.reference import Kept, RefusedError
from conformance.reference import quantized as reference
from conformance.reference.decoder import order_of
from conformance.reference.levels import Blocks

from fuzz.mutators import Havoc, havoc
from tailcut.compiling import is_installed
from tailcut.errors import CorruptFileError, LimitError
from tailcut.format import quantized
from tailcut.format.container.streams import padded
from tailcut.format.quantized import Coded, Layout, coder
from tailcut.format.quantized.coder import ALONG_AXES, DEPENDENT, EVEN, NUM_TRANSFORMS
from tailcut.transform.order import corner_positions

COEFFICIENTS, WHOLE_TENSOR, INTEGERS = range(3)
KEYS = ("weight", "running_var")
DESCRIPTION_BYTES = 6
STEP_BYTES = 4
MAX_TENSORS = 4
MAX_LEVELS = 4
LONGEST = 12
CODECS = (EVEN, ALONG_AXES, DEPENDENT, DEPENDENT)  # by the bits of a content's first byte above the counts
CODEC_BIT = MAX_TENSORS * MAX_LEVELS

# Tensors of seeds, see `_described`.
MATRIX, ROW, EMPTY = (bytes((WHOLE_TENSOR, 4, *sizes, 1, 0)) for sizes in ((5, 7), (1, 12), (0, 3)))

Entry = TypeVar("Entry")  # a layout, numbers, or a tensor of the reference reader


class WrongNumbersError(Exception):
    """The library and the reference reader do not agree, or a content has two payloads."""


@dataclass
class Level:
    """A level, as the library and as the reference reader know its tensors: coefficients first, where there are more.

    Attributes:
        layouts: of its tensors.
        tensors: the same; those that go on with the level below know how many numbers that has.
        payload: of the level.
        codec: of the payload, the same in all levels.
    """

    layouts: list[Layout] = field(default_factory=list)
    tensors: list[reference.Tensor] = field(default_factory=list)
    payload: bytes = b""
    codec: int = EVEN


@dataclass(frozen=True)
class _Step:
    """Of a level to that above: its part in 1 / 256, whether that has other tensors anew, and its payload's length."""

    part: int
    has_others: bool
    length: int

    @classmethod
    def of(cls, content: bytes) -> "_Step":
        part, mark, *length = content.ljust(STEP_BYTES, b"\1")
        return cls(max(1, part), bool(mark % 2), int.from_bytes(bytes(length), "little"))


def run(content: bytes) -> None:
    """Both read the same numbers and values, or refuse; what was read is written as the same payloads."""
    levels = parse(content)
    wanted = _reference(levels)
    try:
        found = _decode(levels)
        top = list(_top(levels, found))
        values = [quantized.dequantize(tensor, layout) for layout, tensor in top]
    except (CorruptFileError, LimitError) as error:
        if wanted is not None:
            raise WrongNumbersError(f"refused with {error!r}, which the reference reader reads") from error
        return
    if wanted is None:
        raise WrongNumbersError("accepted, which the reference reader refuses")
    for value, numbers in zip(values, wanted, strict=True):
        if not _agree(value.double().tolist(), numbers):
            raise WrongNumbersError(f"{value.tolist()[:9]}, the reference reader has {numbers[:9]}")
    payloads = [level.payload for level in levels]
    if _encode(levels, found) != payloads:
        raise WrongNumbersError("one content has two payloads")
    if is_installed():
        _check_compiled(levels, found)


def parse(content: bytes) -> list[Level]:
    """The levels of a content: layouts, tensors without numbers, and payloads."""
    content = content or b"\0"
    count, num_steps = 1 + content[0] % MAX_TENSORS, content[0] // MAX_TENSORS % MAX_LEVELS
    codec = CODECS[content[0] // CODEC_BIT % len(CODECS)]
    rest = content[1:]
    steps = [_Step.of(rest[STEP_BYTES * place :][:STEP_BYTES]) for place in range(num_steps)]
    rest = rest[STEP_BYTES * num_steps :]
    described = [rest[DESCRIPTION_BYTES * place :][:DESCRIPTION_BYTES] for place in range(count)]
    rest = rest[DESCRIPTION_BYTES * count :]
    pairs = [_described(part.ljust(DESCRIPTION_BYTES, b"\1")) for part in described]
    if not any(tensor.is_coefficients for _, tensor in pairs):
        steps = []  # levels are levels of coefficients
    if steps:
        pairs.sort(key=lambda pair: not pair[1].is_coefficients)
    blocks = Blocks([], [step.part for step in steps])
    counts = [blocks.counts(layout.size) for layout, _ in pairs]
    levels = []
    for place, step in enumerate([_Step(1, True, 0), *steps]):
        level = Level(codec=codec)
        for (layout, tensor), each in zip(pairs, counts, strict=True):
            if tensor.is_coefficients:
                level.layouts.append(Layout("", layout.shape, each[place], order=layout.order))
                known = each[place - 1] if place else 0
                indices = tensor.indices[: each[place]]
                level.tensors.append(reference.Tensor("", tensor.shape, indices, is_coefficients=True, known=known))
            elif step.has_others:
                level.layouts.append(layout)
                again = reference.Tensor(tensor.key, tensor.shape, tensor.indices, is_whole=tensor.is_whole)
                level.tensors.append(again)
        length = steps[place].length if place < len(steps) else len(rest)
        level.payload, rest = rest[:length], rest[length:]
        levels.append(level)
    return levels


def _described(part: bytes) -> tuple[Layout, reference.Tensor]:
    """Kind, key, axes, three sizes, and how many coefficients of a tensor: a byte each, the axes with the key."""
    kind, key, num_axes = part[0] % 3, KEYS[part[1] % 2], part[1] // 2 % 4
    shape = tuple(size % (LONGEST + 1) for size in part[2 : 2 + num_axes])
    size = math.prod(shape)
    if kind != COEFFICIENTS or not size:
        is_integer = kind == INTEGERS
        layout = Layout(key, shape, size, is_integer=is_integer)
        return layout, reference.Tensor(key, shape, reference.row_major(shape), is_whole=is_integer)
    num = 1 + part[5] % size

    def order(count: int) -> tuple[np.ndarray, tuple[int, ...]]:
        return corner_positions(shape, count, axes=range(len(shape)), weights=(1,) * len(shape))

    indices = order_of(Kept("", shape, tuple(range(len(shape))), (1,) * len(shape), num))
    layout = Layout("", shape, num, order=order)
    return layout, reference.Tensor("", shape, indices, is_coefficients=True)


def _reference(levels: Sequence[Level]) -> list[list[float]] | None:
    """The values that the reference reader finds in the highest level; None where it refuses."""
    try:
        _read(levels)
        return [
            [float(n) for n in tensor.numbers] if tensor.is_whole else reference.values(tensor)
            for tensor in _highest([level.tensors for level in levels])
        ]
    except RefusedError:
        return None


def _read(levels: Sequence[Level]) -> None:
    """Fill in parameters and numbers, with the reference reader."""
    reader: reference.Reader | None = None
    for place, level in enumerate(levels):
        _take_in(level, levels[place - 1] if place else None)
        reader = reference.Reader(level.payload, reader, level.codec)
        reader.tensors(level.tensors)


def _take_in(level: Level, below: Level | None) -> None:
    """Give the tensors of a level what the one below has of them."""
    for tensor, lower in zip(level.tensors, below.tensors if below else (), strict=False):
        if tensor.known:
            tensor.parameters = [*lower.parameters[:3], *(tensor.parameters or lower.parameters)[3:]]
            tensor.numbers[: tensor.known] = (lower.numbers + [0] * tensor.known)[: tensor.known]


def _highest(levels: Sequence[Sequence[Entry]]) -> list[Entry]:
    """The tensors of the highest level, those that it does not have anew from the highest that has them."""
    every = max(map(len, levels))
    last: Sequence[Entry] = next(tensors for tensors in reversed(levels) if len(tensors) == every)
    return list(levels[-1]) + list(last[len(levels[-1]) :])


def _top(levels: Sequence[Level], found: Sequence[Sequence[Coded]]) -> Iterator[tuple[Layout, Coded]]:
    return zip(_highest([level.layouts for level in levels]), _highest(found), strict=True)


def _decode(levels: Sequence[Level]) -> list[list[Coded]]:
    """The integers of each level, as the library reads them."""
    decoder = quantized.Decoder(_highest([level.layouts for level in levels]), levels[0].codec)
    found: list[list[Coded]] = []
    for level in levels:
        sizes = [tensor.known for tensor in level.tensors if tensor.known]
        below = [padded(tensor, size) for tensor, size in zip(found[-1] if found else (), sizes, strict=False)]
        found.append(decoder.level(level.payload, level.layouts, below))
    return found


def _encode(levels: Sequence[Level], found: Sequence[Sequence[Coded]]) -> list[bytes]:
    """The payload of each level, as the library writes it."""
    encoder = quantized.Encoder(_highest([level.layouts for level in levels]), levels[0].codec)
    return [
        encoder.level(level.layouts, tensors, [tensor.known for tensor in level.tensors if tensor.known])
        for level, tensors in zip(levels, found, strict=True)
    ]


def _agree(found: list[float], wanted: list[float]) -> bool:
    """Up to rounding, which a transform of large numbers spreads over all."""
    largest = max(map(abs, wanted), default=0.0)
    return len(found) == len(wanted) and all(
        math.isclose(one, other, rel_tol=1e-5, abs_tol=1e-6 * largest) for one, other in zip(found, wanted, strict=True)
    )


def _check_compiled(levels: Sequence[Level], plain: Sequence[Sequence[Coded]]) -> None:
    """The compiled loops read and write the same."""
    before, coder.COMPILED_FROM = coder.COMPILED_FROM, 0
    try:
        found = _decode(levels)
        written = _encode(levels, found)
    finally:
        coder.COMPILED_FROM = before
    same = [[_told(tensor) for tensor in tensors] for tensors in found] == [
        [_told(tensor) for tensor in tensors] for tensors in plain
    ]
    if written != [level.payload for level in levels] or not same:
        raise WrongNumbersError("the compiled loops differ from the plain ones")


def _told(tensor: Coded) -> tuple[list[int], tuple[int, int, int, bool], dict[int, list[int]]]:
    shifts = {axis: shift.tolist() for axis, shift in tensor.shifts.items()}
    return tensor.numbers.tolist(), (tensor.transform, tensor.step, tensor.offset, tensor.is_dependent), shifts


def mutate(content: bytes, rng: random.Random, change: Havoc = havoc) -> bytes:
    """Change the bytes, or the levels, codec, numbers, parameters and shifts, which are then coded again."""
    if rng.random() < 0.4:
        return change(content, rng)
    content = content or b"\0"
    levels = parse(content)
    try:
        _read(levels)
    except RefusedError:
        if any(not tensor.is_whole and not tensor.parameters for level in levels for tensor in level.tensors):
            return change(content, rng)
    head = bytearray(content[: len(content) - sum(len(level.payload) for level in levels)])
    if len(levels) > 1 and rng.random() < 0.3:
        place = 1 + STEP_BYTES * rng.randrange(len(levels) - 1) + rng.randrange(2)
        head[place : place + 1] = [rng.choice((0, 1, 2, 128, 255, rng.randrange(256)))]
        levels = _numbers_moved(levels, parse(bytes(head)))
    if rng.random() < 0.1:
        head[0] ^= CODEC_BIT * rng.choice((1, 2, 3))
        _change_codec(levels, CODECS[head[0] // CODEC_BIT % len(CODECS)])
    for _ in range(rng.choice((1, 1, 2, 5))):
        _change_tensor(rng.choice(rng.choice(levels).tensors), rng)
    return _written(bytes(head), levels)


def _numbers_moved(levels: Sequence[Level], others: list[Level]) -> list[Level]:
    """Levels of the same tensors with other counts, as far as the numbers there are go."""
    for level, other in zip(levels, others, strict=True):
        for place, tensor in enumerate(other.tensors):
            source = (level if place < len(level.tensors) else levels[0]).tensors[place]
            tensor.numbers, tensor.parameters = list(source.numbers), list(source.parameters)
            tensor.shifts = {axis: list(shifts) for axis, shifts in source.shifts.items()}
            if tensor.known:
                tensor.parameters[3:] = [0]
    return others


def _may_shift(tensor: reference.Tensor) -> bool:
    return not tensor.is_whole and not tensor.is_coefficients and len(tensor.shape) > 1


def _change_codec(levels: Sequence[Level], codec: int) -> None:
    """From one to another: without shifts."""
    for level in levels:
        level.codec = codec
        for tensor in level.tensors:
            tensor.parameters[4:] = [0] if codec >= ALONG_AXES and _may_shift(tensor) else []
            tensor.shifts = {}


def _change_tensor(tensor: reference.Tensor, rng: random.Random) -> None:
    """One number, parameter or shift becomes another; of those that a level below has only the count."""
    if len(tensor.parameters) > 4 and rng.random() < 0.4:
        _change_shifts(tensor, rng)
        return
    numbers = (0, 1, -1, 2, 7, 400, 401, -400, 2**19, 2**20 - 1, 1 - 2**20, rng.randrange(-50, 50))
    if len(tensor.numbers) > tensor.known and (tensor.is_whole or rng.random() < 0.5):
        tensor.numbers[rng.randrange(tensor.known, len(tensor.numbers))] = rng.choice(numbers)
    elif not tensor.is_whole:
        place = 3 if tensor.known else rng.randrange(4)
        tensor.parameters[place] = rng.randrange(9) if place == 0 else rng.choice(numbers)
        if place == 3 and rng.random() < 0.8:
            tensor.parameters[3] = rng.randrange(len(tensor.indices) - tensor.known + 2)


def _change_shifts(tensor: reference.Tensor, rng: random.Random) -> None:
    """The steps differ along other axes, or one shift becomes another, some at the end of what steps may be."""
    most, step = 2 ** len(tensor.shape), tensor.parameters[1]
    if not tensor.shifted or rng.random() < 0.3:
        wrong = -1, most, most + 1, 2**20 - 1
        tensor.parameters[4] = rng.randrange(most) if rng.random() < 0.8 else rng.choice(wrong)
        return
    axis = rng.choice(tensor.shifted)
    shifts = tensor.shifts.setdefault(axis, [0] * tensor.shape[axis])
    if shifts:
        ends = (400 - step) // 2 + rng.randrange(2), (-400 - step) // 2 - rng.randrange(2)
        shifts[rng.randrange(len(shifts))] = rng.choice((0, 1, -1, 3, -9, 30, 1 - 2**20, 2**20 - 1, *ends))


def _written(head: bytes, levels: Sequence[Level]) -> bytes:
    """The content with these numbers, as many as the counts say. `head` is what comes before the payloads."""
    writer: Writer | None = None
    payloads = []
    for place, level in enumerate(levels):
        _take_in(level, levels[place - 1] if place else None)
        writer = Writer(writer, level.codec)
        for tensor in level.tensors:
            more = len(tensor.indices) - tensor.known
            if not tensor.is_whole and tensor.parameters[3]:
                more = min(max(tensor.parameters[3] - 1, 0), more)
            length = tensor.known + more
            tensor.numbers = (tensor.numbers + [0] * length)[:length]
        payloads.append(writer.payload(level.tensors))
    for place, payload in enumerate(payloads[:-1]):
        end = 1 + STEP_BYTES * (place + 1)
        head = head[: end - 2] + len(payload).to_bytes(2, "little") + head[end:]
    return head + b"".join(payloads)


def seeds() -> Iterator[tuple[str, bytes]]:
    """Every kind of tensor and every transform, alone, beside others, and in levels."""
    rng = random.Random(3)
    kinds = {
        "coefficients": bytes((COEFFICIENTS, 4, 5, 6, 1, 11)),
        "bias": bytes((WHOLE_TENSOR, 2, 9, 1, 1, 0)),
        "variance": bytes((WHOLE_TENSOR, 3, 9, 1, 1, 0)),
        "kernel": bytes((WHOLE_TENSOR, 6, 3, 2, 4, 0)),
        "counts": bytes((INTEGERS, 0, 1, 1, 1, 0)),
    }
    for name, part in kinds.items():
        for transform in (0,) if name in ("coefficients", "counts") else (0, 1, 2, 3) if name == "kernel" else (0, 1):
            yield f"{name}-{transform}", _seed([part], transform, rng)
    yield "all", _seed(list(kinds.values())[:MAX_TENSORS], 0, rng)
    yield "counts-last", _seed([kinds["bias"], kinds["counts"], kinds["counts"]], 0, rng)
    vector = bytes((COEFFICIENTS, 2, 12, 1, 1, 11))
    some = [kinds["coefficients"], vector, kinds["bias"], kinds["counts"]]
    yield "levels-two", _seed(some[:1], 0, rng, [(128, 0)])
    yield "levels-vector", _seed([vector], 0, rng, [(64, 0), (200, 0)])
    yield "levels-none-new", _seed([vector], 0, rng, [(255, 0), (255, 1)])
    yield "levels-others-once", _seed(some, 0, rng, [(100, 0), (100, 0)])
    yield "levels-others", _seed(some, 0, rng, [(100, 1), (100, 0), (180, 1)])
    yield "levels-smallest", _seed([some[0], some[0], kinds["variance"]], 0, rng, [(1, 1)])
    yield "levels-short", _seed(some, 0, rng, [(90, 1), (128, 0)], short=True)
    yield from _axes_seeds(kinds)
    yield from _dependent_seeds(kinds)


def _axes_seeds(kinds: Mapping[str, bytes]) -> Iterator[tuple[str, bytes]]:
    """The same of codec 4: along every axis and some, of tensors that have shifts and beside those that have none."""
    rng = random.Random(4)
    for axes in range(8):
        yield f"axes-kernel-{axes}", _seed([kinds["kernel"]], axes % 4, rng, axes=axes)
    for name, part in {"matrix": MATRIX, "row": ROW, "empty": EMPTY, **kinds}.items():
        if name != "kernel":
            yield f"axes-{name}", _seed([part], 0, rng, axes=3)
    yield "axes-log2", _seed([MATRIX], 1, rng, axes=2)
    yield "axes-short", _seed([MATRIX, kinds["kernel"]], 0, rng, axes=1, short=True)
    yield "axes-others", _seed([MATRIX, kinds["kernel"], kinds["bias"], ROW], 0, rng, axes=2)
    some = [kinds["coefficients"], MATRIX, kinds["kernel"], kinds["counts"]]
    yield "axes-levels-once", _seed(some, 0, rng, [(100, 0), (100, 0)], axes=3)
    yield "axes-levels-others", _seed(some, 0, rng, [(100, 1), (100, 0), (180, 1)], axes=2)
    yield "axes-levels-coefficients", _seed(some[:1], 0, rng, [(128, 0)], axes=3)


def _dependent_seeds(kinds: Mapping[str, bytes]) -> Iterator[tuple[str, bytes]]:
    """Of codec 5: of every kind of tensor, with and without shifts, in levels."""
    rng = random.Random(5)
    make = partial(_seed, rng=rng, is_dependent=True)
    for name, part in {"matrix": MATRIX, "row": ROW, "empty": EMPTY, **kinds}.items():
        for transform in (0, 1, 2, 3) if name == "kernel" else (0,):
            yield f"dependent-{name}-{transform}", make([part], transform, axes=0)
            yield f"dependent-axes-{name}-{transform}", make([part], transform, axes=1)
    some = [kinds["coefficients"], MATRIX, kinds["kernel"], kinds["counts"]]
    yield "dependent-short", make([MATRIX, kinds["kernel"]], 0, axes=1, short=True)
    yield "dependent-levels", make(some, 0, steps=[(100, 0), (100, 1), (180, 0)], axes=0)
    yield "dependent-levels-short", make(some, 0, steps=[(90, 1), (128, 0)], axes=2, short=True)


def _seed(
    parts: list[bytes],
    transform: int,
    rng: random.Random,
    steps: Sequence[tuple[int, int]] = (),
    *,
    axes: int | None = None,
    short: bool = False,
    is_dependent: bool = False,
) -> bytes:
    """Return a content.

    Args:
        parts: the tensors, see `_described`.
        transform: of all.
        rng: draws the numbers and shifts.
        steps: of the levels above the lowest, the part and whether others are there anew.
        axes: along which the steps of tensors that may have shifts differ, in codec 4; None for codec 3.
        short: with zeros at the end of each tensor, which are not coded.
        is_dependent: numbers depend on those before them, in codec 5.
    """
    bits = 2 if is_dependent else 0 if axes is None else 1
    head = bytes([len(parts) - 1 + MAX_TENSORS * len(steps) + CODEC_BIT * bits])
    head += b"".join(bytes((*step, 0, 0)) for step in steps) + b"".join(parts)
    levels = parse(head)
    for level in levels:
        for tensor in level.tensors:
            tensor.numbers = [rng.randrange(-9, 10) for _ in tensor.indices]
            count = (len(tensor.indices) - tensor.known) // 2 + 1 if short else 0
            kind = transform + NUM_TRANSFORMS if is_dependent else transform
            tensor.parameters = [kind, -16, 3 if transform < 2 else 0, count]
            if axes is not None and _may_shift(tensor):
                tensor.parameters.append(axes)
                sizes = {axis: tensor.shape[axis] for axis in tensor.shifted}
                tensor.shifts = {axis: [rng.randrange(-9, 10) for _ in range(n)] for axis, n in sizes.items()}
    return _written(head, levels)
