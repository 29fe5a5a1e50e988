import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor

from tailcut.errors import ArgumentError
from tailcut.transform.color import RGB_TO_YCBCR, rgb_to_ycbcr, ycbcr_to_rgb


def every_colour(step: int = 5) -> np.ndarray:
    """An image (n, n^2, 3) of all colours on a grid, the corners of the cube among them."""
    levels = np.unique(np.append(np.arange(0, 256, step), 255)).astype(np.uint8)
    grid = np.stack(np.meshgrid(levels, levels, levels, indexing="ij"), axis=-1)
    return np.ascontiguousarray(grid.reshape(len(levels), -1, 3))


def to_tensor(pixels: np.ndarray) -> Tensor:
    return torch.from_numpy(pixels).permute(2, 0, 1).double()


def test_like_pillow_to_its_rounding() -> None:
    colours = every_colour()
    expected = to_tensor(np.array(Image.fromarray(colours).convert("YCbCr")))
    # Pillow rounds down, from tables that are rounded themselves.
    difference = rgb_to_ycbcr(to_tensor(colours)) - expected
    assert difference.min() > -0.05
    assert difference.max() < 1.05


def test_back_like_pillow_to_its_rounding() -> None:
    colours = every_colour()
    image = Image.frombytes("YCbCr", colours.shape[1::-1], colours.tobytes())
    expected = to_tensor(np.array(image.convert("RGB")))
    # Green is a sum of rounded terms there.
    assert (ycbcr_to_rgb(to_tensor(colours)).clamp(0, 255) - expected).abs().max() <= 1.01


def test_the_matrix_of_the_standard() -> None:
    """The digits of JFIF 1.02, section 7."""
    expected = [[0.299, 0.587, 0.114], [-0.1687, -0.3313, 0.5], [0.5, -0.4187, -0.0813]]
    np.testing.assert_allclose(RGB_TO_YCBCR, expected, atol=5e-5)
    images = torch.rand(3, 4, 5, dtype=torch.float64) * 255
    expected_planes = torch.tensor(RGB_TO_YCBCR, dtype=torch.float64) @ images.flatten(1)
    expected_planes += torch.tensor([[0.0], [128.0], [128.0]])
    torch.testing.assert_close(rgb_to_ycbcr(images).flatten(1), expected_planes, rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("rgb", "ycbcr"),
    [
        ((0, 0, 0), (0, 128, 128)),
        ((255, 255, 255), (255, 128, 128)),
        ((77, 77, 77), (77, 128, 128)),
        ((0, 0, 255), (29.07, 255.5, 107.265335)),
        ((255, 0, 0), (76.245, 84.972348, 255.5)),
    ],
)
def test_known_colours(rgb: tuple[float, ...], ycbcr: tuple[float, ...]) -> None:
    x = torch.tensor(rgb, dtype=torch.float64).reshape(3, 1, 1)
    np.testing.assert_allclose(rgb_to_ycbcr(x).flatten(), ycbcr, atol=1e-6)


@given(
    lead=st.lists(st.integers(0, 3), max_size=3),
    size=st.tuples(st.integers(0, 5), st.integers(0, 5)),
    dtype=st.sampled_from([torch.float64, torch.float32, torch.bfloat16, torch.float16]),
)
def test_there_and_back_in_any_shape_and_type(lead: list[int], size: tuple[int, int], dtype: torch.dtype) -> None:
    x = (torch.rand(*lead, 3, *size, dtype=torch.float64) * 255).to(dtype)
    there = rgb_to_ycbcr(x)
    assert there.shape == x.shape
    assert there.dtype == dtype
    assert torch.equal(there, rgb_to_ycbcr(x if dtype == torch.float64 else x.float()).to(dtype))
    tolerance = {torch.float64: 1e-12, torch.float32: 1e-4}.get(dtype, 4.0)
    torch.testing.assert_close(ycbcr_to_rgb(there), x, rtol=0, atol=tolerance)


def test_gradcheck() -> None:
    x = (torch.rand(2, 3, 2, 2, dtype=torch.float64) * 255).requires_grad_()
    assert torch.autograd.gradcheck(rgb_to_ycbcr, (x,))
    assert torch.autograd.gradcheck(ycbcr_to_rgb, (x,))


@pytest.mark.parametrize("function", [rgb_to_ycbcr, ycbcr_to_rgb])
def test_bad_input(function: object) -> None:
    assert callable(function)
    with pytest.raises(ArgumentError, match=r"expected floating-point images of 0 to 255, got torch.uint8"):
        function(torch.zeros(3, 2, 2, dtype=torch.uint8))
    for shape in ((3, 4), (1, 4, 4), (3, 4, 4, 4), ()):
        with pytest.raises(ArgumentError, match=r"expected images \(..., 3, height, width\) of .* got shape"):
            function(torch.zeros(shape))
