"""The oracle of middles: torchvision. Random parts are told by an image of its own coordinates."""

import pytest
import tests.torchvision_operators  # noqa: F401
import torch
from torch import Tensor
from torchvision.transforms.v2 import functional

from tailcut.data.framing import check_framing, framed, named, random_part, side_of
from tailcut.errors import ArgumentError, DataError


@pytest.mark.parametrize("size", [(40, 60), (61, 37), (32, 32), (20, 90), (28, 28)])
@pytest.mark.parametrize("framing", [(32, 28), (64, 56), (28, 28), (31, 28)])  # of the last half pixels are left over
def test_the_middle_is_torchvisions(size: tuple[int, int], framing: tuple[int, int]) -> None:
    images = torch.randint(0, 256, (2, 3, *size), dtype=torch.uint8)
    resized = functional.resize(images, [framing[0]], antialias=True)
    expected = functional.center_crop(resized, [framing[1]] * 2)
    found = framed(images, framing)
    assert found.shape == (2, 3, framing[1], framing[1])
    assert torch.equal(found, expected)


def test_a_side_squashes() -> None:
    images = torch.randint(0, 256, (2, 3, 20, 31), dtype=torch.uint8)
    assert torch.equal(framed(images, 16), functional.resize(images, [16, 16], antialias=True))
    assert torch.equal(framed(images[..., :20], 20), images[..., :20])
    assert (side_of(16), side_of((32, 28)), named(16), named((32, 28))) == (16, 28, "16", "32/28")


def coordinates(height: int, width: int) -> Tensor:
    """Row and column of each pixel's middle."""
    rows, columns = torch.arange(height) + 0.5, torch.arange(width) + 0.5
    return torch.stack([rows[:, None].expand(height, width), columns.expand(height, width)])


@pytest.mark.parametrize(("height", "width", "largest"), [(300, 400, 1.0), (500, 250, 2 / 3)])
def test_random_parts(height: int, width: int, largest: float) -> None:
    """From the middle of the resized part, where interpolation is linear: its place, area and form."""
    image, side = coordinates(height, width), 32
    areas, aspects, tops, lefts = [], [], [], []
    for seed in range(300):
        part = random_part(image, side, torch.Generator().manual_seed(seed))
        assert part.shape == (2, side, side)
        rows, columns = (part[axis].double() for axis in (0, 1))
        high = (rows[20, 16] - rows[10, 16]).item() / 10 * side
        wide = (columns[16, 20] - columns[16, 10]).item() / 10 * side
        top, left = rows[16, 16].item() - 16.5 / side * high, columns[16, 16].item() - 16.5 / side * wide
        assert top > -0.6
        assert left > -0.6
        assert top + high < height + 0.6
        assert left + wide < width + 0.6
        areas.append(high * wide / (height * width))
        aspects.append(wide / high)
        tops.append(top / max(height - high, 1))
        lefts.append(left / max(width - wide, 1))
    assert 0.07 < min(areas) < 0.12
    assert 0.75 * largest < max(areas) < 1.05 * largest
    assert 0.73 < min(aspects) < 0.78
    assert 1.28 < max(aspects) < 1.37
    assert min(tops) < 0.05 < 0.95 < max(tops)
    assert min(lefts) < 0.05 < 0.95 < max(lefts)


def test_the_same_noise_gives_the_same_part_and_long_images_their_middle() -> None:
    image = coordinates(40, 50)
    first, again, other = (random_part(image, 8, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    part = random_part(coordinates(10, 1000), 8, torch.Generator().manual_seed(0))
    assert part[1].mean().item() == pytest.approx(500, abs=1)  # nothing of a fitting form has 8 % of it


@pytest.mark.parametrize(
    ("framing", "message"), [(0, "must be 1 to 4096, got 0"), ((5000, 9), "got 5000"), ((28, 32), "does not fit")]
)
def test_wrong_sizes(framing: int | tuple[int, int], message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        check_framing(framing)


def test_a_strip_takes_no_more_memory_than_an_image() -> None:
    with pytest.raises(DataError, match="resized to 10240000 x 512 before the middle is cut out, has more than"):
        framed(torch.rand(1, 3, 20_000, 1), (512, 448))
    assert framed(torch.rand(1, 3, 200, 1), (32, 32)).shape == (1, 3, 32, 32)


@pytest.mark.parametrize(("height", "width"), [(9, 7), (30, 40), (1, 5), (64, 3)])
def test_one_column_of_bytes_is_that_of_floats(height: int, width: int) -> None:
    image = torch.randint(0, 256, (1, 3, height, width), dtype=torch.uint8)
    found = framed(image, 1)
    assert found.dtype == torch.uint8
    assert (found.float() - framed(image.float(), 1)).abs().max() <= 0.5
