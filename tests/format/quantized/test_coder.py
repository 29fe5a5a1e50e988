"""Codecs 3 to 5: what goes in comes out, few bytes of it, and nothing else is let in."""

import itertools
import math
import time
import tracemalloc
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.format.quantized.states import allowed
from tests.processor_time import within

from tailcut.errors import CorruptFileError, LimitError, MissingExtraError
from tailcut.format.quantized import Coded, Layout, codec_number, coder, decode, encode
from tailcut.transform.order import flat_positions, l1_order_index

INTEGER = Layout("num_batches_tracked", (3,), 3, is_integer=True)


def kept(shape: tuple[int, ...], num: int) -> Layout:
    def order(count: int) -> tuple[np.ndarray, tuple[int, ...]]:
        return flat_positions(l1_order_index(shape, count), shape), shape

    return Layout("", shape, num, order=order)


@st.composite
def tensors(draw: st.DrawFn) -> tuple[Layout, Coded]:
    shape = tuple(draw(st.lists(st.integers(1, 5), max_size=4)))
    size, scale = math.prod(shape), draw(st.sampled_from([1, 4, 60, 2**20 - 1]))
    count = draw(st.integers(0, size))
    numbers = np.array(draw(st.lists(st.integers(-scale, scale), min_size=count, max_size=count)), np.int64)
    if draw(st.booleans()) and len(numbers) == size:
        return Layout("steps", shape, size, is_integer=True), Coded(np.clip(numbers, -500, 500))
    key = draw(st.sampled_from(["weight", "bias", "running_var"]))
    layout = kept(shape, size) if draw(st.booleans()) else Layout(key, shape, size)
    step, offset = draw(st.integers(-400, 400)), draw(st.integers(-1000, 1000))
    shifts = {}
    if layout.may_shift and draw(st.booleans()):
        reach = (400 - abs(step)) // (2 * len(shape))
        for axis in draw(st.sets(st.sampled_from(range(len(shape))))):
            along = draw(st.lists(st.integers(-reach, reach), min_size=shape[axis], max_size=shape[axis]))
            shifts[axis] = np.array(along, np.int64)
    is_dependent = draw(st.booleans())
    if is_dependent:
        numbers = allowed(numbers, layout)
    transform = draw(st.integers(0, 3))
    return layout, Coded(numbers, transform, step, offset, shifts=shifts, is_dependent=is_dependent)


@settings(deadline=None)
@given(st.lists(tensors(), min_size=1, max_size=5))
def test_round_trip(pairs: list[tuple[Layout, Coded]]) -> None:
    layouts, coded = zip(*pairs, strict=True)
    payload = encode(layouts, coded)
    found = decode(payload, layouts, codec_number(coded))
    for wanted, tensor in zip(coded, found, strict=True):
        assert tensor.numbers.tolist() == wanted.numbers.tolist()
        assert (tensor.transform, tensor.step, tensor.offset) == (wanted.transform, wanted.step, wanted.offset)
        assert tensor.is_dependent == wanted.is_dependent
        assert {axis: shift.tolist() for axis, shift in tensor.shifts.items()} == {
            axis: shift.tolist() for axis, shift in wanted.shifts.items()
        }
        assert tensor.bits == pytest.approx(wanted.bits, abs=33)  # the reader is four bytes ahead at first
    assert sum(tensor.bits for tensor in found) == pytest.approx(8 * len(payload), abs=48)


def entropy(numbers: np.ndarray) -> float:
    """Bits of a Laplace distribution of the best scale, in all."""
    mean = float(np.abs(numbers).mean())
    ratio = (math.sqrt(1 + mean**2) - 1) / mean
    chances = (1 - ratio) / (1 + ratio) * ratio ** np.abs(numbers)
    return float(-np.log2(chances).sum())


@pytest.mark.parametrize("scale", [0.3, 2.0, 40.0])
def test_payloads_are_near_the_entropy(scale: float) -> None:
    numbers = np.rint(np.random.default_rng(1).laplace(0, scale, 3000)).astype(np.int64)
    bits = 8 * len(encode([Layout("weight", (30, 100), 3000)], [Coded(numbers)]))
    assert bits < 1.03 * entropy(numbers) + 100


