"""The size of the pictures that a network was trained on, written down on the network itself, as its record is."""

from collections.abc import Sequence
from typing import Any

from torch import nn

from tailcut.errors import ArgumentError
from tailcut.structure.views import source_of

SIZE_KEY = "picture_size"
MAX_SIDE = 1 << 16
_ATTRIBUTE = "_tailcut_picture_size"


def picture_size(model: nn.Module) -> tuple[int, int] | None:
    """(height, width) in pixels of the pictures to give the network; None if it was never told: its family's own."""
    size: tuple[int, int] | None = source_of(model).__dict__.get(_ATTRIBUTE)
    return size


def set_picture_size(model: nn.Module, size: Sequence[int] | None) -> None:
    """Tell a network the size of its pictures, where it is not its family's (changes the module's note of it only).

    `tailcut predict` and `tailcut explain` resize pictures to it; `tailcut train` tells it. `tailcut.save` writes it
    into the file, `tailcut.load` tells it to the network again, and a deepcopy has it.

    Args:
        model: a network of pictures.
        size: (height, width) in pixels; None to forget it.

    Raises:
        ArgumentError: this is no size of 1 to 65,536 pixels a side.
    """
    source = source_of(model)
    if size is None:
        source.__dict__.pop(_ATTRIBUTE, None)
        return
    if not is_size(size):
        raise ArgumentError(f"a picture's size must be (height, width), 1 to {MAX_SIDE} pixels each, got {size!r:.200}")
    height, width = size
    source.__dict__[_ATTRIBUTE] = (height, width)


def is_size(value: Any) -> bool:
    """Whether `value` is a height and a width."""
    return (
        isinstance(value, (list, tuple))
        and len(value) == 2
        and all(isinstance(side, int) and not isinstance(side, bool) and 1 <= side <= MAX_SIDE for side in value)
    )
