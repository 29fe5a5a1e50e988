"""Size of the images that a network was trained on, and which part they show, stored on it beside its record."""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from tailcut.errors import ArgumentError
from tailcut.structure.attributes import set_attribute
from tailcut.structure.views import source_of

SIZE_KEY = "image_size"
OLD_SIZE_KEY = "picture_size"  # in files of before version 0.1.0
SHORTER_SIDE_KEY = "image_shorter_side"
MAX_SIDE = 1 << 16
_ATTRIBUTE = "_tailcut_image_size"
_SHORTER_SIDE_ATTRIBUTE = "_tailcut_image_shorter_side"


def image_size(model: nn.Module) -> tuple[int, int] | None:
    """Return the image size of the network, (height, width) in pixels; None means that of its family."""
    size: tuple[int, int] | None = source_of(model).__dict__.get(_ATTRIBUTE)
    return size


def image_shorter_side(model: nn.Module) -> int | None:
    """Return the shorter side, in pixels, that images are resized to before their middle is cut out.

    None means that the whole image is squashed to the size.
    """
    side: int | None = source_of(model).__dict__.get(_SHORTER_SIDE_ATTRIBUTE)
    return side


def set_image_size(model: nn.Module, size: Sequence[int] | None, *, shorter_side: int | None = None) -> None:
    """Set the image size of a network, if it is not its family's (changes the module's metadata only).

    `tailcut predict` and `tailcut explain` resize images to it; `tailcut train` sets it. `tailcut.save` writes it
    into the file, `tailcut.load` restores it, and a deepcopy has it.

    Args:
        model: a network of images.
        size: (height, width) in pixels; None to forget it.
        shorter_side: to resize the shorter side of an image to this, and to cut a middle of `size` out, as
            torchvision's `Resize` and `CenterCrop` do; None squashes the whole image to `size`.

    Raises:
        ArgumentError: this is no size of 1 to 65,536 pixels a side, or no shorter side that such a middle fits into.
    """
    source = source_of(model)
    if size is not None and not is_size(size):
        raise ArgumentError(f"an image's size must be (height, width), 1 to {MAX_SIDE} pixels each, got {size!r:.200}")
    if shorter_side is not None and not is_shorter_side(shorter_side, size):
        raise ArgumentError(
            f"shorter_side must be 1 to {MAX_SIDE} pixels, and at least the sides of the middle, {size}, "
            f"that is cut out; got {shorter_side!r:.200}"
        )
    set_attribute(source, _ATTRIBUTE, None if size is None else tuple(size))
    set_attribute(source, _SHORTER_SIDE_ATTRIBUTE, shorter_side)


def is_size(value: Any) -> bool:
    """Return whether `value` is a height and a width."""
    return (
        isinstance(value, (list, tuple))
        and len(value) == 2
        and all(isinstance(side, int) and not isinstance(side, bool) and 1 <= side <= MAX_SIDE for side in value)
    )


def is_shorter_side(value: Any, size: Any) -> bool:
    """Return whether `value` is a shorter side of images whose middle, of `size`, is cut out."""
    return is_size(size) and is_size((value, value)) and value >= max(size)


def size_key_in(metadata: Mapping[str, Any]) -> str | None:
    """Return the key of the image size in a file's metadata, or None if they hold none."""
    return next((key for key in (SIZE_KEY, OLD_SIZE_KEY) if is_size(metadata.get(key))), None)
