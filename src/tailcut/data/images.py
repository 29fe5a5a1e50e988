"""Image files read as float tensors, and masks written as PNG files."""

import io
import struct
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor
from torch.nn.functional import interpolate

from tailcut.data.reading import Reading, resolve_reading
from tailcut.errors import ArgumentError, DataError
from tailcut.files import atomic_write, read_image_bytes
from tailcut.jpeg.checking import DAMAGED, check_jpeg
from tailcut.jpeg.limits import check_size
from tailcut.jpeg.markers import JPEG_START, MOST_PIXELS, PNG_SIGNATURE, read_markers, read_outline
from tailcut.jpeg.pixels import PNG_COLOUR, PNG_DEPTH, PNG_GREY, as_stored, decoded_pixels, orientation_of, upright

FORMATS = ("PNG", "JPEG")
HALF = 128  # of a byte
_PNG_SIDES = 16  # where a PNG has its width and height
_JPEG_END = b"\xff\xd9"
_METADATA = (b"eXIf", b"tEXt", b"zTXt", b"iTXt")
SWAPPING = (5, 6, 7, 8)  # EXIF orientations that swap height and width


def read_image(
    path: str | Path,
    *,
    channels: int,
    size: tuple[int, int] | None = None,
    strict: bool | None = None,
    max_pixels: int | None = None,
) -> Tensor:
    """Read a PNG or JPEG file of any mode, upright.

    A JPEG file must be whole and sound as for `read_jpeg`: each of its markers is looked at, and where numba is
    installed (extra `jpeg`) each bit between them; libjpeg itself would make up what lacks.

    The orientation in the EXIF data is honoured; transparent images are laid on white; grey is made of
    colours by the luma weights of ITU-R BT.601; 16 bits are kept of grey without alpha only, of others the higher 8.

    Args:
        path: the file.
        channels: 1 for grey, 3 for RGB.
        size: (height, width) to resize to, bilinear with antialiasing; None keeps the image's own.
        strict: False takes what libjpeg makes of a damaged JPEG file. As the enclosing `reading` says when None; True
            without one.
        max_pixels: the most pixels that an image may have, known from its header before any memory is taken. When
            None as the enclosing `reading` says; without one 2^24 (16.8 million), or 16 for each byte of the file if
            that is more. Pillow's own bound, 178,956,970, stays.

    Returns:
        float32 (1, channels, height, width) in 0..1.

    Raises:
        ArgumentError: `channels` is neither 1 nor 3, or `size` or `max_pixels` is not positive.
        DataError: the file cannot be read, is damaged, is too large or is no PNG or JPEG image.
    """
    if channels not in (1, 3):
        raise ArgumentError(f"channels must be 1 (grey) or 3 (RGB), got {channels}")
    if size is not None and (not isinstance(size, Sequence) or len(size) != 2 or min(size) < 1):
        raise ArgumentError(f"size must be a positive (height, width), got {size!r}")
    opened = _decoded(Path(path), read_image_bytes(path), resolve_reading(strict, max_pixels))
    image = torch.from_numpy(decoded_pixels(opened, channels)).permute(2, 0, 1).contiguous()[None]
    if size is not None and size != (opened.height, opened.width):
        image = interpolate(image, size=size, mode="bilinear", antialias=True).clamp_(0, 1)  # rounding may exceed 1
    return image


def read_annotated(
    path: str | Path, size: tuple[int, int], *, strict: bool | None = None, max_pixels: int | None = None
) -> tuple[Tensor, int]:
    """Read an RGB image as `read_image`, but unturned if its annotations are for the pixels as they are stored.

    Only an EXIF orientation that swaps the sides (5 to 8) of an image that is not square shows which they are for.

    Args:
        path: the file.
        size: (height, width) according to the annotations.
        strict: see `read_image`.
        max_pixels: likewise.

    Returns:
        float32 (3, height, width) in 0..1, of the size that the file has; and its EXIF orientation, 1 without one.

    Raises:
        DataError: see `read_image`.
    """
    found = 1

    def turned(image: Image.Image, content: bytes) -> Image.Image:
        nonlocal found
        found = orientation_of(image, content)
        sides = image.height, image.width
        is_for_stored = found in SWAPPING and sides == size and sides[0] != sides[1]
        return as_stored(image, content) if is_for_stored else upright(image, content)

    image = _decoded(Path(path), read_image_bytes(path), resolve_reading(strict, max_pixels), turned)
    return torch.from_numpy(decoded_pixels(image, 3)).permute(2, 0, 1).contiguous(), found


def read_mask(path: str | Path, *, strict: bool | None = None, max_pixels: int | None = None) -> Tensor:
    """Read a mask from a PNG or JPEG file, upright.

    Foreground is each pixel of a PNG whose value (of colours the largest, of a palette the index) is above 0, and each
    of a JPEG whose value is 128 or more, since compression leaves small values beside edges. What is wholly transparent
    is background.

    Args:
        path: the file.
        strict: see `read_image`.
        max_pixels: likewise.

    Returns:
        int64 (height, width) of 0 and 1.

    Raises:
        DataError: the file cannot be read, is damaged, too large or no PNG or JPEG image, or has 16 bits per channel
            and is not plain grey.
    """
    content = read_image_bytes(path)
    image = _decoded(Path(path), content, resolve_reading(strict, max_pixels))
    if image.format == "PNG" and content[PNG_DEPTH] == 16 and content[PNG_COLOUR] != PNG_GREY:
        # Pillow reads the high bytes of these alone, and small values would become background.
        raise DataError(
            f"cannot use the mask {path}: expected 8 bits per channel, or 16-bit grey without alpha, and it has 16 "
            "bits with colours or alpha; save it with 8 bits or as 16-bit grey"
        )
    values = np.asarray(image if len(image.getbands()) == 1 else image.convert("RGB"))
    if values.ndim == 3:
        values = values.max(axis=2)
    # Pillow calls a JPEG file with more than one image, as stereo cameras write them, MPO.
    is_foreground = values > 0 if image.format == "PNG" else values >= HALF
    return torch.from_numpy((is_foreground & _is_seen(image)).astype(np.int64))


