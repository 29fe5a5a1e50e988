"""Image files as the training of a network had its images: squashed to its size, or their middle."""

from pathlib import Path
from typing import NamedTuple

from torch import Tensor, nn

from tailcut.data import read_image
from tailcut.data.framing import framed
from tailcut.errors import ArgumentError
from tailcut.evaluation.pixel_inputs import image_shape
from tailcut.structure import image_shorter_side


class ImageSize(NamedTuple):
    """What a network takes of an image, see `tailcut.inputs.set_image_size`."""

    channels: int
    height_width: tuple[int, int]
    shorter_side: int | None


def image_size_of(model: nn.Module, task: str) -> ImageSize:
    """Return what a network takes of an image; `task` is what needs to know, for the message.

    Raises:
        ArgumentError: the network is of no registered family, or reads no images.
    """
    shape = image_shape(model)
    if shape is None:
        raise ArgumentError(
            f"{task} needs a network of a registered family that reads images, which gives their channels and size; "
            "load any other network in Python and call it there"
        )
    channels, *sides = shape
    return ImageSize(channels, (sides[0], sides[1]), image_shorter_side(model))


def read_as_trained(path: str | Path, size: ImageSize) -> Tensor:
    """Read an image file at the size of a network, as float32 (1, channels, height, width) in 0..1.

    Raises:
        DataError: the file cannot be read, or is a strip too long to be resized.
    """
    height, width = size.height_width
    if size.shorter_side is None or height != width:
        return read_image(path, channels=size.channels, size=size.height_width)
    whole = read_image(path, channels=size.channels)
    return framed(whole, (size.shorter_side, height)).clamp_(0, 1)  # rounding may exceed 1
