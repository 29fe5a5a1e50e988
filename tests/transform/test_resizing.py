import pytest
import torch
from torch.nn.functional import interpolate

from tailcut.transform.resizing import resized


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
