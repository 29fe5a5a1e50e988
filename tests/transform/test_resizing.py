import pytest
import torch
from torch.nn.functional import interpolate

from tailcut.transform.resizing import random_region, resized


@pytest.mark.parametrize(("height", "width"), [(9, 7), (30, 40), (1, 5), (64, 3)])
@pytest.mark.parametrize("size", [(8, 1), (1, 1), (5, 6)])
def test_bytes_are_the_floats_rounded(height: int, width: int, size: tuple[int, int]) -> None:
    image = torch.randint(0, 256, (1, 3, height, width), dtype=torch.uint8)
    found = resized(image, *size)
    assert found.dtype == torch.uint8
    wanted = interpolate(image.float(), size, mode="bilinear", antialias=True)
    assert (found.float() - wanted).abs().max() <= (0.5 if size[1] == 1 else 1.5)
    assert torch.equal(resized(image.float(), *size), wanted)


def test_an_image_of_that_size_is_itself() -> None:
    image = torch.rand(1, 3, 4, 5)
    assert resized(image, 4, 5) is image


@pytest.mark.parametrize(("height", "width"), [(40, 40), (100, 75), (500, 3000), (3000, 500), (1, 7)])
def test_random_parts_lie_inside_and_are_as_wide_as_said(height: int, width: int) -> None:
    generator = torch.Generator().manual_seed(0)
    draws = (lambda: torch.rand(4, generator=generator).tolist(), lambda: [0.0] * 4, lambda: [1 - 2**-24] * 4)
    for draw in draws:
        for _ in range(200):
            top, left, rows, columns = random_region(height, width, draw)
            assert min(top, left) >= 0
            assert 1 <= rows <= height - top
            assert 1 <= columns <= width - left
            if min(rows, columns) > 20:  # shorter sides are far from it by rounding
                assert 0.7 < columns / rows < 1.4


def test_where_no_part_fits_it_is_the_middle() -> None:
    """As torchvision's `RandomResizedCrop.get_params`: the largest part of an aspect that is drawn at all."""
    assert random_region(100, 1000, lambda: [0.9, 0.5, 0.0, 0.0]) == (0, 433, 100, 133)
    assert random_region(1000, 100, lambda: [0.9, 0.5, 0.0, 0.0]) == (433, 0, 133, 100)
