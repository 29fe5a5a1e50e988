import math
import struct

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tailcut.errors import CorruptFileError, FormatError, TruncatedFileError
from tailcut.structure import CoefficientLayout, Reader, Writer
from tailcut.weights.planning.counts import count_kept
from tailcut.weights.regularization.count_encoding import count_by_ratio, read_counts, write_counts


def tensor(shape: tuple[int, ...], num_kept: int, axes: tuple[int, ...] | None = None) -> CoefficientLayout:
    chosen = tuple(range(len(shape))) if axes is None else axes
    return CoefficientLayout("weight", shape, chosen, (1,) * len(chosen), num_kept)


def written(tensors: list[CoefficientLayout]) -> bytes:
    writer = Writer()
    write_counts(writer, tensors)
    return writer.getvalue()


def read(content: bytes, tensors: list[CoefficientLayout]) -> list[int]:
    reader = Reader(content)
    counts = read_counts(reader, [each.shape for each in tensors], [each.axes for each in tensors])
    reader.end()
    return counts


@st.composite
def tensors_of_any_count(draw: st.DrawFn) -> list[CoefficientLayout]:
    result = []
    for _ in range(draw(st.integers(0, 6))):
        shape = tuple(draw(st.lists(st.integers(1, 30), max_size=4)))
        axes = tuple(sorted(draw(st.sets(st.sampled_from(range(len(shape)))) if shape else st.just(set()))))
        result.append(tensor(shape, draw(st.integers(1, math.prod(shape))), axes))
    return result


@given(tensors_of_any_count())
def test_counts_come_back_as_they_were(tensors: list[CoefficientLayout]) -> None:
    assert read(written(tensors), tensors) == [each.num_kept for each in tensors]


SHAPES = [(20, 1, 5, 5), (50, 20, 5, 5), (500, 800), (10, 500)]


@given(st.integers(1, 3000))
def test_equal_counts_take_three_bytes_at_most(num_kept: int) -> None:
    tensors = [tensor(shape, min(num_kept, math.prod(shape))) for shape in SHAPES]
    content = written(tensors)
    assert len(content) <= 3
    assert read(content, tensors) == [each.num_kept for each in tensors]


@given(st.floats(1e-4, 1), st.booleans())
@example(1.0, False)
@example(0.5, True)
def test_a_common_ratio_takes_nine_bytes_at_most(ratio: float, partial: bool) -> None:
    tensors = []
    for shape in SHAPES:
        axes = (1,) if partial else tuple(range(len(shape)))
        tensors.append(tensor(shape, count_kept(shape, axes, keep_ratio=ratio, num_kept=None), axes))
    content = written(tensors)
    assert len(content) <= 9
    assert read(content, tensors) == [each.num_kept for each in tensors]


def test_counts_near_each_other_take_few_bits() -> None:
    """The published LeNet-5 variant and its like: 776 in all, split by hand."""
    tensors = [tensor(shape, count) for shape, count in zip(SHAPES, (190, 197, 199, 190), strict=True)]
    assert len(written(tensors)) <= 1 + 2 + 1 + 1 + 2
    assert read(written(tensors), tensors) == [190, 197, 199, 190]


@given(st.binary(max_size=40), tensors_of_any_count())
def test_any_bytes_give_counts_that_fit_or_an_error_of_ours(content: bytes, tensors: list[CoefficientLayout]) -> None:
    try:
        counts = read_counts(Reader(content), [each.shape for each in tensors], [each.axes for each in tensors])
    except FormatError:
        return
    assert len(counts) == len(tensors)
    assert all(1 <= count <= math.prod(each.shape) for count, each in zip(counts, tensors, strict=True))


@given(tensors_of_any_count(), st.data())
def test_every_truncation_is_noticed(tensors: list[CoefficientLayout], data: st.DataObject) -> None:
    content = written(tensors)
    with pytest.raises(TruncatedFileError):
        read(content[: data.draw(st.integers(0, len(content) - 1))], tensors)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (bytes([5, 1]), "unknown way 5 to give the counts"),
        (bytes([255]), "unknown way 255"),
        (bytes([0, 0]), "0 coefficients of a tensor that has 100"),
        (bytes([2, 101]), "101 coefficients of a tensor that has 100"),
        (bytes([1]) + struct.pack("<d", 0.0), r"the keep ratio is 0\.0, not above 0 and at most 1"),
        (bytes([1]) + struct.pack("<d", 1.5), r"the keep ratio is 1\.5"),
        (bytes([1]) + struct.pack("<d", math.nan), "the keep ratio is nan"),
        (bytes([1]) + struct.pack("<d", -math.inf), "the keep ratio is -inf"),
        (bytes([3, 9, 0, 64]), "differences of 64 bits, at most 63 are allowed"),
        (bytes([3, 9, 0, 3, 0b1001]), "the bits behind the differences of counts are not zero"),
        (bytes([3, 9, 10, 1, 0]), "-1 coefficients of a tensor that has 100"),
    ],
)
def test_rules_of_the_format(content: bytes, message: str) -> None:
    with pytest.raises(CorruptFileError, match=message):
        read_counts(Reader(content), [(10, 10)], [(0, 1)])


@pytest.mark.parametrize("shape", [(0,), (3, 0)])
def test_empty_tensors_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(CorruptFileError, match="a regularised tensor is empty"):
        read_counts(Reader(bytes([0, 1])), [shape], [(0,)])


@given(st.lists(st.integers(1, 40), max_size=4).map(tuple), st.floats(0, 1, exclude_min=True), st.data())
def test_the_formats_ratio_is_the_libraries(shape: tuple[int, ...], ratio: float, data: st.DataObject) -> None:
    """What `regularize` makes of a ratio can be written as one."""
    axes = sorted(data.draw(st.sets(st.sampled_from(range(len(shape)))) if shape else st.just(set())))
    assert count_by_ratio(shape, axes, ratio) == count_kept(shape, axes, keep_ratio=ratio, num_kept=None)


def test_ratio_is_frozen() -> None:
    """Part of the format: these numbers must never change."""
    assert [count_by_ratio((500, 800), (0, 1), ratio) for ratio in (1e-9, 0.00194, 0.5, 1.0)] == [
        1,
        776,
        200_000,
        400_000,
    ]
    assert count_by_ratio((10, 7), (1,), 0.5) == 40
    assert count_by_ratio((10, 7), (), 0.1) == 70
    assert count_by_ratio((1 << 40, 1 << 20), (0, 1), 0.5) == 1 << 59
