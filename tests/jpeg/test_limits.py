import pytest

from tailcut.errors import ArgumentError, DataError
from tailcut.jpeg.limits import HARD_MAX_PIXELS, check_max_pixels, check_size


@pytest.mark.parametrize(
    ("sides", "num_bytes", "max_pixels"),
    [
        ((4096, 4096), 100, None),  # 2^24
        ((6000, 4000), 1_500_000, None),  # a photo of 24 million pixels, one byte for 16
        ((5000, 5000), 100, 25_000_000),
    ],
)
def test_sizes_that_are_allowed(sides: tuple[int, int], num_bytes: int, max_pixels: int | None) -> None:
    check_size(*sides, num_bytes, max_pixels)


@pytest.mark.parametrize(
    ("sides", "num_bytes", "max_pixels", "message"),
    [
        ((4096, 4097), 100, None, r"4096 x 4097 pixels; at most 16,777,216 are allowed in a file of 100 bytes"),
        ((6000, 4000), 1_499_999, None, "at most 23,999,984 are allowed"),
        ((20000, 20000), 1 << 40, None, f"at most {HARD_MAX_PIXELS:,} are allowed"),
        ((10, 11), 1 << 40, 109, "10 x 11 pixels; at most 109 are allowed; for more, ask"),
        ((0, 11), 100, None, "must be positive"),
    ],
)
def test_sizes_that_are_refused(sides: tuple[int, int], num_bytes: int, max_pixels: int | None, message: str) -> None:
    with pytest.raises(DataError, match=message):
        check_size(*sides, num_bytes, max_pixels, "ask")


def test_bounds_are_positive() -> None:
    check_max_pixels(None)
    check_max_pixels(1)
    with pytest.raises(ArgumentError, match="max_pixels must be positive, got 0"):
        check_max_pixels(0)
