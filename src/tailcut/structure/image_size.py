"""Size of the images that a network was trained on, stored on the network beside its record."""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from tailcut.errors import ArgumentError
from tailcut.structure.attributes import set_attribute
from tailcut.structure.views import source_of

SIZE_KEY = "image_size"
OLD_SIZE_KEY = "picture_size"  # in files of before version 0.1.0
MAX_SIDE = 1 << 16
_ATTRIBUTE = "_tailcut_image_size"


def image_size(model: nn.Module) -> tuple[int, int] | None:
    """Return the image size of the network, (height, width) in pixels; None means that of its family."""
    size: tuple[int, int] | None = source_of(model).__dict__.get(_ATTRIBUTE)
    return size


def set_image_size(model: nn.Module, size: Sequence[int] | None) -> None:
    """Set the image size of a network, if it is not its family's (changes the module's metadata only).

    `tailcut predict` and `tailcut explain` resize images to it; `tailcut train` sets it. `tailcut.save` writes it
    into the file, `tailcut.load` restores it, and a deepcopy has it.

    Args:
        model: a network of images.
        size: (height, width) in pixels; None to forget it.

    Raises:
        ArgumentError: this is no size of 1 to 65,536 pixels a side.
    """
    source = source_of(model)
    if size is None:
        set_attribute(source, _ATTRIBUTE, None)
        return
    if not is_size(size):
        raise ArgumentError(f"an image's size must be (height, width), 1 to {MAX_SIDE} pixels each, got {size!r:.200}")
    height, width = size
    set_attribute(source, _ATTRIBUTE, (height, width))


def is_size(value: Any) -> bool:
    """Return whether `value` is a height and a width."""
    return (
        isinstance(value, (list, tuple))
        and len(value) == 2
        and all(isinstance(side, int) and not isinstance(side, bool) and 1 <= side <= MAX_SIDE for side in value)
    )


def size_key_in(metadata: Mapping[str, Any]) -> str | None:
    """Return the key of the image size in a file's metadata, or None if they hold none."""
    return next((key for key in (SIZE_KEY, OLD_SIZE_KEY) if is_size(metadata.get(key))), None)
