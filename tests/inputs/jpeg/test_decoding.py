import numpy as np
import pytest
from tests.inputs.jpegs import encode, photo

from tailcut.errors import DataError
from tailcut.inputs.jpeg.decoding import decode_with_pillow, simplejpeg_decoder

SIZE = (101, 190)


@pytest.mark.parametrize("divisor", [1, 2, 4, 8])
def test_decoders_give_the_same_pixels(divisor: int) -> None:
    image = photo(*SIZE)
    data = encode(image, quality=90)
    found = decode_with_pillow(data, SIZE, divisor)
    assert found.shape == (-(-SIZE[0] // divisor), -(-SIZE[1] // divisor), 3)
    np.testing.assert_allclose(found, simplejpeg_decoder(approximate=False)(data, SIZE, divisor), atol=3)
    # A decoder's smaller image is about the mean of the squares.
    height, width = (side // divisor * divisor for side in SIZE)
    squares = np.asarray(image, dtype=float)[:height, :width].reshape(height // divisor, divisor, -1, divisor, 3)
    expected = squares.mean(axis=(1, 3))
    assert abs(found[: expected.shape[0], : expected.shape[1]] - expected).mean() < 6


def test_what_is_no_image() -> None:
    for decode in (decode_with_pillow, simplejpeg_decoder(approximate=True)):
        with pytest.raises(DataError, match="cannot be decoded"):
            decode(b"\xff\xd8\xff\xd9", SIZE, 1)
