import math
import sys
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.fft import dct as scipy_dct
from scipy.fft import dctn, idctn
from torch import Tensor

from tailcut.errors import ArgumentError
from tailcut.transform import dct, dct_basis, idct
from tailcut.transform.dct import (
    FFT_MIN_SIZE,
    expand_axis,
    expand_axis_by_fft,
    kernel_dct,
    project_axis,
    project_axis_by_fft,
    without_autocast,
)

Transform = Callable[..., Tensor]
TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-12}
AROUND_FFT = [FFT_MIN_SIZE - 1, FFT_MIN_SIZE, FFT_MIN_SIZE + 1]
SIZES = [1, 2, 3, 4, 5, 7, 8, 11, 16, 31, 64, 97, 128, *AROUND_FFT, 509, 512, 1000, 2187, 4093, 4095, 4096]
BOTH = pytest.mark.parametrize(("ours", "reference"), [(dct, dctn), (idct, idctn)], ids=["dct", "idct"])
# The package has a function of the same name, which hides the module.
module = sys.modules["tailcut.transform.dct"]


def noise(*shape: int, dtype: torch.dtype = torch.float64, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


@BOTH
@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("size", SIZES)
def test_one_axis_like_scipy(
    ours: Transform, reference: Callable[..., np.ndarray], size: int, dtype: torch.dtype
) -> None:
    x = noise(3, size, dtype=dtype)
    expected = reference(x.double().numpy(), axes=[1], norm="ortho")
    result = ours(x, axes=[1])
    assert result.dtype == dtype
    np.testing.assert_allclose(result.numpy(), expected, rtol=0, atol=TOLERANCE[dtype])


@BOTH
@given(data=st.data())
def test_any_axes_of_any_tensor_like_scipy(
    ours: Transform, reference: Callable[..., np.ndarray], data: st.DataObject
) -> None:
    shape = data.draw(st.lists(st.integers(1, 7), min_size=0, max_size=6))
    axes = data.draw(
        st.lists(st.integers(-len(shape), len(shape) - 1), unique_by=lambda axis: axis % len(shape))
        if shape
        else st.just([])
    )
    dtype = data.draw(st.sampled_from(list(TOLERANCE)))
    x = noise(*shape, dtype=dtype)
    expected = reference(x.double().numpy(), axes=axes, norm="ortho") if axes else x.double().numpy()
    np.testing.assert_allclose(ours(x, axes).numpy(), expected, rtol=0, atol=TOLERANCE[dtype])


@BOTH
def test_all_axes_by_default_through_matrix_and_fft(ours: Transform, reference: Callable[..., np.ndarray]) -> None:
    x = noise(5, FFT_MIN_SIZE + 3, 6)
    np.testing.assert_allclose(ours(x).numpy(), reference(x.numpy(), norm="ortho"), rtol=0, atol=1e-12)


@pytest.mark.parametrize("size", SIZES)
def test_idct_inverts_dct(size: int) -> None:
    x = noise(2, size)
    torch.testing.assert_close(idct(dct(x, [1]), [1]), x, rtol=0, atol=1e-12)
    torch.testing.assert_close(dct(x, [1]).square().sum(), x.square().sum(), rtol=1e-12, atol=0)


@BOTH
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("size", [12, FFT_MIN_SIZE + 1])
def test_half_precision_is_computed_in_float32(
    ours: Transform, reference: Callable[..., np.ndarray], size: int, dtype: torch.dtype
) -> None:
    x = noise(4, size, dtype=dtype)
    result = ours(x)
    assert result.dtype == dtype
    assert torch.equal(result, ours(x.float()).to(dtype))
    expected = reference(x.double().numpy(), norm="ortho")
    np.testing.assert_allclose(result.double().numpy(), expected, rtol=torch.finfo(dtype).eps, atol=1e-5)


@BOTH
@pytest.mark.parametrize("size", [12, FFT_MIN_SIZE + 1])
def test_autocast_does_not_round(ours: Transform, reference: object, size: int) -> None:
    x = noise(4, size, dtype=torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        result = ours(x)
        assert (x @ x.T).dtype == torch.bfloat16
    assert torch.equal(result, ours(x))


@BOTH
@pytest.mark.parametrize("min_size", [1, FFT_MIN_SIZE], ids=["fft", "matrix"])
@pytest.mark.parametrize("shape", [(5, 3), (4, 6), (1, 7, 2)])
def test_gradcheck(
    ours: Transform, reference: object, shape: tuple[int, ...], min_size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "FFT_MIN_SIZE", min_size)
    x = noise(*shape).requires_grad_()
    assert torch.autograd.gradcheck(ours, (x,))
    assert torch.autograd.gradgradcheck(ours, (x,))


@BOTH
@pytest.mark.parametrize("size", [6, FFT_MIN_SIZE + 2])
def test_gradient_is_the_transpose(ours: Transform, reference: object, size: int) -> None:
    x, y = noise(3, size).requires_grad_(), noise(3, size, seed=1)
    (ours(x) * y).sum().backward()
    inverse = idct if ours is dct else dct
    assert x.grad is not None
    torch.testing.assert_close(x.grad, inverse(y), rtol=0, atol=1e-12)


@BOTH
@pytest.mark.parametrize("size", [9, FFT_MIN_SIZE + 1])
def test_non_contiguous_inputs(ours: Transform, reference: Callable[..., np.ndarray], size: int) -> None:
    whole = noise(2 * size, 3, 8)
    for x in (whole.permute(2, 0, 1), whole[::2], whole[:, :, 1:7:2], whole.flip(0), noise(1, 4).expand(size, 4)):
        expected = reference(x.contiguous().numpy(), norm="ortho")
        before = x.clone()
        np.testing.assert_allclose(ours(x).numpy(), expected, rtol=0, atol=1e-12)
        assert torch.equal(x, before)


@BOTH
def test_channels_last(ours: Transform, reference: Callable[..., np.ndarray]) -> None:
    x = noise(2, 4, 5, 3).to(memory_format=torch.channels_last)
    np.testing.assert_allclose(ours(x).numpy(), reference(x.numpy(), norm="ortho"), rtol=0, atol=1e-12)


@BOTH
@pytest.mark.parametrize("shape", [(0,), (3, 0), (0, 300), (2, 0, 5)])
def test_empty_tensors(ours: Transform, reference: object, shape: tuple[int, ...]) -> None:
    x = torch.zeros(shape)
    assert ours(x).shape == shape
    assert ours(x, axes=[0]) is not x


@BOTH
@pytest.mark.parametrize("axes", [None, (), (0,)])
def test_result_never_shares_memory(ours: Transform, reference: object, axes: tuple[int, ...] | None) -> None:
    x = torch.ones(1, 1)
    result = ours(x, axes)
    result.fill_(7.0)
    assert x.item() == 1.0


def test_scalar_is_its_own_transform() -> None:
    assert dct(torch.tensor(3.0)).item() == idct(torch.tensor(3.0)).item() == 3.0


@BOTH
@pytest.mark.parametrize("dtype", [torch.int64, torch.bool, torch.complex64], ids=str)
def test_other_types_are_refused(ours: Transform, reference: object, dtype: torch.dtype) -> None:
    with pytest.raises(ArgumentError, match="expected a floating-point tensor to transform, got torch"):
        ours(torch.ones(3, dtype=dtype))


@BOTH
@pytest.mark.parametrize("axes", [[2], [-3], [0, 0], [0, -2], [0, 1, 0]])
def test_axes_out_of_range_or_twice(ours: Transform, reference: object, axes: list[int]) -> None:
    with pytest.raises(ArgumentError, match=r"expected different axes of a tensor with 2 axes, got \("):
        ours(torch.ones(3, 4), axes)


@BOTH
@pytest.mark.parametrize("axes", [1, [1.0], ["0"], [True], "01"])
def test_axes_that_are_no_integers(ours: Transform, reference: object, axes: object) -> None:
    with pytest.raises(ArgumentError, match="expected a list of integers as axes"):
        ours(torch.ones(3, 4), axes)


@BOTH
@pytest.mark.parametrize("size", [6, FFT_MIN_SIZE + 1])
def test_meta_tensors_and_vmap(ours: Transform, reference: object, size: int) -> None:
    assert ours(torch.empty(3, size, device="meta")).shape == (3, size)
    x = noise(4, 3, size)
    torch.testing.assert_close(torch.func.vmap(ours)(x), ours(x, [1, 2]), rtol=0, atol=1e-12)


@BOTH
@pytest.mark.parametrize("size", [6, FFT_MIN_SIZE + 1])
def test_compiles_without_a_break_or_a_warning(ours: Transform, reference: object, size: int) -> None:
    torch.compiler.reset()
    x = noise(3, size, dtype=torch.float32)
    compiled = torch.compile(ours, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(x), ours(x))


@pytest.mark.parametrize(("size", "num_kept"), [(1, 1), (2, 1), (5, None), (97, 13), (256, 256), (4093, 7), (700, 650)])
def test_basis_is_orthonormal_and_scipys(size: int, num_kept: int | None) -> None:
    basis = dct_basis(size, num_kept, dtype=torch.float64)
    kept = size if num_kept is None else num_kept
    assert basis.shape == (kept, size)
    torch.testing.assert_close(basis @ basis.T, torch.eye(kept, dtype=torch.float64), rtol=0, atol=1e-12)
    expected = np.stack([scipy_dct(np.eye(size)[place], norm="ortho")[:kept] for place in (0, size // 2, size - 1)])
    np.testing.assert_allclose(basis[:, [0, size // 2, size - 1]].T.numpy(), expected, rtol=0, atol=1e-12)


def test_basis_is_the_callers_own() -> None:
    basis = dct_basis(6, 3, dtype=torch.float64)
    expected = basis.clone()
    basis.zero_()
    assert torch.equal(dct_basis(6, 3, dtype=torch.float64), expected)
    assert dct_basis(6, 3, dtype=torch.bfloat16).dtype == torch.bfloat16


def test_basis_is_accurate_for_long_axes() -> None:
    size = 100_003
    last = dct_basis(size, 2, dtype=torch.float64)[1]
    exact = [math.cos(math.pi * (2 * place + 1) / (2 * size)) * math.sqrt(2 / size) for place in (0, 777, size - 1)]
    np.testing.assert_allclose(last[[0, 777, size - 1]].numpy(), exact, rtol=1e-12)


@pytest.mark.parametrize(("size", "num_kept"), [(0, None), (-1, 1), (4, 0), (4, 5), (4, -1)])
def test_basis_out_of_range(size: int, num_kept: int | None) -> None:
    with pytest.raises(ArgumentError, match="cosines of an axis of length >= 1, got"):
        dct_basis(size, num_kept)


def test_large_bases_are_not_kept_in_memory() -> None:
    assert module._cached_basis.cache_info().maxsize * 8 * module.MAX_CACHED_SIZE <= 40_000_000
    before = module._cached_basis.cache_info().currsize
    dct_basis(4001, 100)
    assert module._cached_basis.cache_info().currsize == before


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("num_kept", [1, 4, 9])
def test_truncated_axis_both_ways(axis: int, num_kept: int) -> None:
    shape = [3, 4, 5]
    shape[axis] = num_kept
    x = noise(*shape)
    padded = torch.nn.functional.pad(x.movedim(axis, -1), (0, 9 - num_kept)).movedim(-1, axis)
    expected = idctn(padded.numpy(), axes=[axis], norm="ortho")
    basis = dct_basis(9, num_kept, dtype=torch.float64)
    for whole in (expand_axis(x, axis, basis), expand_axis_by_fft(x, axis, 9)):
        np.testing.assert_allclose(whole.numpy(), expected, rtol=0, atol=1e-12)
        torch.testing.assert_close(project_axis(whole, axis, basis), x, rtol=0, atol=1e-12)
        torch.testing.assert_close(project_axis_by_fft(whole, axis, num_kept), x, rtol=0, atol=1e-12)


@BOTH
@pytest.mark.parametrize("block", [1, 2 * (FFT_MIN_SIZE + 1), 7 * (FFT_MIN_SIZE + 1) + 3])
def test_blocks_of_rows_make_no_difference(
    ours: Transform, reference: Callable[..., np.ndarray], block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "FFT_BLOCK", block)
    x = noise(3, FFT_MIN_SIZE + 1, 5).requires_grad_()
    result = ours(x, [1])
    expected = reference(x.detach().numpy(), axes=[1], norm="ortho")
    np.testing.assert_allclose(result.detach().numpy(), expected, rtol=0, atol=1e-12)
    (gradient,) = torch.autograd.grad(result.square().sum(), x)
    torch.testing.assert_close(gradient, 2 * x.detach(), rtol=0, atol=1e-12)


@BOTH
@pytest.mark.parametrize("shape", [(7, 100, 3), (2, 90, 2), (5, 40, 33), (3, 4, 2), (1, 64, 2), (6, 64, 1)])
def test_middle_axes_of_every_width(
    ours: Transform, reference: Callable[..., np.ndarray], shape: tuple[int, ...]
) -> None:
    x = noise(*shape)
    np.testing.assert_allclose(ours(x, [1]).numpy(), reference(x.numpy(), axes=[1], norm="ortho"), rtol=0, atol=1e-12)


@BOTH
@pytest.mark.parametrize("size", [5, FFT_MIN_SIZE + 1])
def test_strides_are_usual_where_axes_have_size_1(ours: Transform, reference: object, size: int) -> None:
    x = noise(6, size, 1, 1)
    assert ours(x, [0, 1]).stride() == ours(x, [1]).stride() == x.stride()


def test_without_autocast() -> None:
    x = torch.ones(2, 2)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert (x @ x).dtype == torch.bfloat16
        with without_autocast(x.device):
            assert (x @ x).dtype == torch.float32
        with without_autocast(torch.device("meta")):
            assert (x @ x).dtype == torch.bfloat16


@pytest.mark.parametrize(
    "shape", [(4, 3), (4, 3, 5), (4, 3, 3, 3), (4, 1, 1, 1), (4, 3, 7, 7), (2, 3, 2, 3, 4), (0, 3, 3, 3)]
)
def test_kernels_are_transformed_at_once_as_along_each_axis(shape: tuple[int, ...]) -> None:
    x, axes = noise(*shape), range(2, len(shape))
    wanted = dctn(x.numpy(), axes=axes, norm="ortho") if axes and x.numel() else x.numpy()
    torch.testing.assert_close(kernel_dct(x), torch.from_numpy(wanted))
    torch.testing.assert_close(kernel_dct(torch.from_numpy(wanted), inverse=True), x)


def test_kernels_keep_their_type_and_precision_under_autocast() -> None:
    x = noise(4, 3, 3, 3, dtype=torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found, short = kernel_dct(x), kernel_dct(x.bfloat16())
    torch.testing.assert_close(found, torch.from_numpy(dctn(x.numpy(), axes=(2, 3), norm="ortho")))
    assert short.dtype == torch.bfloat16
