"""COCO: photos with boxes and masks of objects, from the annotation files `instances_SPLIT.json`."""

import json
import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tailcut.data.dataset import Dataset, Indices
from tailcut.data.images import SWAPPING, read_annotated
from tailcut.data.reading import current_reading, readable
from tailcut.data.roots import Roots, data_roots, find, folders_of, split_layout
from tailcut.errors import DataError, MissingExtraError
from tailcut.jpeg.limits import HARD_MAX_PIXELS
from tailcut.printing import named

FOLDER = "coco"
BACKGROUND = "background"
MAX_CATEGORY = 1 << 16
MAX_SIDE = 1 << 16  # pixels
MAX_NUMBER = 1 << 33  # square pixels, more than any image has
MIN_POLYGON = 6  # numbers: three corners
MAX_RUN_BITS = 30
MAX_LENGTHS, MAX_LENGTH = 64, 1_000_000  # of an object's edges: so many sides of the image, and so many pixels
NUM_SHOWN = 3  # names in a message

logger = logging.getLogger(__name__)

Annotation = dict[str, Any]


@dataclass(frozen=True)
class Objects:
    """The objects of one image, to train on: crowds and boxes without area are left out.

    Attributes:
        boxes: float32 (objects, 4) as left, top, right, bottom in pixels, within the image.
        labels: int64 (objects,), the category numbers of the annotation file, 1 or more.
        masks: bool (objects, height, width); None if they were not asked for.
    """

    boxes: Tensor
    labels: Tensor
    masks: Tensor | None = None


