import copy
import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.fft import dctn, idctn
from torch import Tensor

from tailcut.errors import ArgumentError
from tailcut.transform import l1_order
from tailcut.weights.parametrization.truncation import Truncation, compute_type

TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-12}


def noise(*shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64).to(dtype)


def truncation(shape: tuple[int, ...], length: int, **settings: Any) -> Truncation:
    axes = settings.pop("axes", tuple(range(len(shape))))
    weights = settings.pop("order_weights", (1,) * len(axes))
    settings.setdefault("dtype", torch.float64)
    return Truncation(shape, length, axes=axes, order_weights=weights, **settings)


def rebuilt_by_scipy(module: Truncation, vector: Tensor) -> np.ndarray:
    """Equation 2 as it stands: the whole tensor T, zero behind the first coefficients, then the inverse DCT."""
    spectrum = np.zeros(math.prod(module.shape))
    order = l1_order(module.shape, len(vector), axes=module.axes, weights=module.order_weights)
    spectrum[order.numpy()] = vector.double().numpy()
    whole = spectrum.reshape(module.shape)
    return np.asarray(idctn(whole, axes=module.axes, norm="ortho")) if module.axes else whole


@st.composite
def cases(draw: st.DrawFn) -> tuple[Truncation, Tensor]:
    shape = tuple(draw(st.lists(st.sampled_from([1, 2, 3, 3, 4, 7, 12]), max_size=5)))
    axes = tuple(sorted(draw(st.sets(st.sampled_from(range(len(shape)))) if shape else st.just(set()))))
    weights = tuple(draw(st.lists(st.integers(1, 5), min_size=len(axes), max_size=len(axes))))
    length = draw(st.integers(1, math.prod(shape)))
    dtype = draw(st.sampled_from(list(TOLERANCE)))
    return truncation(shape, length, axes=axes, order_weights=weights, dtype=dtype), noise(length, dtype=dtype)


@given(cases())
def test_forward_is_the_inverse_dct_of_the_first_coefficients(case: tuple[Truncation, Tensor]) -> None:
    module, vector = case
    weight = module(vector)
    assert weight.shape == module.shape
    assert weight.dtype == vector.dtype
    expected = rebuilt_by_scipy(module, vector)
    np.testing.assert_allclose(weight.numpy(), expected, rtol=0, atol=10 * TOLERANCE[vector.dtype])


@given(cases())
def test_right_inverse_is_the_first_coefficients_of_the_dct(case: tuple[Truncation, Tensor]) -> None:
    module, vector = case
    weight = noise(*module.shape, dtype=vector.dtype)
    spectrum = weight.double().numpy()
    if module.axes:
        spectrum = dctn(spectrum, axes=module.axes, norm="ortho")
    order = l1_order(module.shape, module.length, axes=module.axes, weights=module.order_weights)
    result = module.right_inverse(weight)
    assert result.dtype == vector.dtype
    np.testing.assert_allclose(
        result.numpy(), spectrum.reshape(-1)[order.numpy()], rtol=0, atol=TOLERANCE[vector.dtype]
    )


@given(cases(), st.data())
def test_cut_counts_the_tail_as_zero(case: tuple[Truncation, Tensor], data: st.DataObject) -> None:
    module, vector = case
    num_kept = data.draw(st.integers(1, module.length))
    module.cut(num_kept)
    assert (module.num_kept, module.length) == (num_kept, len(vector))
    vector[num_kept:] = math.nan
    vector.requires_grad_()
    weight = module(vector)
    expected = rebuilt_by_scipy(module, vector.detach()[:num_kept])
    np.testing.assert_allclose(weight.detach().numpy(), expected, rtol=0, atol=10 * TOLERANCE[vector.dtype])
    weight.sum().backward()
    assert vector.grad is not None
    assert torch.all(vector.grad[num_kept:] == 0)
    assert torch.isfinite(vector.grad).all()


def test_large_corner_takes_the_fft() -> None:
    module = truncation((300, 5), 1400)
    assert [stage.by_fft for stage in module.stages].count(True) == 1
    vector = noise(1400)
    np.testing.assert_allclose(module(vector).numpy(), rebuilt_by_scipy(module, vector), rtol=0, atol=1e-12)
    torch.testing.assert_close(module.right_inverse(module(vector)), vector, rtol=0, atol=1e-12)


def test_on_a_gpu_large_corners_take_matrices() -> None:
    truncation = Truncation((300, 300), 60_000, axes=(0, 1), order_weights=(1, 1))
    assert truncation.planned(truncation.corner_shape, torch.device("cpu")) == truncation.stages
    assert any(stage.by_fft for stage in truncation.stages)
    stages = truncation.planned(truncation.corner_shape, torch.device("cuda"))
    assert not any(stage.by_fft for stage in stages)
    vector = torch.randn(60_000, generator=torch.Generator().manual_seed(0))
    whole = truncation.corner(vector)
    for stage in stages:
        whole = stage.expand(whole, stage.basis(torch.float32))
    torch.testing.assert_close(whole, truncation(vector), rtol=1e-4, atol=1e-4)


