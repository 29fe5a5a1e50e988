"""Byte encoding of the number of coefficients per tensor: by a rule if one fits, else one by one."""

import math
from collections.abc import Sequence

from tailcut.errors import CorruptFileError
from tailcut.structure import CoefficientLayout, Reader, Writer

_EQUAL, _RATIO, _LISTED, _NEAR_EQUAL, _NEAR_RATIO = range(5)
_MAX_WIDTH = 63


def write_counts(writer: Writer, tensors: Sequence[CoefficientLayout]) -> None:
    """Append the counts in the shortest of the ways that `format/SPEC.md` describes."""
    counts = [tensor.num_kept for tensor in tensors]
    largest = max(counts, default=0)
    ratio = _best_ratio(tensors)
    equal = [min(largest, math.prod(tensor.shape)) for tensor in tensors]
    by_ratio = [count_by_ratio(tensor.shape, tensor.axes, ratio) for tensor in tensors]
    ways = []
    for exact, near, predicted in ((_EQUAL, _NEAR_EQUAL, equal), (_RATIO, _NEAR_RATIO, by_ratio)):
        way = Writer()
        way.byte(exact if counts == predicted else near)
        if exact == _EQUAL:
            way.uint(largest)
        else:
            way.float64(ratio)
        if counts != predicted:
            _write_differences(way, [count - guess for count, guess in zip(counts, predicted, strict=True)])
        ways.append(way)
    ways.append(_listed(counts))
    writer.raw(min((way.getvalue() for way in ways), key=len))


def read_counts(reader: Reader, shapes: Sequence[tuple[int, ...]], axes: Sequence[tuple[int, ...]]) -> list[int]:
    """Read what `write_counts` wrote.

    Args:
        reader: of the edit.
        shapes: of the tensors.
        axes: the transformed axes of each.

    Raises:
        FormatError: the bytes end, break a rule, or give a tensor more coefficients than it has, or none.
    """
    way = reader.byte()
    totals = [math.prod(shape) for shape in shapes]
    if 0 in totals:
        raise CorruptFileError("a regularised tensor is empty")
    if way in (_EQUAL, _NEAR_EQUAL):
        largest = reader.uint(of="the number of coefficients")
        counts = [min(largest, total) for total in totals]
    elif way in (_RATIO, _NEAR_RATIO):
        ratio = reader.float64()
        if not 0 < ratio <= 1:
            raise CorruptFileError(f"the keep ratio is {ratio}, not above 0 and at most 1")
        counts = [count_by_ratio(shape, chosen, ratio) for shape, chosen in zip(shapes, axes, strict=True)]
    elif way == _LISTED:
        counts = [reader.uint(of="the number of coefficients") for _ in totals]
    else:
        raise CorruptFileError(f"unknown way {way} to give the counts")
    if way in (_NEAR_EQUAL, _NEAR_RATIO):
        counts = [count + more for count, more in zip(counts, _read_differences(reader, len(counts)), strict=True)]
    for count, total in zip(counts, totals, strict=True):
        if not 1 <= count <= total:
            raise CorruptFileError(f"{count} coefficients of a tensor that has {total}")
    return counts


def count_by_ratio(shape: Sequence[int], axes: Sequence[int], ratio: float) -> int:
    """Return the count that a file's keep ratio stands for. Part of the format: it must never change.

    A ratio counts frequencies: indices over the transformed axes, each with all positions along the others.
    """
    frequencies = math.prod(shape[axis] for axis in axes)
    group = math.prod(shape) // frequencies
    return group * min(frequencies, max(1, math.floor(ratio * frequencies + 0.5)))


def _best_ratio(tensors: Sequence[CoefficientLayout]) -> float:
    """Return a keep ratio that gives each tensor exactly its count, or a close one if none does."""
    low, high, total, total_kept = 0.0, 1.0, 1, 1.0
    for tensor in tensors:
        frequencies = math.prod(tensor.shape[axis] for axis in tensor.axes)
        kept = tensor.num_kept * frequencies / math.prod(tensor.shape)
        low = max(low, (kept - 0.5) / frequencies if kept > 1 else 0.0)
        high = min(high, (kept + 0.5) / frequencies)
        total, total_kept = total + frequencies, total_kept + kept
    return (low + high) / 2 if low < high else total_kept / total


def _listed(counts: Sequence[int]) -> Writer:
    way = Writer()
    way.byte(_LISTED)
    for count in counts:
        way.uint(count)
    return way


def _write_differences(writer: Writer, differences: Sequence[int]) -> None:
    """Write the largest distance below the guess, then each count's distance above that, in as few bits as needed."""
    below = max(0, -min(differences))
    width = (below + max(differences)).bit_length()
    bits = sum(below + difference << width * place for place, difference in enumerate(differences))
    writer.uint(below)
    writer.byte(width)
    writer.raw(bits.to_bytes((width * len(differences) + 7) // 8, "little"))


def _read_differences(reader: Reader, count: int) -> list[int]:
    below, width = reader.uint(of="a difference of counts"), reader.byte()
    if width > _MAX_WIDTH:
        raise CorruptFileError(f"differences of {width} bits, at most {_MAX_WIDTH} are allowed")
    content = reader.raw((width * count + 7) // 8)
    if width * count % 8 and content[-1] >> width * count % 8:
        raise CorruptFileError("the bits behind the differences of counts are not zero")
    differences = []
    for place in range(count):
        start = width * place
        window = int.from_bytes(content[start // 8 : (start + width + 7) // 8], "little")
        differences.append((window >> start % 8 & (1 << width) - 1) - below)
    return differences
