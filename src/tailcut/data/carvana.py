"""Carvana: photos of cars with masks, as folders of pictures that are read when asked for."""

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from tailcut.data.dataset import Dataset
from tailcut.data.pictures import picture_size, read_mask, read_picture
from tailcut.data.roots import Layout, Roots, data_roots, find
from tailcut.errors import ArgumentError, DataError

FOLDER = "carvana"
CLASS_NAMES = ("background", "car")
SUFFIXES = (".jpg", ".jpeg", ".png")


class CarvanaDataset(Dataset):
    """The pictures of `carvana/SPLIT/images`, each with its mask of `carvana/SPLIT/masks`.

    A picture `ID.jpg` or `ID.png` has the mask `ID.png`; a picture `in0000.png`, as in the authors' own
    test pictures, has the mask `gt0000.png`. Pictures are in the order of their names. Both files are read
    each time they are asked for.

    Args:
        folder: the folder that holds `images` and `masks`.

    Raises:
        DataError: there are no pictures, or a picture lacks its mask or a mask its picture.
    """

    def __init__(self, folder: Path) -> None:
        self.name = "carvana"
        self.split = folder.name
        self.task = "segmentation"
        self.num_classes = len(CLASS_NAMES)
        self.class_names = CLASS_NAMES
        self.files = _matched_files(folder)
        height, width = picture_size(self.files[0][0])
        self.picture_shape = (3, height, width)

    def __len__(self) -> int:
        """The number of pictures."""
        return len(self.files)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        """See `Dataset.__getitem__`.

        Raises:
            IndexError: there is no such picture.
            DataError: a file is damaged, or the mask has another size than the picture.
        """
        picture_path, mask_path = self.files[index]
        picture, mask = read_picture(picture_path, channels=3)[0], read_mask(mask_path)
        if picture.shape[1:] != mask.shape:
            raise DataError(
                f"{mask_path}: a mask has the size of its picture {picture_path.name}, (height, width) "
                f"{tuple(picture.shape[1:])}; this one has {tuple(mask.shape)}"
            )
        return picture, mask


def open_carvana(split: str, *, roots: Roots = None) -> CarvanaDataset:
    """Photos and masks from `carvana/SPLIT/{images,masks}/` under a data root.

    Args:
        split: the name of a folder in `carvana`.
        roots: data roots to try first; see `data_roots`.

    Returns:
        Pictures of shape (3, height, width), RGB, and masks (height, width), 1 for the car.

    Raises:
        ArgumentError: the split is not the name of a folder.
        DataNotFoundError: no data root holds the two folders.
        DataError: pictures and masks do not match.
    """
    if split in ("", ".", "..") or "/" in split or "\\" in split:
        raise ArgumentError(f"a split of carvana is the name of a folder, got {split!r}")
    present = sorted({name for root in data_roots(roots) for name in _folders(root / FOLDER)})
    layout = Layout(
        title=f"Carvana, split {split}",
        files=(f"{FOLDER}/{split}/images", f"{FOLDER}/{split}/masks"),
        advice=(f"Splits found: {', '.join(present)}. " if present else "")
        + "The photos are those of the Carvana Image Masking Challenge "
        "(https://www.kaggle.com/c/carvana-image-masking-challenge).",
    )
    return CarvanaDataset(find(layout, roots=roots) / FOLDER / split)


def _folders(parent: Path) -> list[str]:
    try:
        return [folder.name for folder in parent.glob("*/")]
    except OSError:  # `find` reports a root that cannot be read
        return []


def _matched_files(folder: Path) -> list[tuple[Path, Path]]:
    pictures = _files_by_stem(folder / "images")
    masks = _files_by_stem(folder / "masks")
    if not pictures:
        raise DataError(f"{folder / 'images'} holds no pictures ({', '.join(SUFFIXES)})")
    wanted = {stem: _mask_stem(stem, masks) for stem in pictures}
    without_mask = [pictures[stem].name for stem, mask_stem in wanted.items() if mask_stem not in masks]
    if without_mask:
        raise DataError(f"{folder / 'masks'} lacks the masks of {_some(without_mask)}")
    spare = [masks[stem].name for stem in sorted(masks.keys() - wanted.values())]
    if spare:
        raise DataError(f"{folder / 'images'} lacks the pictures of the masks {_some(spare)}")
    return [(pictures[stem], masks[wanted[stem]]) for stem in sorted(pictures)]


def _mask_stem(stem: str, masks: Mapping[str, Path]) -> str:
    published = stem.replace("in", "gt", 1)
    return published if stem.startswith("in") and stem not in masks and published in masks else stem


def _files_by_stem(folder: Path) -> dict[str, Path]:
    files: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() not in SUFFIXES or path.name.startswith("."):
            continue
        if path.stem in files:
            raise DataError(f"{folder} holds both {files[path.stem].name} and {path.name}; remove one")
        files[path.stem] = path
    return files


def _some(names: list[str]) -> str:
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + more
