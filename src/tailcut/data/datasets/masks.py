"""Photos with masks, as folders of images read on access; Carvana is one of them."""

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from tailcut.data.dataset import Dataset
from tailcut.data.images import image_file_size, read_image, read_mask
from tailcut.data.reading import current_reading, readable, warn_of_misplaced, warn_of_other_files
from tailcut.data.roots import Roots, find_split, folders_of
from tailcut.errors import DataError
from tailcut.files import by_name, check_is_regular
from tailcut.printing import named

CARVANA = "carvana"
CARVANA_CLASSES = ("background", "car")
CARVANA_ADVICE = (
    "The photos are those of the Carvana Image Masking Challenge "
    "(https://www.kaggle.com/c/carvana-image-masking-challenge)."
)
SUFFIXES = (".jpg", ".jpeg", ".png")
PARTS = ("images", "masks")  # of a split


class MaskDataset(Dataset):
    """The images of `FOLDER/images`, each with its mask of `FOLDER/masks`.

    An image `ID.jpg` or `ID.png` has the mask `ID.png`; an image `in0000.png`, as in the authors' own
    test images, has the mask `gt0000.png`. Images are in the order of their names. Both files are read
    each time they are asked for.

    Args:
        folder: the folder that holds `images` and `masks`; its name is that of the split.
        name: the registered name.
        class_names: of what is 0 and of what is 1 in a mask.

    Raises:
        DataError: there are no images, or an image lacks its mask or a mask its image.
    """

    def __init__(self, folder: Path, *, name: str, class_names: tuple[str, str] = ("background", "foreground")) -> None:
        self.name = name
        self.split = folder.name
        self.task = "segmentation"
        self.num_classes = len(class_names)
        self.class_names = class_names
        self.files = _matched_files(folder)
        self._reading = current_reading()
        kept, self.skipped = readable([image for image, _ in self.files], self.__getitem__, str(folder))
        self.files = [self.files[position] for position in kept]
        height, width = image_file_size(self.files[0][0], max_pixels=self._reading.max_pixels)
        self.image_shape = (3, height, width)

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.files)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        """See `Dataset.__getitem__`.

        Raises:
            IndexError: there is no such image.
            DataError: a file is damaged, or the mask has another size than the image.
        """
        image_path, mask_path = self.files[index]
        strict, max_pixels = self._reading.strict, self._reading.max_pixels
        image = read_image(image_path, channels=3, strict=strict, max_pixels=max_pixels)[0]
        mask = read_mask(mask_path, strict=strict, max_pixels=max_pixels)
        check_mask_size(mask_path, mask, image_path, tuple(image.shape[1:]))
        return image, mask


def check_mask_size(mask_path: Path, mask: Tensor, image_path: Path, size: tuple[int, ...]) -> None:
    """Raise `DataError` if a mask has another (height, width) than its image, of `size`."""
    if tuple(mask.shape) != size:
        raise DataError(
            f"{mask_path}: a mask has the size of its image {image_path.name}, (height, width) {size}; this one has "
            f"{tuple(mask.shape)}"
        )


def images_of_masks(folder: Path) -> dict[str, Path]:
    """Return the images of the masks in a folder `masks`, by the stems of the masks' names; of another folder none."""
    beside = folder.with_name(PARTS[0]) if folder.name == PARTS[1] else None
    if beside is None or not beside.is_dir():
        return {}
    stems = {path.stem: path for path in folder.iterdir()}
    images = [path for path in beside.iterdir() if path.suffix.lower() in SUFFIXES and path.name[0] != "."]
    return {_mask_stem(path.stem, stems): path for path in sorted(images, key=by_name)}


def open_carvana(split: str, *, roots: Roots = None) -> MaskDataset:
    """Photos and masks from `carvana/SPLIT/{images,masks}/` under a data root.

    Args:
        split: the name of a folder in `carvana`.
        roots: data roots to try first; see `data_roots`.

    Returns:
        Images of shape (3, height, width), RGB, and masks (height, width), 1 for the car.

    Raises:
        ArgumentError: the split is not the name of a folder.
        DataNotFoundError: no data root holds the two folders.
        DataError: images and masks do not match.
    """
    folder = find_split(CARVANA, split, PARTS, title="Carvana", advice=CARVANA_ADVICE, roots=roots)
    return MaskDataset(folder, name=CARVANA, class_names=CARVANA_CLASSES)


def _matched_files(folder: Path) -> list[tuple[Path, Path]]:
    (images, other_images), (masks, other_masks) = (_files_by_stem(folder / part) for part in PARTS)
    if not images:
        raise DataError(f"{folder / 'images'} holds no images ({', '.join(SUFFIXES)})")
    wanted = {stem: _mask_stem(stem, masks) for stem in images}
    without_mask = [images[stem].name for stem, mask_stem in wanted.items() if mask_stem not in masks]
    if without_mask:
        raise DataError(f"{folder / 'masks'} lacks the masks of {named(without_mask)}")
    spare = [masks[stem].name for stem in sorted(masks.keys() - wanted.values())]
    if spare:
        raise DataError(f"{folder / 'images'} lacks the images of the masks {named(spare)}")
    warn_of_other_files(folder, other_images + other_masks)
    inner = [f"{part}/{path.name}/" for part in PARTS for path in folders_of(folder / part)]
    warn_of_misplaced(folder, inner, "photos and masks count where they lie directly in images and masks")
    return [(images[stem], masks[wanted[stem]]) for stem in sorted(images)]


def _mask_stem(stem: str, masks: Mapping[str, Path]) -> str:
    published = stem.replace("in", "gt", 1)
    return published if stem.startswith("in") and stem not in masks and published in masks else stem


def _files_by_stem(folder: Path) -> tuple[dict[str, Path], list[str]]:
    """Return the images of a folder by their names, and its other files, which are not hidden, as within the split."""
    files: dict[str, Path] = {}
    others = []
    for path in sorted(folder.iterdir(), key=by_name):
        if path.name.startswith("."):
            continue
        if path.suffix.lower() not in SUFFIXES:
            others += [f"{folder.name}/{path.name}"] if path.is_file() else []
            continue
        check_is_regular(path)
        if path.stem in files:
            raise DataError(f"{folder} holds both {files[path.stem].name} and {path.name}; remove one")
        files[path.stem] = path
    return files, others
