"""Arithmetic of codecs 3 to 5 as plain Python loops, which `compiled` compiles unchanged with numba.

All numbers are integers of at most 63 bits and all shifts round down, so that both ways and every machine agree.
"Array" is a list of integers or a NumPy array of int64, "bytes" a bytearray or an array of uint8. SPEC.md, "Codec 3",
"Codec 4" and "Codec 5", have the same in words.
"""

from collections.abc import MutableSequence, Sequence

from tailcut.format.codecs.range_coder import get_half as get_half
from tailcut.format.codecs.range_coder import put_half as put_half

Ints = Sequence[int]
Array = MutableSequence[int]

LEVELS = 32
"""Sets of contexts for numbers, by the magnitude to be expected; others follow, see `PARAMETER_SETS`."""

SET_SIZE = 64
"""Contexts of a set: 0 for "is it 0", 1 + e for "is it in bucket e", 32 + e for the next bit below the highest."""

LINE = 256
"""So many numbers of a row follow one another in the trellis of codec 5."""

ODD_ZERO = 20
"""Context of a set for "is it 0" in an odd state of the trellis."""

TRELLIS = (0, 2, 7, 5, 1, 3, 6, 4, 2, 0, 5, 7, 3, 1, 4, 6)
"""State after a state and a coded number: entry 2 state + (number & 1). Dependent quantisation with eight states, as in
ISO/IEC 15938-17."""

TRELLIS_INTO = tuple(tuple(way for way, state in enumerate(TRELLIS) if state == after) for after in range(8))
"""For each state the two entries of `TRELLIS` that lead into it."""

PARAMETER_SETS = (32, 33, 34, 35, 36, 37, 38)
"""Transform, step, offset and count of a tensor; whole numbers; axes of a tensor, and shifts along them."""

SECOND_BITS = SET_SIZE * 39
"""The first context of the second bit below the highest: 2 e + the bit above, for any context set."""

NUM_CONTEXTS = SECOND_BITS + 40
LAST_BUCKET = 19
"""Bucket e holds the magnitudes from 2^e to 2^(e + 1) - 1."""

LEAST = 64
"""The least probability of either bit, in 1 / 65536: no decision takes less than 0.0014 bits."""

COUNT_LIMIT = 126
ONE = 256
"""One in the unit of mean magnitudes."""


def log2_16(number: int) -> int:
    """16 log2(number) of a number from 1, linear between powers of two."""
    rest, whole = number, 0
    if rest >= 1 << 32:
        rest, whole = rest >> 32, 32
    if rest >= 1 << 16:
        rest, whole = rest >> 16, whole + 16
    if rest >= 1 << 8:
        rest, whole = rest >> 8, whole + 8
    if rest >= 1 << 4:
        rest, whole = rest >> 4, whole + 4
    if rest >= 1 << 2:
        rest, whole = rest >> 2, whole + 2
    if rest >= 1 << 1:
        whole += 1
    return 16 * whole + ((16 * number) >> whole) - 16


