"""Your own data sets, as folders under a data root: `folder:NAME` with classes, `masks:NAME` with masks."""

import re
from collections.abc import Callable, Sequence
from pathlib import Path, PurePosixPath

from tailcut.data.dataset import Dataset
from tailcut.data.datasets.imagefolder import FolderDataset
from tailcut.data.datasets.masks import PARTS, MaskDataset
from tailcut.data.framing import Framing
from tailcut.data.roots import Roots, find_split, folders_of
from tailcut.errors import ArgumentError, DataNotFoundError

CLASSES, MASKS = "folder", "masks"
DEFAULT_SPLITS = ("test", "val")  # the first one that is there
MAX_SIDE_DIGITS, NUM_SIDES = 6, 2


def open_own(name: str, split: str | None = None, *, roots: Roots = None) -> Dataset:
    """Open `folder:NAME`, `folder:NAME@SIDE` or `masks:NAME`.

    Args:
        name: NAME is a path relative to a data root. For `folder:` it holds `SPLIT/CLASS/*`, images in one folder for
            each class; the classes are those of all splits together, sorted by name. For `masks:` it holds
            `SPLIT/images/*` and `SPLIT/masks/*`, see `MaskDataset`. `@SIDE` resizes images to SIDE x SIDE pixels,
            `@SHORTER/SIDE` shows their middle.
        split: the name of a folder in NAME; when None `test` if there is one, else `val`.
        roots: data roots to try first; see `data_roots`.

    Raises:
        ArgumentError: this is no such name, or the split is not the name of a folder.
        DataNotFoundError: no data root holds the split.
        DataError: the folder holds no images, or they do not match their masks.
    """
    kind, _, rest = name.partition(":")
    openers: dict[str, Callable[[str, str | None, Roots], Dataset]] = {CLASSES: _open_classes, MASKS: _open_masks}
    if kind not in openers:
        raise ArgumentError(f"unknown data set {name!r}; your own are {CLASSES}:NAME or {MASKS}:NAME")
    return openers[kind](rest, split, roots)


def _open_classes(rest: str, split: str | None, roots: Roots) -> Dataset:
    name, at, side = rest.rpartition("@") if "@" in rest else (rest, "", "")
    size = framing_of(side, f"{CLASSES}:{name}") if at else None
    name = _checked(name)
    where = f"{name}/{split or DEFAULT_SPLITS[-1]}"
    advice = f"Put images there in one folder for each class: {where}/CLASS/*.jpg or .png."
    folder = _find(name, split, (), title=f"{CLASSES}:{name}", advice=advice, roots=roots)
    classes = sorted({path.name for one in folders_of(folder.parent) for path in folders_of(one)})
    return FolderDataset(folder, name=f"{CLASSES}:{name}", size=size, classes=classes)


def _open_masks(name: str, split: str | None, roots: Roots) -> Dataset:
    whole, at, _ = name.rpartition("@")
    if at:
        raise ArgumentError(
            f"masks keep the size of their photos, and @SIDE is for classes ({CLASSES}:NAME@SIDE): ask for "
            f"{MASKS + ':' + whole!r}, not for {MASKS + ':' + name!r}"
        )
    name = _checked(name)
    where = f"{name}/{split or DEFAULT_SPLITS[-1]}"
    advice = f"Put photos into {where}/images and a mask of the same name, a PNG, into {where}/masks."
    folder = _find(name, split, PARTS, title=f"{MASKS}:{name}", advice=advice, roots=roots)
    return MaskDataset(folder, name=f"{MASKS}:{name}")


def _find(name: str, split: str | None, parts: Sequence[str], *, title: str, advice: str, roots: Roots) -> Path:
    """Return the folder of a split, or of the first existing one of those for tests."""
    first, last = DEFAULT_SPLITS
    try:
        return find_split(name, first if split is None else split, parts, title=title, advice=advice, roots=roots)
    except DataNotFoundError:
        if split is not None:
            raise
    return find_split(name, last, parts, title=title, advice=advice, roots=roots)


def framing_of(text: str, name: str) -> Framing:
    """Return the sizes after `NAME@` in the name of a data set: 448, or 512/448.

    Raises:
        ArgumentError: it is neither a number nor two.
    """
    sides = text.split("/")
    if len(sides) > NUM_SIDES or not all(re.fullmatch(f"[0-9]{{1,{MAX_SIDE_DIGITS}}}", side) for side in sides):
        raise ArgumentError(
            f"after @ comes the side of the images in pixels, as in {name}@112, or the shorter side and that of the "
            f"middle, {name}@512/448; got {name + '@' + text!r}"
        )
    return int(text) if len(sides) == 1 else (int(sides[0]), int(sides[1]))


def _checked(name: str) -> str:
    path = PurePosixPath(name)
    if not path.parts or path.is_absolute() or ".." in path.parts or "\\" in name or "\0" in name:
        raise ArgumentError(
            f"your own data are named by a folder under a data root, as in {CLASSES}:flowers; got {name!r}"
        )
    return str(path)
