"""Integrity check of a JPEG file, for callers that decode with libjpeg, which only warns of damage."""

import struct
import zlib

from PIL import Image

from tailcut.compiling import is_installed
from tailcut.jpeg.entropy import decode
from tailcut.jpeg.limits import OtherKindError
from tailcut.jpeg.markers import MOST_PIXELS, read_markers

# What Pillow raises for damaged files: OSError and SyntaxError are its own, the others come from below it.
DAMAGED = (
    OSError,
    SyntaxError,
    ValueError,
    TypeError,
    IndexError,
    EOFError,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
)


def check_jpeg(data: bytes) -> bool:
    """Check every marker of a file of any colours and, if numba is installed, every bit between them.

    Args:
        data: the file. Its size in pixels is not checked: see `limits.check_size`.

    Returns:
        Whether the entropy-coded data were looked at: False without numba, and for files that are arithmetic-coded,
        lossless, hierarchical or of more than 8 bits.

    Raises:
        DataError: the file is truncated or damaged anywhere up to the end of its image; see `read_jpeg`.
    """
    try:
        markers = read_markers(data, any_colors=True, max_pixels=MOST_PIXELS)
    except OtherKindError:
        return False
    if not is_installed():
        return False
    decode(data, markers)
    return True