def expected_level(places: Array, num_axes: int, sums: Array, counts: Array, track: Array) -> int:
    """Return the number of the context set for the next number.

    Args:
        places: where the number lies, one entry of `sums` and `counts` per axis.
        num_axes: how many axes are longer than 1.
        sums: of the magnitudes so far, per place.
        counts: of the numbers so far, per place.
        track: sum and count of the whole tensor so far, the mean to begin with, the recent mean.
    """
    mean = (ONE * track[0] + 4 * track[2]) // (track[1] + 4)
    level = log2_16(mean + 8)
    if num_axes == 1:
        level = log2_16(track[3] + 8)
    elif num_axes > 1:
        apart = 0
        for axis in range(num_axes):
            place = places[axis]
            apart += log2_16((ONE * sums[place] + 8 * mean) // (counts[place] + 8) + 8) - level
        level += (3 * apart) >> 2
    return min(max((level - 60) >> 3, 0), LEVELS - 1)


def learn(magnitude: int, places: Array, num_axes: int, sums: Array, counts: Array, track: Array) -> None:
    """Take a number into what `expected_level` reads."""
    track[0] += magnitude
    track[1] += 1
    track[3] += (ONE * magnitude - track[3]) >> 3
    for axis in range(num_axes):
        sums[places[axis]] += magnitude
        counts[places[axis]] += 1


def coded_number(number: int, trellis: Array) -> int:
    """Return what is coded for a multiple of the step: its place among those that the state allows, with its sign.

    Even states allow the even multiples, odd ones 0 and the odd multiples.

    Args:
        number: a multiple that the state allows.
        trellis: numbers of a row (0: any multiple may follow any, in state 0), numbers of this row so far, state. Every
            row begins in state 0, and so does every `LINE`-th number of it.
    """
    if trellis[0] == 0:
        return number
    magnitude = (abs(number) + (trellis[2] & 1)) >> 1
    return -magnitude if number < 0 else magnitude


def multiple(coded: int, trellis: Array) -> int:
    """Return the multiple of the step that was coded so."""
    if trellis[0] == 0 or coded == 0:
        return coded
    return 2 * coded - (trellis[2] & 1) if coded > 0 else 2 * coded + (trellis[2] & 1)


def follow(magnitude: int, trellis: Array) -> None:
    """Go on to the state after a coded magnitude."""
    if trellis[0] == 0:
        return
    trellis[1] = trellis[1] + 1 if trellis[1] + 1 < trellis[0] else 0
    trellis[2] = TRELLIS[2 * trellis[2] + (magnitude & 1)] if trellis[1] % LINE else 0


def step_on(places: Array, num_axes: int, first: Ints, last: Ints) -> None:
    """Advance to the next position of a whole tensor, the last axis first."""
    axis = num_axes - 1
    while axis >= 0:
        places[axis] += 1
        if places[axis] < last[axis]:
            return
        places[axis] = first[axis]
        axis -= 1


def adapt(zeros: Array, seen: Array, context: int, bit: int) -> None:
    """Move the probability of a context towards the bit that came."""
    zero, rate = zeros[context], 131072 // (2 * seen[context] + 3)
    if bit:
        zero -= (zero * rate) >> 16
    else:
        zero += ((65536 - zero) * rate) >> 16
    zeros[context] = min(max(zero, LEAST), 65536 - LEAST)
    if seen[context] < COUNT_LIMIT:
        seen[context] += 1


def put_bit(coder: Array, buffer: Array, zeros: Array, seen: Array, context: int, bit: int) -> None:
    """Write one bit with a context."""
    put_half(coder, buffer, (coder[1] >> 16) * zeros[context], bit)
    adapt(zeros, seen, context, bit)


def put_number(coder: Array, buffer: Array, zeros: Array, seen: Array, level: int, number: int) -> None:
    """Write one number with a set of contexts: zero or not, sign, bucket, the bits below the highest."""
    put_coded(coder, buffer, zeros, seen, level, SET_SIZE * level, number)


def zero_context(level: int, trellis: Array) -> int:
    """Return the context for "is it 0" of a set, in this state."""
    return SET_SIZE * level + ODD_ZERO * (trellis[2] & 1)


def put_coded(coder: Array, buffer: Array, zeros: Array, seen: Array, level: int, zero: int, number: int) -> None:
    """Write one number; `zero` is the context for "is it 0"."""
    base, magnitude = SET_SIZE * level, abs(number)
    put_bit(coder, buffer, zeros, seen, zero, 1 if magnitude else 0)
    if magnitude == 0:
        return
    put_half(coder, buffer, coder[1] >> 1, 1 if number < 0 else 0)
    bucket = 0
    while bucket < LAST_BUCKET:
        goes_on = 1 if magnitude >> (bucket + 1) else 0
        put_bit(coder, buffer, zeros, seen, base + 1 + bucket, goes_on)
        if not goes_on:
            break
        bucket += 1
    for place in range(bucket - 1, -1, -1):
        bit = (magnitude >> place) & 1
        if place == bucket - 1:
            put_bit(coder, buffer, zeros, seen, base + 32 + bucket, bit)
        elif place == bucket - 2:
            put_bit(coder, buffer, zeros, seen, SECOND_BITS + 2 * bucket + ((magnitude >> (place + 1)) & 1), bit)
        else:
            put_half(coder, buffer, coder[1] >> 1, bit)


def put_numbers(
    coder: Array,
    buffer: Array,
    zeros: Array,
    seen: Array,
    numbers: Ints,
    index: Ints,
    first: Ints,
    last: Ints,
    places: Array,
    sums: Array,
    counts: Array,
    trellis: Array,
    track: Array,
) -> None:
    """Write numbers of one tensor.

    Args:
        coder: low, range, bytes written.
        buffer: bytes, with room.
        zeros: probability of a 0 of each context.
        seen: decisions of each context.
        numbers: to write.
        index: the places of each number, one after another; empty where the tensor is whole.
        first: the first place of each axis.
        last: one behind the last place of each axis.
        places: of the first number.
        sums: see `expected_level`.
        counts: likewise.
        trellis: see `coded_number`.
        track: see `expected_level`.
    """
    num_axes, is_whole = len(first), len(index) == 0
    for at in range(len(numbers)):
        if not is_whole:
            for axis in range(num_axes):
                places[axis] = index[at * num_axes + axis]
        level = expected_level(places, num_axes, sums, counts, track)
        coded = coded_number(numbers[at], trellis)
        put_coded(coder, buffer, zeros, seen, level, zero_context(level, trellis), coded)
        learn(abs(coded), places, num_axes, sums, counts, track)
        follow(abs(coded), trellis)
        if is_whole:
            step_on(places, num_axes, first, last)


def put_alike(coder: Array, buffer: Array, zeros: Array, seen: Array, level: int, numbers: Ints) -> None:
    """Write numbers with one set of contexts; see `put_numbers`."""
    for number in numbers:
        put_number(coder, buffer, zeros, seen, level, number)


def get_alike(coder: Array, payload: Ints, zeros: Array, seen: Array, level: int, numbers: Array) -> None:
    """Read what `put_alike` wrote into `numbers`."""
    for at in range(len(numbers)):
        numbers[at] = get_number(coder, payload, zeros, seen, level)


def learn_numbers(
    numbers: Ints,
    index: Ints,
    first: Ints,
    last: Ints,
    places: Array,
    sums: Array,
    counts: Array,
    trellis: Array,
    track: Array,
) -> None:
    """Take numbers that are known already into what `expected_level` reads; see `put_numbers`."""
    num_axes, is_whole = len(first), len(index) == 0
    for at in range(len(numbers)):
        if not is_whole:
            for axis in range(num_axes):
                places[axis] = index[at * num_axes + axis]
        magnitude = abs(coded_number(numbers[at], trellis))
        learn(magnitude, places, num_axes, sums, counts, track)
        follow(magnitude, trellis)
        if is_whole:
            step_on(places, num_axes, first, last)


def get_bit(coder: Array, payload: Ints, zeros: Array, seen: Array, context: int) -> int:
    """Read one bit with a context."""
    bit = get_half(coder, payload, (coder[1] >> 16) * zeros[context])
    adapt(zeros, seen, context, bit)
    return bit


def get_number(coder: Array, payload: Ints, zeros: Array, seen: Array, level: int) -> int:
    """Read what `put_number` wrote."""
    return get_coded(coder, payload, zeros, seen, level, SET_SIZE * level)


def get_coded(coder: Array, payload: Ints, zeros: Array, seen: Array, level: int, zero: int) -> int:
    """Read what `put_coded` wrote."""
    base = SET_SIZE * level
    if get_bit(coder, payload, zeros, seen, zero) == 0:
        return 0
    is_negative = get_half(coder, payload, coder[1] >> 1)
    bucket = 0
    while bucket < LAST_BUCKET and get_bit(coder, payload, zeros, seen, base + 1 + bucket):
        bucket += 1
    magnitude = 1
    for place in range(bucket - 1, -1, -1):
        if place == bucket - 1:
            bit = get_bit(coder, payload, zeros, seen, base + 32 + bucket)
        elif place == bucket - 2:
            bit = get_bit(coder, payload, zeros, seen, SECOND_BITS + 2 * bucket + (magnitude & 1))
        else:
            bit = get_half(coder, payload, coder[1] >> 1)
        magnitude = (magnitude << 1) | bit
    return -magnitude if is_negative else magnitude


def get_numbers(
    coder: Array,
    payload: Ints,
    zeros: Array,
    seen: Array,
    numbers: Array,
    index: Ints,
    first: Ints,
    last: Ints,
    places: Array,
    sums: Array,
    counts: Array,
    trellis: Array,
    track: Array,
) -> None:
    """Read numbers of one tensor into `numbers`; see `put_numbers`."""
    num_axes, is_whole = len(first), len(index) == 0
    for at in range(len(numbers)):
        if not is_whole:
            for axis in range(num_axes):
                places[axis] = index[at * num_axes + axis]
        level = expected_level(places, num_axes, sums, counts, track)
        coded = get_coded(coder, payload, zeros, seen, level, zero_context(level, trellis))
        numbers[at] = multiple(coded, trellis)
        learn(abs(coded), places, num_axes, sums, counts, track)
        follow(abs(coded), trellis)
        if is_whole:
            step_on(places, num_axes, first, last)
