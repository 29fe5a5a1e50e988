import numpy as np
import pytest
from tests.inputs.jpegs import encode, photo

from tailcut.compiling import is_installed
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
    with pytest.raises(DataError, match="cannot be decoded"):
        simplejpeg_decoder(approximate=True)(b"\xff\xd8\xff\xd9", SIZE, 1)
    with pytest.raises(DataError, match="ends before any image data"):
        decode_with_pillow(b"\xff\xd8\xff\xd9", SIZE, 1)


@pytest.mark.skipif(not is_installed(), reason="needs the extra jpeg")
def test_both_decoders_refuse_a_damaged_file() -> None:
    data = encode(photo(*SIZE), quality=90)
    middle = len(data) // 2
    for decode in (decode_with_pillow, simplejpeg_decoder(approximate=False)):
        with pytest.raises(DataError, match=r"damaged|Corrupt"):
            decode(data[:middle] + data[middle + 200 :], SIZE, 1)
