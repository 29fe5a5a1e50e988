"""Steps and transforms, against SciPy."""

from typing import Any

import numpy as np
import pytest
import scipy.fft
import torch
from torch import Tensor

from tailcut.errors import ArgumentError, CorruptFileError
from tailcut.format.quantized import Coded, Layout, dequantize
from tailcut.format.quantized.values import (
    DCT,
    KERNEL_DCT,
    LOG2,
    NONE,
    coded,
    largest_step,
    nearest_step,
    quantize,
    step_size,
    transform_of,
)

X = torch.randn(4, 3, 5, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
LAYOUT = Layout("weight", tuple(X.shape), X.numel())


@pytest.mark.parametrize("step", [-400, -9, -1, 0, 1, 7, 8, 400])
def test_steps_are_eighths_of_octaves(step: int) -> None:
    assert step_size(step) == pytest.approx(2 ** (step / 8), rel=1e-15)
    assert nearest_step(step_size(step) * 1.03) == step


def test_steps_keep_within_what_a_file_holds() -> None:
    assert (nearest_step(0.0), nearest_step(1e30), nearest_step(1e-30)) == (-400, 400, -400)


@pytest.mark.parametrize(
    ("transform", "expected"),
    [
        (NONE, X.numpy()),
        (DCT, scipy.fft.dctn(X.numpy(), norm="ortho")),
        (KERNEL_DCT, scipy.fft.dctn(X.numpy(), axes=(2, 3), norm="ortho")),
        (LOG2, np.log2(X.abs().numpy())),
    ],
)
def test_transforms(transform: int, expected: np.ndarray) -> None:
    values = X.abs() if transform == LOG2 else X
    found = transform_of(values, LAYOUT, transform)
    np.testing.assert_allclose(found.numpy(), expected.reshape(-1), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("transform", [NONE, LOG2, DCT, KERNEL_DCT])
@pytest.mark.parametrize("axes", [(0,), (1, 3), (0, 1, 2, 3)])
def test_steps_differ_along_axes(transform: int, axes: tuple[int, ...]) -> None:
    generator = np.random.default_rng(0)
    shifts = {axis: generator.integers(-9, 9, X.shape[axis]) for axis in axes}
    exponents = np.full(X.shape, -37 / 8)
    for axis, shift in shifts.items():
        exponents += (shift / 4).reshape(-1, *(1,) * (3 - axis))
    numbers = generator.integers(-40, 40, X.numel())
    expected = (numbers.reshape(X.shape) + 2) * 2**exponents
    if transform == LOG2:
        expected = 2**expected
    elif transform != NONE:
        expected = scipy.fft.idctn(expected, axes=(2, 3) if transform == KERNEL_DCT else None, norm="ortho")
    found = dequantize(Coded(numbers, transform, -37, 2, shifts=shifts), LAYOUT)
    np.testing.assert_allclose(found.numpy(), expected.reshape(-1), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    ("step", "rows", "columns", "message"),
    [
        (0, [0, 201], [0, 0, 0], r"steps of 2\^\(0 / 8\) to 2\^\(402 / 8\)"),
        (0, [0, 100], [0, 0, 101], "steps of"),
        (-399, [0, 0], [-1, 0, 0], "steps of"),
        (0, [1 << 19, 0], [0, 0, 0], "steps of"),
    ],
)
def test_steps_out_of_range(step: int, rows: list[int], columns: list[int], message: str) -> None:
    tensor = Coded(np.arange(6), step=step, shifts={0: np.array(rows), 1: np.array(columns)})
    for call in (lambda: dequantize(tensor, Layout("weight", (2, 3), 6)), lambda: largest_step(tensor)):
        with pytest.raises(CorruptFileError, match=message):
            call()


def test_shifts_that_cancel() -> None:
    tensor = Coded(np.arange(6), shifts={0: np.array([1000, 1000]), 1: np.array([-1000, -1000, -1000])})
    assert dequantize(tensor, Layout("weight", (2, 3), 6)).tolist() == [0, 1, 2, 3, 4, 5]


def test_the_largest_step() -> None:
    assert largest_step(Coded(np.zeros(6), step=-8)) == 0.5
    assert largest_step(Coded(np.zeros(6), step=-8, shifts={0: np.array([0, 3]), 1: np.array([1, -2, 0])})) == 1.0


@pytest.mark.parametrize("transform", [NONE, DCT, KERNEL_DCT, LOG2])
@pytest.mark.parametrize("step", [-40, -13, -4])
def test_every_number_is_within_half_a_step(transform: int, step: int) -> None:
    values = X.abs() + 0.1 if transform == LOG2 else X + 3
    tensor = quantize(values, LAYOUT, transform, step)
    back = dequantize(tensor, LAYOUT)
    assert back.dtype == torch.float32
    apart = transform_of(back, LAYOUT, transform) - transform_of(values, LAYOUT, transform)
    assert float(apart.abs().max()) <= step_size(step) / 2 + 2e-6


def test_numbers_around_another_one_have_an_offset() -> None:
    gains = 1 + 0.02 * torch.randn(64, generator=torch.Generator().manual_seed(1))
    layout = Layout("weight", (64,), 64)
    tensor = quantize(gains, layout, NONE, nearest_step(0.01))
    assert tensor.offset == pytest.approx(100, abs=6)
    assert np.abs(tensor.numbers).max() < 12
    assert float((dequantize(tensor, layout) - gains).abs().max()) <= 0.0053


def test_zeros_at_the_end_are_cut() -> None:
    layout = Layout("running_mean", (64,), 64)
    smooth = torch.cos(torch.arange(64) * torch.pi / 64)
    tensor = quantize(smooth, layout, DCT, nearest_step(0.5))
    assert len(tensor.numbers) < 10
    assert float((dequantize(tensor, layout) - smooth).abs().max()) < 0.25


def test_a_step_too_fine_is_an_error() -> None:
    with pytest.raises(ArgumentError, match=r"step of .* is too fine for numbers up to"):
        quantize(torch.tensor([1.0]), Layout("weight", (1,), 1), NONE, -400)


def of(numbers: list[int], shape: tuple[int, ...], **settings: Any) -> Tensor:
    layout = Layout("weight", shape, len(numbers))
    return dequantize(Coded(np.array(numbers), **settings), layout)


def test_values_must_be_finite() -> None:
    with pytest.raises(CorruptFileError, match="not finite"):
        of([1000], (1,), transform=LOG2)
    assert of([100], (1,), transform=LOG2).tolist() == [2.0**100]


def test_kernels_have_axes() -> None:
    with pytest.raises(CorruptFileError, match="along the kernel of a tensor of 2 axes"):
        of([1, 2], (1, 2), transform=KERNEL_DCT)


def test_coefficients_are_not_transformed_again() -> None:
    layout = Layout("", (2, 2), 2, order=lambda num: (np.zeros(num, np.int64), (2, 2)))
    with pytest.raises(CorruptFileError, match="transform 2 of coefficients"):
        dequantize(Coded(np.array([1, 2]), DCT), layout)


def test_nothing_to_round() -> None:
    layout = Layout("weight", (0, 3), 0)
    assert dequantize(coded(torch.zeros(0), NONE, 0, layout), layout).shape == (0,)