def test_whole_vector_is_the_whole_tensor() -> None:
    weight = noise(6, 5, 3, 3)
    module = truncation(weight.shape, weight.numel())
    torch.testing.assert_close(module(module.right_inverse(weight)), weight, rtol=0, atol=1e-12)


def test_projection_is_the_closest_truncated_tensor() -> None:
    weight = noise(7, 6)
    module = truncation(weight.shape, 10)
    best = module.right_inverse(weight)
    error = (module(best) - weight).square().sum()
    for _ in range(5):
        other = best + 0.1 * torch.randn(10, dtype=torch.float64)
        assert (module(other) - weight).square().sum() > error


@pytest.mark.parametrize("cut", [None, 7])
def test_gradcheck(cut: int | None) -> None:
    module = truncation((4, 3, 3), 20, order_weights=(1, 2, 1))
    if cut is not None:
        module.cut(cut)
    assert torch.autograd.gradcheck(module, (noise(20).requires_grad_(),))
    assert torch.autograd.gradcheck(module.right_inverse, (noise(4, 3, 3).requires_grad_(),))


@pytest.mark.parametrize("num_kept", [0, -1, 21])
def test_cut_out_of_range(num_kept: int) -> None:
    with pytest.raises(ArgumentError, match=f"expected 1 to 20 coefficients to keep, got {num_kept}"):
        truncation((4, 5), 20).cut(num_kept)


@pytest.mark.parametrize(("precision", "dtype"), [("float16", torch.float16), ("bfloat16", torch.bfloat16)])
def test_precision_rounds_straight_through(precision: str, dtype: torch.dtype) -> None:
    exact = truncation((6, 5), 17, dtype=torch.float32)
    module = truncation((6, 5), 17, dtype=torch.float32, precision=precision)
    # Besides ordinary numbers: too small for the type, halfway between two of its numbers, and zero.
    vector = noise(17, dtype=torch.float32) * 3
    vector[:5] = torch.tensor([1e-9, 3e-8, 1 + 2**-11, 0.0, -2e-8])
    rounded = vector.to(dtype).float()
    assert not torch.equal(rounded, vector)
    assert torch.equal(module.coefficients(vector), rounded)
    assert torch.equal(module(vector), exact(rounded))
    ours, theirs = vector.clone().requires_grad_(), vector.clone().requires_grad_()
    weights = noise(6, 5, dtype=torch.float32)
    (module(ours) * weights).sum().backward()
    (exact(theirs) * weights).sum().backward()
    assert ours.grad is not None
    assert theirs.grad is not None
    assert torch.equal(ours.grad, theirs.grad)


def test_unknown_precision() -> None:
    with pytest.raises(ArgumentError, match="expected a precision of float32, float16, bfloat16, got 'int8'"):
        truncation((3, 3), 4, precision="int8")


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_vectors_are_expanded_in_float32(dtype: torch.dtype) -> None:
    module = truncation((20, 15), 60, dtype=dtype)
    vector = noise(60, dtype=dtype)
    assert module.basis_type == compute_type(dtype) == torch.float32
    weight = module(vector)
    assert weight.dtype == dtype
    assert torch.equal(weight, module(vector.float()).to(dtype))


def test_autocast_changes_nothing() -> None:
    module = truncation((20, 15), 60, dtype=torch.float32)
    vector, weight = noise(60, dtype=torch.float32), noise(20, 15, dtype=torch.float32)
    expected, projected = module(vector), module.right_inverse(weight)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(module(vector), expected)
        assert torch.equal(module.right_inverse(weight), projected)


def test_constants_are_no_state() -> None:
    module = truncation((6, 5), 17)
    assert module.state_dict() == {}
    assert list(module.parameters()) == []


def test_conversions_do_not_round_the_bases() -> None:
    vector = noise(60)
    expected = rebuilt_by_scipy(truncation((20, 15), 60), vector)
    module = truncation((20, 15), 60, dtype=torch.float32)
    module.cut(60)
    for conversion in ("half", "bfloat16", "float"):
        getattr(module, conversion)()
        assert all(basis is None or basis.dtype == torch.float32 for basis in module._bases())
    np.testing.assert_allclose(module(vector.float()).numpy(), expected, rtol=0, atol=1e-5)
    module.double()
    np.testing.assert_allclose(module(vector).numpy(), expected, rtol=0, atol=1e-12)
    module.float()
    np.testing.assert_allclose(module(vector.float()).numpy(), expected, rtol=0, atol=1e-5)


