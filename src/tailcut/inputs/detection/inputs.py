"""Pre- and postprocessing of a detector: image sizes, frequency channels, box coordinates.

A detector works in the coordinates of the resized RGB image for any input. RGB itself passes a stem of
stride 4. Frequency channels take its place: they are made of an image twice as large, with blocks of 8 pixels, so
that their maps are as large as what the stem gives, and strides, anchors and pooling stay as they are (section 4.3
of the paper: images of 1600 x 2666, channels of 200 x 334, the maps of RGB at 800 x 1333).
"""

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn.functional import interpolate, pad

from tailcut.errors import ArgumentError, DataError
from tailcut.inputs.transform.block_dct import BlockDCT
from tailcut.jpeg.checking import DAMAGED, check_jpeg
from tailcut.jpeg.limits import check_size
from tailcut.jpeg.pixels import decoded_pixels, upright

Target = Mapping[str, Tensor]
Size = tuple[int, int]

STEM_STRIDE = 4  # image pixels per pixel of the first maps
DCT_ENLARGEMENT = 2  # so that blocks of 8 x 8 pixels have the stem's stride
SIZE_DIVISOR = 32  # the largest stride of the backbone
RGB_MEAN = (0.485, 0.456, 0.406)
RGB_STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class DetectorBatch:
    """Images as the backbone takes them.

    Attributes:
        maps: RGB (batch, 3, height, width) or channels (batch, n, height / 4, width / 4), zeros behind each image.
        padded: (height, width) of the batch in the detector's coordinates, multiples of 32.
        sizes: (height, width) of each image in these coordinates.
        targets: the objects in these coordinates; None if there are none.
    """

    maps: Tensor
    padded: Size
    sizes: list[Size]
    targets: list[dict[str, Tensor]] | None


class DetectorInputs(nn.Module):
    """Resizes images, turns them into normalised channels, and pads them to one size.

    Each image is transformed by itself, before it is padded: its channels do not depend on the rest of the batch.

    Args:
        dct: the transform; None for RGB, normalised as for ImageNet.
        min_size: the shorter side of the resized RGB image, in pixels; the DCT is of an image twice as large.
        max_size: what its longer side has at most; it wins over `min_size`.

    Raises:
        ArgumentError: not 1 <= min_size <= max_size.
    """

    rgb_mean: Tensor
    rgb_std: Tensor

    def __init__(self, dct: BlockDCT | None, *, min_size: int, max_size: int) -> None:
        super().__init__()
        if not 1 <= min_size <= max_size:
            raise ArgumentError(f"expected 1 <= min_size <= max_size, got min_size={min_size}, max_size={max_size}")
        self.dct = dct
        self.min_size, self.max_size = min_size, max_size
        self.register_buffer("rgb_mean", torch.tensor(RGB_MEAN)[:, None, None], persistent=False)
        self.register_buffer("rgb_std", torch.tensor(RGB_STD)[:, None, None], persistent=False)

    def forward(self, images: Sequence[Tensor], targets: Sequence[Target] | None = None) -> DetectorBatch:
        """Return the batch of RGB images (3, height, width) in 0..1 on this module's device; no input is changed."""
        sizes = [self.size_of(image) for image in images]
        maps = [self._maps(self.resized(image)) for image in images]
        stride = 1 if self.dct is None else STEM_STRIDE
        padded = _padded_size(sizes)
        rows, columns = padded[0] // stride, padded[1] // stride
        stacked = torch.stack([pad(one, (0, columns - one.shape[2], 0, rows - one.shape[1])) for one in maps])
        if targets is None:
            return DetectorBatch(stacked, padded, sizes, None)
        moved = [_moved(target, _size(image), size) for target, image, size in zip(targets, images, sizes, strict=True)]
        return DetectorBatch(stacked, padded, sizes, moved)

    def size_of(self, image: Tensor) -> Size:
        """(height, width) of an image in the detector's coordinates: as large as the two limits allow."""
        height, width = _size(image)
        short, long = min(height, width), max(height, width)
        target, side = (
            (self.min_size, short) if self.min_size * long <= self.max_size * short else (self.max_size, long)
        )
        return max(1, height * target // side), max(1, width * target // side)

    def reading_size_of(self, image: Tensor) -> Size:
        """(height, width) of the image that channels are made of: that of `size_of`, or twice that for the DCT."""
        height, width = self.size_of(image)
        factor = 1 if self.dct is None else DCT_ENLARGEMENT
        return factor * height, factor * width

    def resized(self, image: Tensor) -> Tensor:
        """Return an image (3, height, width) at the size of `reading_size_of`."""
        size = self.reading_size_of(image)
        return image if size == _size(image) else interpolate(image[None], size, mode="bilinear", antialias=True)[0]

    def restored(self, found: Target, size: Size, original: Size) -> dict[str, Tensor]:
        """Return detections in an image of `size` with their boxes in pixels of the `original` size."""
        return {**found, "boxes": _moved_boxes(found["boxes"], size, original)}

    def extra_repr(self) -> str:
        """Return the sizes, for `print(model)`."""
        return f"min_size={self.min_size}, max_size={self.max_size}"

    def _maps(self, image: Tensor) -> Tensor:
        if self.dct is None:
            return (image - self.rgb_mean) / self.rgb_std
        channels: Tensor = self.dct(image)
        return channels


def read_pixels(path: str | Path) -> Tensor:
    """Return a PNG or JPEG file with its EXIF orientation applied, as RGB, float32 (3, height, width) in 0..1.

    Transparent images are laid on white.

    Raises:
        DataError: the file cannot be read, is damaged, has too many pixels (see `tailcut.jpeg.limits`) or is no PNG or
            JPEG image.
    """
    try:
        content = Path(path).read_bytes()
        with Image.open(io.BytesIO(content), formats=("PNG", "JPEG")) as image:
            check_size(image.height, image.width, len(content), advice="give the detector the image as a tensor")
            if image.format != "PNG":
                check_jpeg(content)  # libjpeg would make up what lacks
            pixels = decoded_pixels(upright(image, content), channels=3)
    except (*DAMAGED, DataError) as error:
        raise DataError(f"cannot read the image {path}: {error}") from error
    return torch.from_numpy(pixels).permute(2, 0, 1)


def _size(image: Tensor) -> Size:
    return image.shape[-2], image.shape[-1]


def _padded_size(sizes: Sequence[Size]) -> Size:
    height, width = (max(size[axis] for size in sizes) for axis in (0, 1))
    return height + -height % SIZE_DIVISOR, width + -width % SIZE_DIVISOR


def _moved(target: Target, original: Size, size: Size) -> dict[str, Tensor]:
    """Return the objects of an image that was resized from `original` to `size`."""
    moved = {**target, "boxes": _moved_boxes(target["boxes"], original, size)}
    if "masks" in target and size != original:
        masks = target["masks"]
        moved["masks"] = interpolate(masks[:, None].float(), size=size)[:, 0].to(masks.dtype)
    return moved


def _moved_boxes(boxes: Tensor, before: Size, after: Size) -> Tensor:
    scale_y, scale_x = after[0] / before[0], after[1] / before[1]
    return boxes * boxes.new_tensor([scale_x, scale_y, scale_x, scale_y])
