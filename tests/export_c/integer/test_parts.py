"""The parts of a program in integers, each against exact numbers."""

import math
from itertools import pairwise

import numpy as np
import scipy.fft
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import tailcut
from tailcut.export_c.export import integer_program_of
from tailcut.export_c.integer.bounds import Bound
from tailcut.export_c.integer.measuring import measured
from tailcut.export_c.integer.memory import plan
from tailcut.export_c.integer.program import IntegerProgram
from tailcut.export_c.integer.weights import integer_weight, made_dense
from tailcut.export_c.integer.writing import write_program
from tailcut.export_c.lowering.lowering import LARGEST, four
from tailcut.export_c.program.program import Kind, Norm, Op, Operation
from tailcut.export_c.program.weights import Weight


def lenet() -> IntegerProgram:
    return integer_program_of(tailcut.load("zoo:lenet5-1500"))


def test_sums_of_bounds_are_bounds() -> None:
    random = np.random.default_rng(0)
    one, two = (Bound(random.integers(0, 1 << 31, 500), random.integers(-40, 40, 500)) for _ in range(2))
    total = one.plus(two)
    exact = np.ldexp(one.most, one.exponent) + np.ldexp(two.most, two.exponent)
    found = np.ldexp(total.most, total.exponent)
    assert (found >= exact).all()
    assert (found <= exact * (1 + 2.0**-28) + np.ldexp(1.0, total.exponent)).all()
    units = one.exponent_for(15)
    assert (np.ldexp(one.most, one.exponent - units) <= (1 << 15) - 16).all()


@given(
    most=st.integers(0, (1 << 31) - 1),
    exponent=st.integers(-40, 20),
    low=st.floats(-1e4, 1e4),
    high=st.floats(-1e4, 1e4),
)
def test_a_bound_of_what_was_clamped(most: int, exponent: int, low: float, high: float) -> None:
    bound = Bound(np.array([[most]]), np.array([[exponent]]))
    found = bound.clamped(Op(Operation.CLAMP, low=low, high=high))
    before = math.ldexp(most, exponent)
    ends = [min(max(end, low), high) for end in (-before, before)]
    made = math.ldexp(int(found.most[0, 0]), int(found.exponent[0, 0]))
    assert max(map(abs, ends)) <= made * (1 + 2.0**-14) + 1e-30  # as bounds are rounded to 15 bits
    assert made <= max(abs(low), abs(high)) * (1 + 2.0**-14)
    assert made <= max(before, low, -high) * (1 + 2.0**-14)


def test_a_relu_leaves_bounds_as_they_are() -> None:
    bound = Bound(np.array([[5]]), np.array([[120]]))
    assert bound.clamped(Op(Operation.CLAMP, low=0.0, high=LARGEST)) is bound


def test_measured_channels_have_mean_0_and_deviation_1() -> None:
    random = np.random.default_rng(0)
    numbers = (
        random.integers(-3000, 5000, (2, 3, 9, 11))
        * np.asarray([1, 2, 1])[:, None, None]
        // np.asarray([2, 1])[:, None, None, None]
    )
    gamma, beta = np.asarray([1.5, -0.25, 3.0], np.float32), np.asarray([0.5, 0.0, -7.0], np.float32)
    exponents = np.asarray([-10, 3])
    found = measured(Norm(3, gamma, beta, 1e-5), numbers, exponents, is_narrow=False)
    scale, shift = (np.ldexp(part[0].astype(float), part[1]) for part in (found.scale, found.shift))
    values = np.ldexp(numbers.astype(float), exponents[:, None, None, None])
    normal = values * scale[:, :, None, None] + shift[:, :, None, None]
    np.testing.assert_allclose(normal.mean((2, 3)), np.broadcast_to(beta, (2, 3)), atol=2e-3)
    np.testing.assert_allclose(normal.std((2, 3)), np.broadcast_to(np.abs(gamma), (2, 3)), rtol=2e-3)


