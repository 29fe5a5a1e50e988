"""Check of a folder of images: reads each once, so that broken ones are found before a training."""

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tailcut.compiling import is_installed
from tailcut.data.datasets.masks import check_mask_size, images_of_masks
from tailcut.data.images import image_file_size, read_image, read_mask
from tailcut.data.reading import reading
from tailcut.errors import DataError
from tailcut.files import check_is_regular
from tailcut.jpeg.limits import check_max_pixels
from tailcut.printing import Report, table

SUFFIXES = (".jpg", ".jpeg", ".png")
# So many files are handed out at once: a list of millions of names would wait in memory otherwise.
CHUNK = 1024

Identity = tuple[int, int]  # of a folder: its device and its number there


@dataclass(frozen=True)
class CheckReport(Report):
    """Report of `check_folder`.

    Attributes:
        source: the folder.
        num_images: how many files were read.
        num_others: how many files are called something else, and were not.
        bits_checked: whether JPEG files were looked at bit by bit, which needs numba (extra `jpeg`).
        broken: `image` and `reason` of each file that cannot be read.
    """

    source: str
    num_images: int
    num_others: int
    bits_checked: bool
    broken: list[dict[str, Any]]

    @property
    def failed(self) -> bool:
        """True if a file is broken."""
        return bool(self.broken)

    def __str__(self) -> str:
        others = f"; {self.num_others:,} other files were not looked at" if self.num_others else ""
        lines = [f"{self.source}: {len(self.broken):,} of {self.num_images:,} images are broken{others}"]
        if not self.bits_checked:
            lines.append(
                "numba is not installed (extra jpeg): of JPEG files only the markers and what libjpeg refuses were seen"
            )
        if self.broken:
            lines += ["", table(["image", "reason"], [(item["image"], item["reason"]) for item in self.broken])]
        return "\n".join(lines)


def check_folder(folder: str | Path, *, strict: bool = True, max_pixels: int | None = None) -> CheckReport:
    """Read all PNG and JPEG files in a folder and in the folders within it, as `read_image` does.

    Files of a folder `masks` beside a folder `images` are read as masks, and must have the size of their images.

    Args:
        folder: a folder, or one file. Links are followed, as data sets follow them; a folder that several lead to is
            read once. Hidden files and folders are left out.
        strict: see `read_image`.
        max_pixels: likewise.

    Raises:
        ArgumentError: `max_pixels` is not positive.
        DataError: there is no such folder, a folder in it cannot be read, or they hold no images.
    """
    check_max_pixels(max_pixels)
    root = Path(folder)
    broken: list[dict[str, Any]] = []
    num_images = num_others = 0
    images: list[tuple[Path, Path | None]] = []

    def look(pool: ThreadPoolExecutor) -> None:
        reasons = pool.map(lambda pair: _reason(*pair, strict=strict, max_pixels=max_pixels), images)
        for (path, _), reason in zip(images, reasons, strict=True):
            if reason is not None:
                broken.append({"image": str(path), "reason": reason})
        images.clear()

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for path, photo in _files(root, set()):
            if path.suffix.lower() in SUFFIXES or path == root:
                num_images += 1
                images.append((path, photo))
            else:
                num_others += 1
            if len(images) == CHUNK:
                look(pool)
        look(pool)
    if not num_images:
        found = f"{num_others:,} other file{'s' * (num_others != 1)}" if num_others else "none"
        raise DataError(
            f"{root}: expected images ({', '.join(SUFFIXES)}) in this folder or in those within it, found {found}; "
            "give the folder that holds the images"
        )
    return CheckReport(str(folder), num_images, num_others, is_installed(), broken)


def _files(root: Path, visited: set[tuple[Identity, ...]]) -> Iterator[tuple[Path, Path | None]]:
    """Yield all files that are not hidden, folder by folder, in the order of their names; masks with their images.

    Args:
        root: a folder or a file.
        visited: the folders read so far, to which links may lead back. The masks of other photos are read again.
    """
    try:
        if root.is_file():
            yield root, images_of_masks(root.parent).get(root.stem)
            return
        photos = images_of_masks(root)
        folders = (root, next(iter(photos.values())).parent) if photos else (root,)
        place = tuple(_identity(folder) for folder in folders)
        if place in visited:
            return
        visited.add(place)
        entries = sorted(root.iterdir())
    except (OSError, ValueError) as error:  # of ValueError: a name with a zero byte
        raise DataError(f"cannot read the folder {root}: {getattr(error, 'strerror', None) or error}") from error
    for path in entries:
        if path.name.startswith("."):
            continue
        if path.is_dir():
            yield from _files(path, visited)
        else:
            yield path, photos.get(path.stem)


def _identity(path: Path) -> Identity:
    """Return what tells a folder from others, by whatever path it was reached."""
    found = path.stat()
    return found.st_dev, found.st_ino


def _reason(path: Path, photo: Path | None, *, strict: bool, max_pixels: int | None) -> str | None:
    """Return the reason why an image, or the mask of a photo, cannot be used; None if it can."""
    try:
        check_is_regular(path)
        with reading(strict=strict, max_pixels=max_pixels, place="report"):
            if photo is None:
                read_image(path, channels=3)
                return None
            mask, size = read_mask(path), _size(photo)
            if size is not None:
                check_mask_size(path, mask, photo, size)
    except DataError as error:
        text = str(error)
        for start in (f"cannot use the image {path}: ", f"cannot use the mask {path}: ", f"{path}: ", f"{path} "):
            text = text.removeprefix(start)
        return text
    return None


def _size(photo: Path) -> tuple[int, int] | None:
    """Return the (height, width) of a photo; None of a broken one, which has a reason of its own."""
    try:
        return image_file_size(photo)
    except DataError:
        return None
