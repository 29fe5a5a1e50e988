"""Class names of a classifier, stored on the network beside its record."""

import json
from collections.abc import Sequence
from typing import Any

from torch import nn

from tailcut.errors import ArgumentError
from tailcut.structure.attributes import set_attribute
from tailcut.structure.image_size import SHORTER_SIDE_KEY, SIZE_KEY, image_shorter_side, image_size
from tailcut.structure.views import source_of

METADATA_KEY = "class_names"
MAX_LENGTH = 200
MAX_BYTES = 48 * 1024  # of the 64 KiB of metadata that a file may have
_ATTRIBUTE = "_tailcut_class_names"


def class_names(model: nn.Module) -> tuple[str, ...] | None:
    """Return the class names in the order of the class numbers, or None if the network has none."""
    names: tuple[str, ...] | None = source_of(model).__dict__.get(_ATTRIBUTE)
    return names


def set_class_names(model: nn.Module, names: Sequence[str] | None) -> None:
    """Set the class names of a network (changes the module's metadata only).

    `tailcut.save` writes them into the file, `tailcut.load` restores them, and a deepcopy has them.

    Args:
        model: a classifier.
        names: one per class, by number; None to forget them.

    Raises:
        ArgumentError: something is no name, a text of at most 200 printable characters, or they take more than 48 KiB.
    """
    source = source_of(model)
    if names is None:
        set_attribute(source, _ATTRIBUTE, None)
        return
    if not _are_texts(names):
        raise ArgumentError(
            f"class names must be a list of texts of at most {MAX_LENGTH} printable characters, got {names!r:.200}"
        )
    if (size := _size(names)) > MAX_BYTES:
        raise ArgumentError(f"{len(names)} class names take {size} bytes, at most {MAX_BYTES} are allowed")
    set_attribute(source, _ATTRIBUTE, tuple(names))


def are_names(value: Any) -> bool:
    """Return whether `value` is a list of names without control characters, which can be stored and printed."""
    return _are_texts(value) and _size(value) <= MAX_BYTES


def as_metadata(model: nn.Module) -> dict[str, str]:
    """Return the user's metadata of a network as strings (JSON), for file formats whose metadata are strings."""
    return {key: json.dumps(value, ensure_ascii=False) for key, value in user_metadata(model).items()}


def user_metadata(model: nn.Module) -> dict[str, Any]:
    """Return the user's metadata of a network by their keys in a file: classes, size and shorter side, if any."""
    lists: dict[str, Sequence[Any] | None] = {METADATA_KEY: class_names(model), SIZE_KEY: image_size(model)}
    shorter_side = image_shorter_side(model)
    found: dict[str, Any] = {key: list(value) for key, value in lists.items() if value is not None}
    return found if shorter_side is None else {**found, SHORTER_SIDE_KEY: shorter_side}


def _are_texts(value: Any) -> bool:
    return (
        isinstance(value, (list, tuple))
        and bool(value)
        and all(isinstance(name, str) and len(name) <= MAX_LENGTH and name.isprintable() for name in value)
    )


def _size(names: Sequence[str]) -> int:
    """Bytes in a file."""
    return len(json.dumps(list(names), ensure_ascii=False).encode())


def name_of(model: nn.Module, number: int, num_classes: int) -> str | None:
    """Return the name of a class, or None if the network does not have exactly `num_classes` class names."""
    names = class_names(model)
    return names[number] if names is not None and len(names) == num_classes else None
