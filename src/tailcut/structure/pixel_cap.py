"""Limit on the image size that a network may ask for, since a file of a kilobyte can name one that fills the memory."""

from collections.abc import Sequence

from torch import nn

from tailcut.errors import LimitError
from tailcut.structure.record import record_of

MAX_INPUT_PIXELS = 1 << 24
_RESIZE = "resize"  # the argument of networks that resize their images


def check_pixels(model: nn.Module, size: Sequence[int], max_input_pixels: int = MAX_INPUT_PIXELS) -> None:
    """Refuse images that are too large, before memory is taken for them. The model is not changed.

    Args:
        model: the network; one with an argument `resize` enlarges its images itself.
        size: (height, width) in pixels of the images that it shall get.
        max_input_pixels: the most pixels of an image.

    Raises:
        LimitError: an image would have more.
    """
    base = record_of(model).base
    side = None if base is None else base.arguments.get(_RESIZE)
    sizes = [tuple(size[-2:]), *([(side, side)] if isinstance(side, int) else [])]
    for height, width in sizes:
        if height * width > max_input_pixels:
            raise LimitError(
                f"the network asks for images of {height:,} x {width:,} pixels, more than the cap of "
                f"{max_input_pixels:,} pixels. If you trust its file and have the memory, max_input_pixels (on the "
                "command line --max-input-pixels) allows more"
            )
