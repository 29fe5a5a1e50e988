import pytest
import torch
from tests.inputs.jpegs import encode, photo

from tailcut.errors import ArgumentError
from tailcut.inputs.jpeg.augmentation import crop, double_size, halve_size
from tailcut.inputs.jpeg.coefficients import JpegCoefficients
from tailcut.inputs.jpeg.parts import resized_part
from tailcut.inputs.jpeg.reader import read_jpeg


def image(height: int, width: int) -> JpegCoefficients:
    return read_jpeg(encode(photo(height, width), "4:2:0"))


def assert_same(found: JpegCoefficients, expected: JpegCoefficients) -> None:
    assert found.size == expected.size
    assert all(torch.equal(own, other) for own, other in zip(found.planes, expected.planes, strict=True))


def test_the_middle_begins_at_a_multiple_of_16() -> None:
    assert_same(resized_part(image(70, 90), (32, 48)), crop(image(70, 90), 16, 16, 32, 48))
    assert_same(resized_part(image(64, 64), (64, 64)), image(64, 64))


def test_large_images_are_halved_and_small_ones_doubled() -> None:
    assert_same(resized_part(image(150, 200), (32, 32)), halve_size(halve_size(crop(image(150, 200), 0, 32, 128, 128))))
    assert_same(resized_part(image(40, 70), (64, 64)), double_size(crop(image(40, 70), 0, 16, 32, 32)))


@pytest.mark.parametrize(("height", "width"), [(20, 17), (33, 200), (120, 90), (129, 65)])
def test_any_image_gives_the_wanted_size(height: int, width: int) -> None:
    for random in (False, True):
        assert resized_part(image(height, width), (64, 32), random=random).size == (64, 32)


def test_random_parts_follow_their_generator() -> None:
    def drawn(seed: int) -> torch.Tensor:
        noise = torch.Generator().manual_seed(seed)
        return resized_part(image(120, 190), (32, 32), random=True, noise=noise).luma

    assert torch.equal(drawn(1), drawn(1))
    assert len({tuple(drawn(seed).flatten().tolist()) for seed in range(8)}) > 2


@pytest.mark.parametrize("size", [(30, 32), (0, 16), (16, 8)])
def test_other_sizes_are_refused(size: tuple[int, int]) -> None:
    with pytest.raises(ArgumentError, match="positive multiples of 16"):
        resized_part(image(64, 64), size)