class CocoDataset(Dataset):
    """The images of an annotation file, in the order of their numbers, read on access.

    A target is a table of objects, float32 (objects, 5): left, top, right, bottom in pixels and the category number.
    `objects` gives their masks too.

    Boxes and masks are in pixels of the image upright, as its EXIF orientation says. Of an orientation that swaps the
    sides (5 to 8), the size in the annotation file decides: if it is that of the stored pixels, it is not turned.

    Args:
        folder: the folder of the images.
        annotations: the JSON file in COCO's format; its categories are numbered from 1.
        split: what the part is called.

    Attributes:
        num_classes: the highest category number plus one; 0 is the background.
        class_names: by category number; empty for numbers that are not used.

    Raises:
        DataError: the file is damaged, an annotation contradicts the rest, or an image is missing.
    """

    def __init__(self, folder: Path, annotations: Path, split: str) -> None:
        self.name = FOLDER
        self.split = split
        self.task = "detection"
        content = _read_json(annotations)
        self.entries = _checked_images(content, annotations)
        self.categories = _checked_categories(content, annotations)
        known = {entry["id"]: entry for entry in self.entries}
        self._objects: dict[int, list[Annotation]] = {number: [] for number in known}
        for item in _checked_annotations(content, annotations, known, self.categories):
            self._objects[item["image_id"]].append(item)
        self.num_classes = max(self.categories) + 1
        names = {0: BACKGROUND} | self.categories
        self.class_names = tuple(names.get(number, "") for number in range(self.num_classes))
        self._folder, self._annotations = folder, annotations
        _check_files(folder, self.entries)
        self._reading = current_reading()
        self._has_warned = torch.zeros(1, dtype=torch.bool).share_memory_()  # with parts and worker processes
        paths = [folder / entry["file_name"] for entry in self.entries]
        kept, self.skipped = readable(paths, self.image, f"{self.name}, split {split},")
        self.entries = [self.entries[position] for position in kept]
        self.image_shape = (3, self.entries[0]["height"], self.entries[0]["width"])

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.entries)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        """See `Dataset.__getitem__`; the target is (objects, 5).

        Raises:
            IndexError: there is no such image.
            DataError: the file is damaged, or has another size than the annotations say.
        """
        objects = self.objects(index)
        return self.image(index), torch.cat([objects.boxes, objects.labels[:, None].float()], dim=1)

    def batch(self, indices: Indices) -> tuple[Tensor, Tensor]:
        """Not possible: raises DataError. Images differ in size and in the number of their objects."""
        raise DataError(
            f"{self.name}, split {self.split}: images with objects cannot be stacked to a batch, since they differ "
            "in size and number of objects; only a detector (faster_rcnn, mask_rcnn) can be trained on them"
        )

    def part(self, start: int, stop: int) -> "CocoDataset":
        """See `Dataset.part`."""
        self._check_part(start, stop)
        part = object.__new__(CocoDataset)
        part.__dict__.update(self.__dict__)
        part.split = f"{self.split}[{start}:{stop}]"
        part.entries = self.entries[start:stop]
        part.image_shape = (3, part.entries[0]["height"], part.entries[0]["width"])
        return part

    def image(self, index: int) -> Tensor:
        """Return one image, float32 (3, height, width) in 0..1. Raises as `__getitem__`."""
        entry = self.entries[index]
        path = self._folder / entry["file_name"]
        strict, max_pixels = self._reading.strict, self._reading.max_pixels
        size = (entry["height"], entry["width"])
        image, orientation = read_annotated(path, size, strict=strict, max_pixels=max_pixels)
        if image.shape[1:] != size:
            turn = "" if orientation == 1 else f", turned upright by its EXIF orientation {orientation}"
            raise DataError(
                f"{path}: {self._annotations.name} says that it has (height, width) {size}, it has "
                f"{tuple(image.shape[1:])}{turn}"
            )
        if orientation != 1 and (orientation not in SWAPPING or size[0] == size[1]):
            self._warn_of_turn(path, orientation)
        return image

    def _warn_of_turn(self, path: Path, orientation: int) -> None:
        """Say once how an image is read whose size does not show what its boxes are for."""
        if not self._has_warned.item():
            self._has_warned.fill_(True)
            logger.warning(
                "%s has the EXIF orientation %d, and its size does not show whether boxes are for the upright image "
                "or for the stored pixels. Such images are turned upright, as for predictions; if their boxes are for "
                "the stored pixels, take the orientation out of the files",
                path,
                orientation,
            )

    def objects(self, index: int, *, masks: bool = False) -> Objects:
        """Return the objects of one image.

        Args:
            index: which image.
            masks: give their masks too; this needs pycocotools.

        Raises:
            IndexError: there is no such image.
            DataError: a mask is damaged.
            MissingExtraError: masks without pycocotools.
        """
        entry = self.entries[index]
        height, width = entry["height"], entry["width"]
        boxes, chosen = [], []
        for item in self._objects[entry["id"]]:
            left, top, across, down = item["bbox"]
            box = (max(left, 0.0), max(top, 0.0), min(left + across, width), min(top + down, height))
            if not item["iscrowd"] and box[0] < box[2] and box[1] < box[3]:
                boxes.append(box)
                chosen.append(item)
        table = torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4)
        has_area = (table[:, 2:] > table[:, :2]).all(dim=1)  # in float32 too
        chosen = [item for item, keep in zip(chosen, has_area.tolist(), strict=True) if keep]
        labels = torch.tensor([item["category_id"] for item in chosen], dtype=torch.int64)
        pixels = self._masks(chosen, height, width) if masks else None
        return Objects(table[has_area], labels, pixels)

    @property
    def has_objects(self) -> bool:
        """True if any image has an object that is not a crowd."""
        return any(not item["iscrowd"] for entry in self.entries for item in self._objects[entry["id"]])

    def image_id(self, index: int) -> int:
        """Return the image's id in the annotation file."""
        number: int = self.entries[index]["id"]
        return number

    def ground_truth(self, *, masks: bool = False) -> dict[str, list[dict[str, Any]]]:
        """Images, annotations (crowds too) and categories of this part, in COCO's format, for an evaluation.

        Args:
            masks: with the masks, all of them checked.

        Raises:
            DataError: a mask is damaged.
        """
        annotations = []
        for entry in self.entries:
            size = entry["height"], entry["width"]
            for item in self._objects[entry["id"]]:
                entry = {key: item[key] for key in ("id", "image_id", "category_id", "bbox", "area", "iscrowd")}
                if masks:
                    entry["segmentation"] = _checked_segmentation(item, *size, self._annotations)
                annotations.append(entry)
        return {
            "images": [{key: entry[key] for key in ("id", "height", "width")} for entry in self.entries],
            "annotations": annotations,
            "categories": [{"id": number, "name": name} for number, name in self.categories.items()],
        }

    def _masks(self, items: Sequence[Annotation], height: int, width: int) -> Tensor:
        masks = [_decode_mask(item, height, width, self._annotations) for item in items]
        return torch.from_numpy(np.stack(masks)) if masks else torch.zeros(0, height, width, dtype=torch.bool)