# torch's own, about all complex modules
@pytest.mark.filterwarnings("ignore:Complex modules are a new feature:UserWarning")
def test_complex_types_are_refused() -> None:
    module = truncation((6, 5), 17, dtype=torch.float32)
    message = r"expected a real type for coefficients, got torch\.complex64: their imaginary part would be lost"
    with pytest.raises(ArgumentError, match=message):
        module.to(torch.complex64)
    with pytest.raises(ArgumentError, match=message):
        module(torch.ones(17, dtype=torch.complex64))
    assert module.basis_type == torch.float32
    assert module(torch.ones(17)).dtype == torch.float32


def test_conversions_keep_the_count() -> None:
    module = truncation((6, 5), 17, dtype=torch.float32)
    module.cut(9)
    assert module.double().num_kept == 9
    assert module.half().num_kept == 9
    assert module.to("cpu").num_kept == 9


def test_vectors_of_another_type_than_the_bases_work() -> None:
    """As in torch.func.functional_call with parameters of the caller's own."""
    module = truncation((6, 5), 17, dtype=torch.float32)
    vector = noise(17)
    weight = module(vector)
    assert weight.dtype == torch.float64
    np.testing.assert_allclose(weight.numpy(), rebuilt_by_scipy(module, vector), rtol=0, atol=1e-5)


@pytest.mark.parametrize("built_on_meta", [True, False])
def test_through_the_meta_device(built_on_meta: bool) -> None:
    vector = noise(17, dtype=torch.float32)
    expected = truncation((6, 5), 17, dtype=torch.float32)(vector)
    if built_on_meta:
        module = truncation((6, 5), 17, dtype=torch.float32, device="meta")
    else:
        module = truncation((6, 5), 17, dtype=torch.float32).to("meta")
    assert module(vector.to("meta")).shape == (6, 5)
    assert module.right_inverse(expected.to("meta")).shape == (17,)
    assert module.num_kept == module.length == 17
    assert copy.deepcopy(module).to_empty(device="cpu")(vector).equal(expected)
    module.to_empty(device="cpu")
    assert torch.equal(module(vector), expected)
    module.to_empty(device="cpu")
    assert torch.equal(module(vector), expected)


def test_resize() -> None:
    module = truncation((6, 5), 17)
    module.cut(9)
    for length in (4, 30, 1):
        module.resize(length)
        assert module.length == module.num_kept == length
        vector = noise(length)
        np.testing.assert_allclose(module(vector).numpy(), rebuilt_by_scipy(module, vector), rtol=0, atol=1e-12)


def test_resize_across_the_fft_leaves_no_basis_behind() -> None:
    module = truncation((300, 2, 70), 41_000)
    assert any(stage.by_fft for stage in module.stages)
    module.resize(3)
    assert len([name for name in module._buffers if name.startswith("basis_")]) == len(module.stages)
    vector = noise(3)
    np.testing.assert_allclose(module(vector).numpy(), rebuilt_by_scipy(module, vector), rtol=0, atol=1e-12)


def test_copies_share_constants_but_not_the_count() -> None:
    module = truncation((60, 50), 1700)
    module.cut(1000)
    copied = copy.deepcopy(module)
    assert copied.positions is module.positions
    copied.cut(9)
    assert (module.num_kept, copied.num_kept) == (1000, 9)
    copied.resize(5)
    assert (module.length, copied.length) == (1700, 5)
    module.double()
    module.resize(7)
    assert copied(noise(5)).shape == (60, 50)


def test_inference_mode_leaves_nothing_behind() -> None:
    with torch.inference_mode():
        module = truncation((6, 5), 17)
        module.cut(10)
        copied, resized = copy.deepcopy(module), copy.deepcopy(module)
        resized.resize(12)
    for each in (module, copied, resized):
        each.cut(5)
        each(noise(each.length).requires_grad_()).sum().backward()


def test_inverse_of_several_kinds() -> None:
    module = truncation((6, 5), 17)
    weight = noise(6, 5)
    projected = module.right_inverse(weight)
    module.attaching = "blank"
    assert torch.equal(module.right_inverse(weight), torch.zeros(17, dtype=torch.float64))
    module.attaching = "adopt"
    assert torch.equal(module.right_inverse(projected), projected)


def test_averages_of_buffers_leave_positions_and_drop_what_the_model_dropped() -> None:
    model = truncation((6, 5), 17)
    average = copy.deepcopy(model)
    for num_kept in (17, 12, 5):
        model.cut(num_kept)
        for ours, theirs in zip(average.buffers(), model.buffers(), strict=True):
            ours.copy_(0.999 * ours + 0.001 * theirs)
        assert average.num_kept == num_kept
    assert torch.equal(average.positions, truncation((6, 5), 17).positions)


def test_representation() -> None:
    assert repr(truncation((6, 5), 17, axes=(1,))) == "Truncation(shape=(6, 5), axes=(1,), num_kept=17)"
