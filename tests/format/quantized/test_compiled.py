"""The compiled loops of codecs 3 and 4 do what the plain ones do, bit by bit."""

import numpy as np
import pytest
from tests.format.quantized.states import allowed

from tailcut.compiling import is_installed
from tailcut.format.quantized import Coded, Layout, codec_number, coder, decode, encode
from tailcut.format.quantized import loops as plain

pytestmark = pytest.mark.skipif(not is_installed(), reason="numba is not installed")


@pytest.mark.parametrize("is_dependent", [False, True], ids=["free", "dependent"])
@pytest.mark.parametrize("shape", [(40_000,), (50, 40, 3, 3), (400, 60)])
def test_both_ways_write_and_read_the_same(
    shape: tuple[int, ...], is_dependent: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    generator = np.random.default_rng(0)
    numbers = np.rint(
        generator.laplace(0, 3, shape) * np.linspace(2, 0.1, shape[0]).reshape(-1, *[1] * (len(shape) - 1))
    )
    layouts = [Layout("weight", shape, numbers.size)]
    shifts = {axis: generator.integers(-6, 6, shape[axis]) for axis in range(len(shape)) if len(shape) > 1}
    whole = numbers.astype(np.int64).reshape(-1)
    whole = allowed(whole, layouts[0]) if is_dependent else whole
    tensors = [Coded(whole, step=-20, shifts=shifts, is_dependent=is_dependent)]
    fast = encode(layouts, tensors)
    codec = codec_number(tensors)
    read_fast = decode(fast, layouts, codec)[0]
    monkeypatch.setattr(coder, "is_installed", lambda: False)
    slow = encode(layouts, tensors)
    assert fast == slow
    read_slow = decode(slow, layouts, codec)[0]
    assert np.array_equal(read_fast.numbers, read_slow.numbers)
    assert all(np.array_equal(read_fast.shifts[axis], read_slow.shifts[axis]) for axis in shifts)


def test_the_compiled_loops_are_made_of_the_plain_ones() -> None:
    from tailcut.format.quantized import compiled

    assert compiled.loops.put_numbers.py_func.__code__ is plain.put_numbers.__code__
    assert compiled.loops.get_numbers.py_func.__code__ is plain.get_numbers.__code__