def open_coco(split: str, *, roots: Roots = None) -> CocoDataset:
    """Photos and objects from `coco/SPLIT/` and `coco/annotations/instances_SPLIT.json` under a data root.

    Args:
        split: `train2017`, `val2017`, or the name of a folder of your own laid out the same way.
        roots: data roots to try first; see `data_roots`.

    Raises:
        ArgumentError: the split is not the name of a folder.
        DataNotFoundError: no data root holds both.
        DataError: see `CocoDataset`.
    """
    images, annotations = f"{FOLDER}/{split}", f"{FOLDER}/annotations/instances_{split}.json"
    layout = split_layout(
        FOLDER,
        split,
        [images, annotations],
        there={name for root in data_roots(roots) for name in _splits_of(root / FOLDER)},
        title="COCO",
        advice="Images and annotations of COCO 2017 are at https://cocodataset.org/#download",
    )
    root = find(layout, roots=roots)
    return CocoDataset(root / images, root / annotations, split)


def _splits_of(folder: Path) -> list[str]:
    """Return the folders that have a file of annotations; none if the folder cannot be read."""
    return [
        path.name for path in folders_of(folder) if (folder / "annotations" / f"instances_{path.name}.json").is_file()
    ]


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_bytes())
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path} is no JSON: {error}; get the file again") from error
    if not isinstance(content, dict):
        raise DataError(f"{path}: expected a JSON object, found {type(content).__name__}")
    for key in ("images", "annotations", "categories"):
        items = content.get(key)
        if not isinstance(items, list) or not all(isinstance(item, dict) for item in items):
            raise DataError(f"{path}: expected a list of objects under {key!r}, as COCO's instance files have it")
    return content


def _checked_images(content: dict[str, Any], path: Path) -> list[dict[str, Any]]:
    images = content["images"]
    if not images:
        raise DataError(f"{path} names no images")
    for place, image in enumerate(images):
        where = f"{path}, image {place}"
        _check_integer(image, "id", 0, 1 << 62, where)
        _check_integer(image, "height", 1, MAX_SIDE, where)
        _check_integer(image, "width", 1, MAX_SIDE, where)
        if image["height"] * image["width"] > HARD_MAX_PIXELS:
            raise DataError(
                f"{where}: {image['height']} x {image['width']} are more pixels than an image may have, "
                f"{HARD_MAX_PIXELS:,}"
            )
        name = image.get("file_name")
        parts = PurePosixPath(name).parts if isinstance(name, str) else ()
        if not parts or ".." in parts or parts[0] == "/" or "\\" in name or "\0" in name:
            raise DataError(f"{where}: file_name must be a path inside the folder of the split, got {name!r}")
    if len({image["id"] for image in images}) < len(images):
        raise DataError(f"{path}: two images have one id")
    return sorted(images, key=lambda image: int(image["id"]))


def _checked_categories(content: dict[str, Any], path: Path) -> dict[int, str]:
    categories: dict[int, str] = {}
    for place, item in enumerate(content["categories"]):
        where = f"{path}, category {place}"
        if _is_integer(item.get("id")) and item["id"] == 0:
            raise DataError(
                f"{where}, {item.get('name')!r:.80}, has the id 0, which is the background of detectors: add 1 to all "
                "category ids, each id in categories and each category_id in annotations"
            )
        _check_integer(item, "id", 1, MAX_CATEGORY, where)
        if not isinstance(item.get("name"), str):
            raise DataError(f"{where}: name must be a text, got {item.get('name')!r}")
        if item["id"] in categories:
            raise DataError(f"{where}: the id {item['id']} is taken by {categories[item['id']]!r}")
        categories[item["id"]] = item["name"]
    if not categories:
        raise DataError(f"{path} names no categories")
    return dict(sorted(categories.items()))


def _checked_annotations(
    content: dict[str, Any], path: Path, images: dict[int, dict[str, Any]], categories: dict[int, str]
) -> Iterable[Annotation]:
    """Yield the annotations, each checked on access; masks are checked on use."""
    seen: set[int] = set()
    for place, item in enumerate(content["annotations"]):
        where = f"{path}, annotation {place}"
        _check_integer(item, "id", 0, 1 << 62, where)
        if item["id"] in seen:
            raise DataError(f"{where}: the id {item['id']} comes twice")
        seen.add(item["id"])
        if not _is_integer(item.get("image_id")) or item["image_id"] not in images:
            raise DataError(f"{where}: there is no image {item.get('image_id')!r}")
        if not _is_integer(item.get("category_id")) or item["category_id"] not in categories:
            raise DataError(f"{where}: there is no category {item.get('category_id')!r}")
        if item.get("iscrowd", 0) not in (0, 1):
            raise DataError(f"{where}: iscrowd must be 0 or 1, got {item['iscrowd']!r}")
        box = item.get("bbox")
        if not isinstance(box, list) or len(box) != 4 or not all(map(_is_number, box)) or min(box[2:]) < 0:
            raise DataError(f"{where}: bbox must be [left, top, width, height] in pixels, got {box!r}")
        item.setdefault("area", box[2] * box[3])
        item.setdefault("iscrowd", 0)
        if not _is_number(item["area"]):
            raise DataError(f"{where}: area must be a number, got {item['area']!r}")
        yield item