def test_frequencies_and_channels_that_are_alike_are_learnt() -> None:
    """Axes along which magnitudes differ cost less than their mixture does."""
    generator = np.random.default_rng(2)
    scales = np.outer(np.geomspace(16, 0.1, 60), np.geomspace(4, 0.2, 50))
    numbers = np.rint(generator.laplace(0, 1, scales.shape) * scales).astype(np.int64).reshape(-1)
    bits = 8 * len(encode([Layout("weight", scales.shape, 3000)], [Coded(numbers)]))
    assert bits < 0.75 * entropy(numbers)


def test_equal_counters_cost_almost_nothing() -> None:
    layouts = [Layout("num_batches_tracked", (), 1, is_integer=True)] * 60
    payload = encode(layouts, [Coded(np.array([78_125])) for _ in layouts])
    assert len(payload) < 16
    assert [int(tensor.numbers[0]) for tensor in decode(payload, layouts)] == [78_125] * 60


def sample() -> tuple[list[Layout], bytes]:
    generator = np.random.default_rng(3)
    layouts = [kept((8, 8, 3, 3), 60), Layout("bias", (8,), 8), INTEGER]
    coded = [Coded(generator.integers(-9, 9, 60), 0, -30), Coded(generator.integers(-3, 3, 8), 0, -21, 5)]
    return layouts, encode(layouts, [*coded, Coded(np.array([5, 5, 6]))])


def test_no_payload_is_read_that_was_not_written() -> None:
    layouts, payload = sample()
    for wrong in (payload[:-1], payload + b"\0", payload + b"\1", b"", b"\xff" * len(payload)):
        with pytest.raises(CorruptFileError, match="quantized payload"):
            decode(wrong, layouts)


def test_damaged_payloads_are_refused_or_other_numbers() -> None:
    layouts, payload = sample()
    for place, bit in itertools.product(range(len(payload)), range(8)):
        damaged = bytearray(payload)
        damaged[place] ^= 1 << bit
        try:
            found = decode(bytes(damaged), layouts)
        except CorruptFileError:
            continue
        assert encode(layouts, found) == bytes(damaged)  # the payload of these numbers, and of no others


def test_claims_of_many_numbers_are_refused_at_once() -> None:
    layout = Layout("weight", (4096, 4096), 4096**2)
    start = time.process_time()
    with pytest.raises(CorruptFileError, match="too short for the 16777216 numbers"):
        decode(encode([Layout("weight", (), 1)], [Coded(np.array([1]))]), [layout])
    assert within(time.process_time() - start, seconds=5)  # numba's import; the numbers themselves would take memory


@pytest.mark.parametrize("shape", [(1 << 26,), (1 << 13, 1 << 13), (4, 1 << 24), (1 << 24, 4)])
def test_memory_is_taken_for_the_numbers_that_are_there(shape: tuple[int, ...]) -> None:
    layout = Layout("weight", shape, math.prod(shape))
    numbers = np.array([3, -1, 0, 4, 1, -1, 7])
    payload = encode([layout], [Coded(numbers)])
    tracemalloc.start()
    found = decode(payload, [layout])[0]
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert found.numbers.tolist() == numbers.tolist()
    assert peak < 20_000_000  # numba's import, if it is the first


def test_zeros_take_their_least() -> None:
    numbers = np.zeros(200_000, np.int64)
    numbers[0] = numbers[-1] = 1  # no tail to cut
    payload = encode([Layout("weight", (200_000,), 200_000)], [Coded(numbers)])
    assert 200_000 / coder.NUMBERS_PER_BYTE < len(payload) < 200_000 / coder.NUMBERS_PER_BYTE + 120


