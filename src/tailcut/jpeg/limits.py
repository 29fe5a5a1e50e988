"""Which images are not read: too large ones, told by the header before memory is taken, and those of another kind."""

from tailcut.errors import ArgumentError, DataError

# An image may have so many pixels, or so many per byte of its file, whichever is more: a photo of a large camera has
# a byte for 2 to 8 of them, a file made to fill the memory one for thousands.
MAX_PIXELS = 1 << 24
PIXELS_PER_BYTE = 16
# Pillow refuses images of more than twice its MAX_IMAGE_PIXELS; this is that number.
HARD_MAX_PIXELS = 178_956_970


class OtherKindError(DataError):
    """The file is sound, but has no 8-bit Huffman-coded coefficients of YCbCr or grey: CMYK, lossless, 12 bits ..."""


def check_size(height: int, width: int, num_bytes: int, max_pixels: int | None = None, advice: str = "") -> None:
    """Refuse an image that is too large.

    Args:
        height: in pixels.
        width: in pixels.
        num_bytes: size of the file.
        max_pixels: the most pixels allowed, independent of the file's size; None for the default.
        advice: how to allow more, for the message.

    Raises:
        ArgumentError: `max_pixels` is not positive.
        DataError: a side is 0, or the image has more pixels than allowed.
    """
    check_max_pixels(max_pixels)
    if height == 0 or width == 0:
        raise DataError(f"its size is (height, width) ({height}, {width}); both must be positive")
    allowed = min(HARD_MAX_PIXELS, max(MAX_PIXELS, PIXELS_PER_BYTE * num_bytes)) if max_pixels is None else max_pixels
    if height * width > allowed:
        more = f"; for more, {advice}" if advice else ""
        of_file = f" in a file of {num_bytes:,} bytes" if max_pixels is None else ""
        raise DataError(f"it has {height} x {width} pixels; at most {allowed:,} are allowed{of_file}{more}")


def check_max_pixels(max_pixels: int | None) -> None:
    """Raise `ArgumentError` if this is no bound."""
    if max_pixels is not None and max_pixels < 1:
        raise ArgumentError(f"max_pixels must be positive, got {max_pixels}")