def _check_files(folder: Path, images: Sequence[dict[str, Any]]) -> None:
    try:
        there = {path.name for path in folder.iterdir()}
    except OSError as error:
        raise DataError(f"cannot read the folder {folder}: {error.strerror or error}") from error
    names = (entry["file_name"] for entry in images)
    missing = [name for name in names if name not in there and not _is_file(folder / name)]
    if missing:
        raise DataError(f"{folder} lacks the images {named(missing, NUM_SHOWN)}")


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # its name is longer than names can be
        return False


def _decode_mask(item: Annotation, height: int, width: int, path: Path) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """Return the mask of one object, bool (height, width)."""
    segmentation = _checked_segmentation(item, height, width, path)
    counts = segmentation["counts"] if isinstance(segmentation, dict) else _fill_polygons(segmentation, height, width)
    is_inside = np.arange(len(counts)) % 2 == 1  # runs go down the columns, the first one is outside
    return np.repeat(is_inside, counts).reshape(width, height).T


def _fill_polygons(polygons: list[list[float]], height: int, width: int) -> list[int]:
    try:
        from pycocotools import mask as run_lengths
    except ImportError as error:
        raise MissingExtraError("masks of objects", "pycocotools", "detection") from error
    merged = run_lengths.merge(run_lengths.frPyObjects(polygons, height, width))
    return _counts_of_text(merged["counts"].decode("ascii"))


def _checked_segmentation(item: Annotation, height: int, width: int, path: Path) -> list[Any] | dict[str, Any]:
    """Return the mask of an object as polygons or as a list of run lengths, safe to give to pycocotools.

    Its C code trusts what it gets: a damaged text of run lengths reads past its end or never ends.
    """
    segmentation = item.get("segmentation")
    if isinstance(segmentation, list) and segmentation and all(map(_is_polygon, segmentation)):
        if sum(map(_length_of, segmentation)) > MAX_LENGTHS * (height + width) + MAX_LENGTH:
            raise DataError(
                f"{path}, annotation with id {item['id']}: the edges of its polygons are too long for an image of "
                f"(height, width) {(height, width)}; they must be in pixels"
            )
        return segmentation
    if isinstance(segmentation, dict) and segmentation.get("size") == [height, width]:
        counts: Any = segmentation.get("counts")
        counts = _counts_of_text(counts) if isinstance(counts, str) else counts
        is_list = isinstance(counts, list) and all(_is_integer(count) and count >= 0 for count in counts)
        if is_list and sum(counts) == height * width:
            return {"size": [height, width], "counts": counts}
    raise DataError(
        f"{path}, annotation with id {item['id']}: segmentation must be polygons [x, y, x, y, x, y, ...] in pixels, "
        f"or run lengths that add up to the image's size (height, width) {(height, width)}"
    )


def _counts_of_text(text: str) -> list[int]:
    """Return the run lengths of COCO's compressed form; empty if the text is damaged.

    Each number is the difference to the last but one (from the fourth on), in groups of 5 bits from the lowest on, one
    character each (from "0" on); bit 5 says that another group follows, bit 4 of the last group is the sign.
    """
    counts: list[int] = []
    value = shift = 0
    for character in text:
        group = ord(character) - ord("0")
        if not 0 <= group < 64 or shift > MAX_RUN_BITS:
            return []
        value |= (group & 31) << shift
        shift += 5
        if not group & 32:
            value -= (group & 16) << (shift - 4) if group & 16 else 0
            counts.append(value + (counts[-2] if len(counts) > 2 else 0))
            value = shift = 0
    return [] if shift else counts


def _is_polygon(points: Any) -> bool:
    is_list = isinstance(points, list) and len(points) >= MIN_POLYGON and len(points) % 2 == 0
    return is_list and all(_is_number(value) and abs(value) <= MAX_SIDE for value in points)


def _length_of(points: Sequence[float]) -> float:
    """Return how far a polygon's edges go: pycocotools keeps each step of them."""
    corners = np.asarray(points, dtype=np.float64).reshape(-1, 2)
    return float(np.abs(corners - np.roll(corners, 1, axis=0)).max(axis=1).sum())


def _is_integer(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) <= MAX_NUMBER


def _check_integer(item: dict[str, Any], key: str, least: int, most: int, where: str) -> None:
    value = item.get(key)
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
        raise DataError(f"{where}: {key} must be an integer of {least} to {most}, got {value!r}")