def write_mask(path: str | Path, mask: Tensor) -> None:
    """Write a mask as a 1-bit PNG, foreground white, whole or not at all.

    Args:
        path: the file; one that exists is replaced.
        mask: bool or integer (height, width); values above 0 are foreground.

    Raises:
        ArgumentError: the mask is not an image of two axes, or the folder of `path` does not exist.
    """
    if mask.ndim != 2 or 0 in mask.shape or mask.is_floating_point():
        raise ArgumentError(f"a mask must be bool or integer (height, width), got {mask.dtype} {tuple(mask.shape)}")
    pixels = (mask > 0).cpu().numpy().astype(np.uint8) * 255
    with atomic_write(path) as file:
        Image.fromarray(pixels).convert("1", dither=Image.Dither.NONE).save(file, format="PNG", optimize=True)


def image_file_size(path: str | Path, *, max_pixels: int | None = None) -> tuple[int, int]:
    """(height, width) of a PNG or JPEG file as `read_image` gives it, from its header: nothing is decoded.

    Raises:
        DataError: the file cannot be read, is damaged at its beginning, is too large (see `read_image`) or is no
            PNG or JPEG image.
    """
    path, settings = Path(path), resolve_reading(None, max_pixels)
    content = read_image_bytes(path)
    with _opened(path, content, settings) as image:
        if image.width == image.height:
            return image.height, image.width
        if image.format == "PNG" and _has_late_metadata(content):
            turned = _decoded(path, content, settings)
            return turned.height, turned.width
        sides = image.height, image.width
        return sides[::-1] if orientation_of(image, content) in SWAPPING else sides


@contextmanager
def _opened(path: Path, content: bytes, settings: Reading) -> Iterator[Image.Image]:
    """Open an image and read its header; convert every error within the block to `DataError`."""
    try:
        _check_size(content, settings)
        with Image.open(io.BytesIO(content), formats=FORMATS) as image:
            yield image
    except UnidentifiedImageError as error:
        _check_kind(path, content)
        raise DataError(f"{path} is no PNG or JPEG image, or it is damaged at its beginning") from error
    except DAMAGED as error:
        raise DataError(f"cannot use the image {path}: {error}") from error
    except MemoryError as error:
        raise DataError(f"cannot use the image {path}: there is not enough memory for its pixels") from error


def _decoded(
    path: Path, content: bytes, settings: Reading, turn: Callable[[Image.Image, bytes], Image.Image] = upright
) -> Image.Image:
    """Return the decoded image, turned by its EXIF orientation as `turn` does; raise `DataError` for a damaged file."""
    if not settings.strict and content.startswith(JPEG_START):
        content += _JPEG_END  # at which libjpeg fills in what a truncated file lacks; Pillow would refuse it
    with _opened(path, content, settings) as image:
        if settings.strict and image.format != "PNG":
            _check_jpeg(content, settings)
        image.verify()  # checks what loading does not: the end of a PNG; the image must be opened anew
    with _opened(path, content, settings) as image:
        image.load()
        turned = turn(image, content)
        turned.format = image.format  # which a copy forgets
        return turned


def _check_size(content: bytes, settings: Reading) -> None:
    """Refuse what is too large before Pillow sees it, which warns of sizes that are a matter of the settings."""
    if content.startswith(PNG_SIGNATURE) and len(content) >= _PNG_SIDES + 8:
        width, height = struct.unpack_from(">II", content, _PNG_SIDES)
    else:
        try:
            (height, width), _ = read_outline(content, max_pixels=MOST_PIXELS)
        except DataError:  # Pillow says what is wrong with it
            return
    check_size(height, width, len(content), settings.max_pixels, settings.advice[1])


def _check_kind(path: Path, content: bytes) -> None:
    """Raise `DataError` that says why, if a file that Pillow does not know begins as a JPEG does."""
    if content.startswith(JPEG_START):
        try:
            read_markers(content, any_colors=True, max_pixels=MOST_PIXELS)
        except DataError as error:
            raise DataError(f"cannot use the image {path}: {error}") from error


def _check_jpeg(content: bytes, settings: Reading) -> None:
    try:
        check_jpeg(content)
    except DataError as error:
        hint = f"; to take what libjpeg makes of it, {settings.advice[0]}" if settings.advice[0] else ""
        raise DataError(f"{error}{hint}") from error


def _has_late_metadata(content: bytes) -> bool:
    """Return whether a PNG has chunks behind its pixels that may hold an orientation."""
    position, has_pixels = len(PNG_SIGNATURE), False
    while position + 8 <= len(content):
        length, kind = struct.unpack_from(">I4s", content, position)
        if kind in _METADATA and has_pixels:
            return True
        has_pixels = has_pixels or kind == b"IDAT"
        position += length + 12
    return False


def _is_seen(image: Image.Image) -> np.ndarray:
    """Return a mask of the pixels that are not fully transparent, bool (height, width)."""
    if not image.has_transparency_data:
        return np.ones((image.height, image.width), dtype=bool)
    if image.mode.startswith("I"):  # 16-bit grey, of which one value may be transparent; Pillow cannot convert it
        seen: np.ndarray = np.asarray(image) != image.info["transparency"]
    else:
        seen = np.asarray(image.convert("RGBA").getchannel("A")) > 0
    return seen
