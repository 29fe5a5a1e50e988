"""Programs: operations joined, numbers in narrow types, places in memory."""

import itertools
from typing import Any

import numpy as np
import pytest
from tests.export_c.networks import unet_program

from tailcut.export_c.program.coded import LOWER_BITS, MAX_BITS, NUM_LEVELS, PADDING, coded
from tailcut.export_c.program.memory import plan, scratch_floats
from tailcut.export_c.program.program import Leaf, Map, Op, Operation, Segment, Value
from tailcut.export_c.program.weights import StoredNumbers, Weight, stored_numbers
from tailcut.export_c.writing.tables import NumberType, number_type
from tailcut.format.quantized import loops


def test_two_linear_steps_are_one() -> None:
    leaf = Leaf(Map(2, 3, 3), 2, 3, 3)
    value = Value((Segment(2, (Op(Operation.LEAF, leaf),)),), (3, 3), (3, 3))
    one = Op(Operation.SCALE, scale=np.array([2.0, 3.0], np.float32), shift=np.array([1.0, -1.0], np.float32))
    joined = value.then(one).then(Op(Operation.SCALE, low=10.0, high=5.0))
    (_, linear) = joined.segments[0].ops
    assert linear.scale is not None
    assert linear.shift is not None
    assert linear.scale.tolist() == [20.0, 30.0]
    assert linear.shift.tolist() == [15.0, -5.0]


@pytest.mark.parametrize(
    ("numbers", "kind"),
    [
        (np.arange(-100, 100) * 2.0**-1.125, "int8"),
        (np.arange(-3000, 3000) * 2.0**0.5, "int16"),
        (np.random.default_rng(0).normal(size=500).astype(np.float16), "float16"),
        (np.random.default_rng(0).normal(size=500), "float32"),
        (np.zeros(5), "int8"),
    ],
)
def test_numbers_take_the_narrowest_type(numbers: np.ndarray, kind: str) -> None:
    numbers = numbers.astype(np.float32)
    stored = stored_numbers(numbers)
    assert stored.content.dtype.name == kind
    np.testing.assert_allclose(stored.content.astype(np.float64) * stored.step, numbers, rtol=1e-6)


@pytest.mark.parametrize("largest", [0, 1, 40, 65_535])
def test_codes_of_whole_numbers(largest: int) -> None:
    """Read back as `coded_number` of `tailcut_walk.h` reads them."""
    numbers = np.rint(np.linspace(-1, 1, 701) ** 9 * largest).astype(int).tolist() * 2
    code = coded(numbers)
    assert code[-PADDING:].tolist() == [0] * PADDING
    assert len(code) < 2 * len(numbers) + 20
    zeros, seen = [1 << 15] * (LOWER_BITS + 1), [1] * (LOWER_BITS + 1)
    place, expected, found = [int.from_bytes(bytes(code[:4]), "big"), 1 << 32, 4], 32, []
    payload = code.tolist()

    def bit(context: int) -> int:
        return loops.get_bit(place, payload, zeros, seen, context)

    for _ in numbers:
        first = MAX_BITS * min(expected.bit_length(), NUM_LEVELS - 1)
        num_bits = next((n for n in range(MAX_BITS) if not bit(first + n)), MAX_BITS)
        magnitude = 0
        for n in range(num_bits):
            magnitude = 2 * magnitude + (bit(LOWER_BITS) if n else 1)
        sign = -1 if magnitude and loops.get_half(place, payload, place[1] >> 1) else 1
        found.append(sign * magnitude)
        expected += 4 * magnitude - (expected >> 3)
    assert found == numbers


def test_coefficients_are_coded_where_that_is_shorter() -> None:
    many, few = (np.arange(count, dtype=np.float32) % 3 - 1 for count in (600, 100))
    sizes = (30, 20, 1, 1)

    def stored(numbers: np.ndarray, **settings: Any) -> StoredNumbers:
        return Weight("weight", numbers, sizes, sizes, **settings).stored

    assert number_type(stored(many, axes=(0, 1), is_truncated=True)) == NumberType.CODED
    assert number_type(stored(few, axes=(0, 1), is_truncated=True)) == NumberType.INT8
    assert number_type(stored(many)) == NumberType.INT8
    # With the scale of cosine 0; axes are those of the tensor, which has the channels swapped.
    assert stored(few, axes=(0,), is_truncated=True).step == pytest.approx(30**-0.5)
    assert stored(few, axes=(0,), is_truncated=True, is_swapped=True).step == pytest.approx(20**-0.5)
    assert stored(few).step == 1.0


def test_maps_of_the_same_time_do_not_overlap() -> None:
    program = unet_program()
    plan(program)
    written: dict[int, tuple[int, int, int]] = {}  # of each map: its place and the last stage that reads it
    last = {id(leaf.map.owner): n for n, stage in enumerate(program.stages) for leaf in stage.value.leaves()}
    for number, stage in enumerate(program.stages):
        assert stage.scratch_offset + scratch_floats(stage) <= program.arena_floats
        if stage.out is not None:
            end = stage.out.offset + stage.out.row_stride * stage.out.height
            assert end <= program.arena_floats
            # A map that is replaced row by row is read for the last time by this stage.
            alive = [(begin, stop) for begin, stop, until in written.values() if until > number]
            assert all(end <= begin or stop <= stage.out.offset for begin, stop in alive)
            written[id(stage.out)] = stage.out.offset, end, last.get(id(stage.out), number)
    assert any(one[:2] == two[:2] for one, two in itertools.combinations(written.values(), 2))
