from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tailcut.errors import ArgumentError, DataError, StructureError
from tailcut.inputs.jpeg.coefficients import JpegCoefficients
from tailcut.inputs.stem.ycbcr import YCbCrPixels
from tailcut.inputs.transform.block_dct import BlockDCT
from tailcut.inputs.transform.input_transform import InputTransform, check_images, compute_type, input_transform_of


class Halves(InputTransform):
    """Two channels: an image's first one, and nothing."""

    def __init__(self) -> None:
        super().__init__(2)

    def unnormalized(self, images: Tensor | JpegCoefficients) -> Tensor:
        assert isinstance(images, Tensor)
        first = images[..., :1, :, :]
        return torch.cat([first, 0 * first], dim=-3)


def test_the_base_cannot_be_made() -> None:
    with pytest.raises(TypeError, match="abstract"):
        InputTransform(3)  # type: ignore[abstract]


def test_fit_measures_over_all_images() -> None:
    """The oracle is torch's own mean and spread of everything at once."""
    batches = [torch.rand(3, 3, 4, 5, dtype=torch.float64) * 9 + 100, torch.rand(2, 3, 8, 2, dtype=torch.float64)]
    values = torch.cat([batch[:, 0].flatten() for batch in batches])
    transform = Halves().double()
    assert transform.fit([(batches[0], "labels"), [list(batches[1])]]) is transform
    torch.testing.assert_close(transform.mean, torch.stack([values.mean(), values.new_zeros(())]))
    torch.testing.assert_close(transform.std, torch.stack([values.std(correction=0), values.new_ones(())]))
    assert transform.statistics(batches).count == len(values)


def test_the_spread_of_the_images_means_is_another() -> None:
    """What the published constants are: the pixels of an image differ much more than the means of images."""
    images = torch.rand(6, 3, 8, 8, dtype=torch.float64)
    transform = Halves().double().fit(images.split(4), over="images")
    means = images[:, 0].mean(dim=(1, 2))
    torch.testing.assert_close(transform.mean[0], means.mean())
    torch.testing.assert_close(transform.std[0], means.std(correction=0))
    assert transform.std[0] < 0.2 * Halves().double().fit([images]).std[0]
    with pytest.raises(ArgumentError, match="over must be one of pixels, images, got 'planes'"):
        transform.fit([images], over="planes")


def test_nothing_to_fit() -> None:
    with pytest.raises(DataError, match="loader is empty"):
        Halves().fit([])
    with pytest.raises(ArgumentError, match="got str in an item of type tuple"):
        Halves().fit([("photo.jpg", 1)])


@pytest.mark.parametrize("loader", [5, None, 3.5])
def test_what_is_no_loader_is_told(loader: Any) -> None:
    for method in (Halves().fit, Halves().statistics, Halves().fit_channels):
        with pytest.raises(ArgumentError, match=f"must be .*, got {type(loader).__name__}$"):
            method(loader)


def test_statistics_are_saved() -> None:
    assert set(Halves().state_dict()) == {"mean", "std"}
    assert (Halves().num_channels, BlockDCT(24).num_channels, YCbCrPixels().num_channels) == (2, 24, 3)


def test_the_transform_of_a_network() -> None:
    own = YCbCrPixels()
    assert input_transform_of(nn.Sequential(nn.ReLU(), nn.Sequential(own))) is own
    assert input_transform_of(nn.ReLU()) is None


def test_types_and_shapes() -> None:
    assert check_images(torch.zeros(3, 1, 1, dtype=torch.uint8))
    assert not check_images(torch.zeros(2, 3, 1, 1, dtype=torch.float16))
    with pytest.raises(ArgumentError, match="int64"):
        check_images(torch.zeros(3, 4, 4, dtype=torch.int64))
    for shape in ((3, 4), (1, 4, 4), (3, 0, 4)):
        with pytest.raises(ArgumentError, match="height, width"):
            check_images(torch.zeros(shape))
    assert [compute_type(dtype) for dtype in (torch.float64, torch.bfloat16)] == [torch.float64, torch.float32]


def test_floats_of_0_to_255_and_arrays_are_reported() -> None:
    images: Any = torch.rand(2, 3, 16, 16)
    block = BlockDCT()
    with pytest.raises(ArgumentError, match=r"expected floats of 0 to 1, got up to .*uint8"):
        block(images * 255)
    block(images * 1.5)
    block(images - 0.5)
    with pytest.raises(ArgumentError, match=r"got down to -1: give images that are not normalised"):
        block(images - images.amin() - 1)
    with pytest.raises(ArgumentError, match=r"give images\.to_dense\(\)"):
        block(images.to_sparse())
    with pytest.raises(ArgumentError, match=r"got ndarray; .*torch\.from_numpy"):
        block(images.numpy())


def test_a_transform_of_ones_own_has_no_convolution() -> None:
    with pytest.raises(StructureError, match="Halves is no convolution"):
        Halves().convolution()