def test_maps_of_the_same_time_do_not_overlap() -> None:
    program = lenet()
    plan(program)
    for place, item in enumerate(program.stages):
        out = item.stage.out
        read = [leaf.map.owner for leaf in item.stage.value.leaves() if not leaf.map.owner.is_input]
        maps = [*read, *([] if out is None else [out])]
        spans = sorted((found.offset, found.offset + found.floats) for found in maps)
        assert all(one[1] <= two[0] for one, two in pairwise(spans)), place
        assert all(stop <= program.arena_numbers for _, stop in spans)


def test_layers_read_one_map_and_no_sum_exceeds_31_bits() -> None:
    program = lenet()
    bits = {id(item.stage.out): item.out_bits for item in program.stages}
    for item in program.stages:
        if item.weight is None or item.stage.kind != Kind.CONV:
            continue
        (leaf,) = item.stage.value.leaves()
        largest = 1 << bits.get(id(leaf.map), 15)
        assert np.abs(item.weight.core()).sum((1, 2, 3)).max() * largest < 1 << 31


def test_weights_are_theirs_to_16_bits() -> None:
    numbers = torch.randn(4 * 3 * 3 * 3, generator=torch.Generator().manual_seed(0)).numpy()
    weight = integer_weight(Weight("w", numbers, (4, 3, 3, 3), (4, 3, 3, 3)))
    weight.set_for_core(10)
    assert weight.is_rounded
    found = np.ldexp(weight.dense().astype(float), weight.exponent).reshape(-1)
    np.testing.assert_allclose(found, numbers, atol=2.0**-13 * np.abs(numbers).max())


@given(data=st.data())
@settings(max_examples=60, deadline=None)
def test_the_shift_of_a_core_is_the_first_of_all_that_fits(data: st.DataObject) -> None:
    random = np.random.default_rng(data.draw(st.integers(0, 1000)))
    num_out, num_in, rows, columns = (data.draw(st.integers(1, most)) for most in (9, 9, 4, 4))
    axes = tuple(sorted(data.draw(st.sets(st.integers(0, 3), min_size=1))))
    model = nn.Conv2d(num_in, num_out, (rows, columns), bias=False)
    tailcut.regularize(model, keep_ratio=data.draw(st.sampled_from([0.1, 0.4, 0.8])), axes=axes)
    tensor = tailcut.weights.truncated_tensors(model)[0]
    corner, orders = four(tensor.truncation.corner_shape), tensor.truncation.order_weights
    numbers = (random.standard_normal(tensor.num_kept) ** data.draw(st.sampled_from([1, 9]))).astype(np.float32)
    weight = integer_weight(Weight("w", numbers, four(tensor.shape), corner, tensor.axes, orders, True))
    bits = data.draw(st.integers(6, 15))
    weight.set_for_core(bits)
    assert weight.core_shift == next(shift for shift in range(31) if weight._fits_core(shift, bits))
    assert np.abs(weight.core()).sum((1, 2, 3)).max() << bits < 1 << 31


def test_a_dense_tensor_is_the_inverse_dct() -> None:
    model = nn.Conv2d(6, 5, 3)
    tailcut.regularize(model, num_kept=40)
    tensor = tailcut.weights.truncated_tensors(model)[0]
    numbers = tensor.coefficients().detach().numpy()
    corner = four(tensor.truncation.corner_shape)
    weight = Weight("w", numbers, (5, 6, 3, 3), corner, (0, 1, 2, 3), tensor.truncation.order_weights, True)
    whole = made_dense(weight, keeps_out=False).numbers.reshape(5, 6, 3, 3)
    np.testing.assert_allclose(whole, model.weight.detach().numpy(), atol=1e-6)
    narrow = made_dense(weight, keeps_out=True).numbers.reshape(corner[0], -1)
    scales = np.full(corner[0], np.sqrt(2 / 5))
    scales[0] = np.sqrt(1 / 5)
    spread = scipy.fft.idct(narrow / scales[:, None], n=5, axis=0, norm="ortho")
    np.testing.assert_allclose(spread, whole.reshape(5, -1), atol=1e-6)


def test_the_header_tells_what_a_caller_needs() -> None:
    program = lenet()
    plan(program)
    text = write_program(program, "model", "a comment")
    assert f"#define MODEL_ARENA_NUMBERS {program.arena_numbers}u" in text.header
    assert "#define MODEL_OUTPUTS 1u" in text.header
    assert "float" not in text.source