@pytest.mark.parametrize("wrong", [{"transform": 4}, {"transform": -1}, {"step": 401}, {"step": -401}])
def test_parameters_out_of_range(wrong: dict[str, Any]) -> None:
    layout = Layout("weight", (2,), 2)
    with pytest.raises(CorruptFileError, match=r"transform .* and a step of"):
        decode(encode([layout], [Coded(np.array([1, 2]), **wrong)]), [layout])


def test_the_least_codec_that_will_do_is_written() -> None:
    tensor = Coded(np.array([1, 2, 3, 4]))
    assert codec_number([tensor]) == 3
    shifted = Coded(np.array([1]), shifts={0: np.array([1])})
    assert codec_number([tensor, shifted]) == 4
    assert codec_number([tensor, Coded(np.array([2]), is_dependent=True), shifted]) == 5


def shifted(*along: list[int], step: int = 0) -> Coded:
    return Coded(np.arange(6), step=step, shifts={axis: np.array(shift) for axis, shift in enumerate(along)})


def test_axes_that_the_tensor_has_not() -> None:
    layout = Layout("weight", (2, 3), 6)
    with pytest.raises(CorruptFileError, match="steps along axes 4 of a tensor of 2 axes"):
        decode(encode([layout], [Coded(np.arange(6), shifts={2: np.array([1])})]), [layout], 4)


def test_claims_of_many_shifts_are_refused_at_once() -> None:
    narrow, wide = Layout("weight", (1, 2), 2), Layout("weight", (1, 1 << 24), 1 << 24)
    numbers = Coded(np.array([1]), shifts={1: np.array([1, 2])})
    with pytest.raises(CorruptFileError, match="too short for the 16777217 numbers"):
        decode(encode([narrow], [numbers]), [wide], 4)


def test_shifts_of_a_long_axis_take_no_more_than_as_many_numbers() -> None:
    """Also where there are no numbers: a tensor may be empty along another axis."""
    layout = Layout("weight", (0, 1 << 18), 0)
    tensor = Coded(np.zeros(0, np.int64), shifts={1: np.zeros(1 << 18, np.int64)})
    payload = encode([layout], [tensor])
    start = time.process_time()
    tracemalloc.start()
    found = decode(payload, [layout], 4)[0]
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(found.shifts[1]) == 1 << 18
    assert peak < 24 * (1 << 18)  # 8 for each shift, and numba's own
    assert within(time.process_time() - start, seconds=5)


def test_a_payload_with_shifts_is_none_of_codec_3() -> None:
    layout = Layout("weight", (2, 3), 6)
    payload = encode([layout], [shifted([0, 3], [1, 0, 0])])
    with pytest.raises(CorruptFileError, match="quantized payload"):
        decode(payload, [layout], 3)


def test_more_numbers_than_the_tensor_has() -> None:
    wide, narrow = Layout("weight", (5,), 5), Layout("weight", (2,), 2)
    with pytest.raises(CorruptFileError, match="3 numbers of a tensor of 2"):
        decode(encode([wide], [Coded(np.array([1, 2, 3]))]), [narrow])


def test_too_many_whole_numbers() -> None:
    layout = Layout("mask", (coder.MAX_INTEGERS + 1,), coder.MAX_INTEGERS + 1, is_integer=True)
    with pytest.raises(LimitError, match="65537 whole numbers"):
        decode(b"\0", [layout])


def test_large_tensors_need_numba(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(coder, "is_installed", lambda: False)
    with pytest.raises(MissingExtraError, match="needs the package 'numba'"):
        decode(b"\0", [Layout("weight", (1 << 21,), 1 << 21)])


@pytest.mark.parametrize("shape", [(3, 0), (0, 3), (2, 3, 0, 4)])
def test_an_empty_tensor_takes_its_parameters_only(shape: tuple[int, ...]) -> None:
    layouts = [Layout("weight", shape, 0), Layout("bias", (2,), 2)]
    payload = encode(layouts, [Coded(np.zeros(0, np.int64)), Coded(np.array([3, -1]))])
    assert [tensor.numbers.tolist() for tensor in decode(payload, layouts)] == [[], [3, -1]]
