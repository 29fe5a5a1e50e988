"""Whole numbers in the adaptive code that `runtime/tailcut_walk.h` reads one after the other (`coded_number` there)."""

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

from tailcut.format.quantized import loops

MAX_BITS = 16
"""The most bits of a magnitude; so many contexts has a set."""

NUM_LEVELS = 6
"""Sets of contexts, by what the numbers before let expect."""

LOWER_BITS = NUM_LEVELS * MAX_BITS
"""The context of all bits below the highest."""

PADDING = 3
"""Zero bytes behind the code: the reader looks so far ahead."""

_FIRST_EXPECTED = 32
_BYTES_PER_NUMBER = 64  # never reached: 33 decisions of at most 10 bits


def coded(numbers: Iterable[int]) -> npt.NDArray[np.uint8]:
    """Return the code of whole numbers, uint8 (n,), `PADDING` included.

    Args:
        numbers: of magnitudes below 2^16.
    """
    zeros, seen = [1 << 15] * (LOWER_BITS + 1), [1] * (LOWER_BITS + 1)
    interval, buffer, expected = [0, 1 << 32, 0], bytearray(), _FIRST_EXPECTED

    def put(context: int, bit: int) -> None:
        loops.put_bit(interval, buffer, zeros, seen, context, bit)

    for number in numbers:
        buffer.extend(bytes(max(0, interval[2] + _BYTES_PER_NUMBER - len(buffer))))
        magnitude = abs(number)
        num_bits = magnitude.bit_length()
        first = MAX_BITS * min(expected.bit_length(), NUM_LEVELS - 1)
        for place in range(num_bits):
            put(first + place, 1)
        if num_bits < MAX_BITS:
            put(first + num_bits, 0)
        for place in range(num_bits - 2, -1, -1):
            put(LOWER_BITS, magnitude >> place & 1)
        if magnitude:
            loops.put_half(interval, buffer, interval[1] >> 1, int(number < 0))
        expected += 4 * magnitude - (expected >> 3)
    low, written = interval[0] + (1 << 24) - 1, interval[2]
    code = int.from_bytes(bytes(buffer[:written]), "big") + (low >> 32)
    return np.frombuffer(code.to_bytes(written, "big") + bytes([low >> 24 & 255]) + bytes(PADDING), np.uint8)
