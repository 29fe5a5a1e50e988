import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageDraw, ImageOps
from pycocotools import mask as run_lengths
from tests.small_coco import HEIGHT, WIDTH, write_coco

from tailcut.data import CocoDataset, open_dataset, split_off
from tailcut.data.datasets.coco import _counts_of_text, open_coco
from tailcut.data.datasets.coco_categories import CATEGORIES, NUM_CLASSES
from tailcut.data.images import read_image
from tailcut.errors import ArgumentError, DataError, DataNotFoundError
from tailcut.evaluation.detection import images_in_order
from tailcut.training.trainer.detection_batches import training_example

Change = Callable[[Callable[[dict[str, Any]], object]], CocoDataset]


@pytest.fixture
def small(tmp_path: Path) -> CocoDataset:
    return open_coco("val2017", roots=write_coco(tmp_path, "val2017"))


@pytest.fixture
def changed(tmp_path: Path) -> Change:
    """Opens the small data set after a change of its annotation file."""
    root = write_coco(tmp_path, "val2017")
    path = root / "coco" / "annotations" / "instances_val2017.json"

    def open_changed(change: Callable[[dict[str, Any]], object]) -> CocoDataset:
        content = json.loads(path.read_text())
        change(content)
        path.write_text(json.dumps(content))
        return open_coco("val2017", roots=root)

    return open_changed


def test_what_a_data_set_tells(small: CocoDataset) -> None:
    assert (small.name, small.split, small.task) == ("coco", "val2017", "detection")
    assert len(small) == 4
    assert small.num_classes == 4
    assert small.class_names == ("background", "red", "", "blue")
    assert small.image_shape == (3, HEIGHT, WIDTH)
    assert [small.image_id(index) for index in range(4)] == [1, 2, 3, 4]


def test_an_image_and_its_table_of_objects(small: CocoDataset) -> None:
    image, table = small[0]
    assert image.shape == (3, HEIGHT, WIDTH)
    assert image[:, 10, 8].tolist() == pytest.approx([230 / 255, 40 / 255, 30 / 255])
    assert table.tolist() == [[8, 10, 48, 40, 1], [60, 20, 84, 60, 3]]


def test_masks_lie_where_the_objects_are(small: CocoDataset) -> None:
    objects = small.objects(0, masks=True)
    assert objects.masks is not None
    expected = torch.zeros(2, HEIGHT, WIDTH, dtype=torch.bool)
    expected[0, 10:40, 8:48] = True
    expected[1, 20:60, 60:84] = True
    assert torch.equal(objects.masks, expected)


def test_an_image_without_objects(small: CocoDataset) -> None:
    objects = small.objects(3, masks=True)
    assert objects.boxes.shape == (0, 4)
    assert objects.labels.dtype == torch.int64
    assert objects.masks is not None
    assert objects.masks.shape == (0, HEIGHT, WIDTH)
    assert small[3][1].shape == (0, 5)


def test_crowds_and_flat_boxes_are_not_trained_on(changed: Change) -> None:
    def change(content: dict[str, Any]) -> None:
        first, second, third, _ = content["annotations"]
        first["iscrowd"] = 1
        second["bbox"][2] = 0
        third["bbox"] = [WIDTH - 10, -5, 30, 25]  # hangs over the edge

    dataset = changed(change)
    assert len(dataset.objects(0).labels) == 0
    assert dataset.objects(1).boxes.tolist() == [[WIDTH - 10, 0, WIDTH, 20]]
    assert len(dataset.ground_truth()["annotations"]) == 4


def test_parts_share_the_images(small: CocoDataset) -> None:
    _, rest = split_off(small, 3)
    assert isinstance(rest, CocoDataset)
    assert (rest.split, len(rest)) == ("val2017[1:4]", 3)
    assert torch.equal(rest[0][0], small[1][0])
    assert [image["id"] for image in rest.ground_truth()["images"]] == [2, 3, 4]
    assert [item["image_id"] for item in rest.ground_truth()["annotations"]] == [2, 3]
    with pytest.raises(IndexError):
        rest[3]


def test_no_batches(small: CocoDataset) -> None:
    with pytest.raises(DataError, match="cannot be stacked to a batch"):
        small.batch([0, 1])


def test_missing_keys_that_pycocotools_wants_are_made(changed: Change) -> None:
    def change(content: dict[str, Any]) -> None:
        for item in content["annotations"]:
            del item["area"], item["iscrowd"]

    item = changed(change).ground_truth()["annotations"][0]
    assert (item["area"], item["iscrowd"]) == (1200, 0)


def set_in(table: str, place: int, /, **values: Any) -> Callable[[dict[str, Any]], object]:
    return lambda content: content[table][place].update(values)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda content: content.pop("images"), "expected a list of objects under 'images'"),
        (lambda content: content.update(annotations=3), "expected a list of objects under 'annotations'"),
        (lambda content: content.update(categories=["red"]), "expected a list of objects under 'categories'"),
        (lambda content: content.update(images=[]), "names no images"),
        (lambda content: content.update(categories=[]), "names no categories"),
        (set_in("images", 0, id="1"), "image 0: id must be an integer"),
        (set_in("images", 0, file_name="x" * 300), "lacks the images xxx"),
        (set_in("images", 0, height=1 << 16, width=1 << 16), "image 0: 65536 x 65536 are more pixels than an image"),
        (set_in("images", 0, id=2), "two images have one id"),
        (set_in("images", 1, height=0), "image 1: height must be an integer of 1 to"),
        (set_in("images", 1, width=True), "image 1: width must be an integer"),
        (set_in("images", 0, file_name="../1.png"), "file_name must be a path inside the folder"),
        (set_in("images", 0, file_name="/etc/passwd"), "file_name must be a path inside the folder"),
        (set_in("images", 0, file_name=None), "file_name must be a path inside the folder"),
        (set_in("images", 0, file_name="gone.png"), "lacks the images gone.png"),
        (set_in("categories", 0, id=-1), "category 0: id must be an integer of 1 to"),
        (set_in("categories", 0, id=False), "category 0: id must be an integer of 1 to"),
        (set_in("categories", 0, id=10**9), "category 0: id must be an integer of 1 to"),
        (set_in("categories", 1, id=1), "the id 1 is taken by 'red'"),
        (set_in("categories", 0, name=7), "category 0: name must be a text, got 7"),
        (set_in("annotations", 1, id=1), "annotation 1: the id 1 comes twice"),
        (set_in("annotations", 0, image_id=99), "annotation 0: there is no image 99"),
        (set_in("annotations", 0, image_id=[]), r"annotation 0: there is no image \[\]"),
        (set_in("annotations", 0, category_id=2), "annotation 0: there is no category 2"),
        (set_in("annotations", 0, iscrowd=5), "iscrowd must be 0 or 1, got 5"),
        (set_in("annotations", 0, bbox=[1, 2, 3]), r"bbox must be \[left, top, width, height\]"),
        (set_in("annotations", 0, bbox=[1, 2, -3, 4]), "bbox must be"),
        (set_in("annotations", 0, bbox=[1, 2, float("nan"), 4]), "bbox must be"),
        (set_in("annotations", 0, bbox=[1, 2, 10**400, 4]), "bbox must be"),
        (set_in("annotations", 0, area="big"), "area must be a number, got 'big'"),
    ],
)
def test_a_damaged_file_is_refused(change: Callable[[dict[str, Any]], object], message: str, changed: Change) -> None:
    with pytest.raises(DataError, match=message):
        changed(change)


def test_categories_from_0_on_are_refused_with_advice_that_works(changed: Change) -> None:
    def count_from_0(content: dict[str, Any]) -> None:
        content["categories"] = [{"id": 0, "name": "red"}, {"id": 2, "name": "blue"}]
        for item in content["annotations"]:
            item["category_id"] -= 1

    def add_1(content: dict[str, Any]) -> None:
        for item in content["categories"]:
            item["id"] += 1
        for item in content["annotations"]:
            item["category_id"] += 1

    with pytest.raises(DataError, match=r"category 0, 'red', has the id 0, .*background.*: add 1 to all category ids"):
        changed(count_from_0)
    assert changed(add_1).class_names == ("background", "red", "", "blue")


@pytest.mark.parametrize(
    "segmentation",
    [
        None,
        [],
        [[1, 2, 3, 4]],
        [[1, 2, 3, 4, 5, 6, 7]],
        [[1, 2, 3, 4, 5, "6"]],
        [[1, 2, 3, 4, 5, 1e9]],
        {"size": [HEIGHT, WIDTH], "counts": [1, 2]},
        {"size": [HEIGHT, WIDTH], "counts": [-1, HEIGHT * WIDTH + 1]},
        {"size": [WIDTH, HEIGHT], "counts": [HEIGHT * WIDTH]},
        {"size": [HEIGHT, WIDTH], "counts": "\u00ff"},
        {"size": [HEIGHT, WIDTH], "counts": "P" * 100},
        {"size": [HEIGHT, WIDTH], "counts": "o" * 100},
        {"size": [HEIGHT, WIDTH], "counts": 7},
        {"size": [HEIGHT, WIDTH]},
    ],
)
def test_a_damaged_mask_is_refused_when_it_is_used(segmentation: Any, changed: Change) -> None:
    dataset = changed(set_in("annotations", 0, segmentation=segmentation))
    assert len(dataset.objects(0).labels) == 2
    assert len(dataset.ground_truth()["annotations"]) == 4
    for use in (lambda: dataset.objects(0, masks=True), lambda: dataset.ground_truth(masks=True)):
        with pytest.raises(DataError, match="annotation with id 1: segmentation must be polygons"):
            use()


def test_polygons_far_beyond_the_image_are_refused_before_they_take_memory(changed: Change) -> None:
    dataset = changed(set_in("annotations", 0, segmentation=[[0, 0, 65536, 65536] * 40]))
    with pytest.raises(DataError, match="annotation with id 1: the edges of its polygons are too long for an image"):
        dataset.objects(0, masks=True)
    beyond = changed(set_in("annotations", 0, segmentation=[[0, 0, 300, 0, 300, 300]]))
    assert beyond.objects(0, masks=True).masks is not None


def test_a_size_that_is_not_the_images_is_found_before_its_masks_are_made(changed: Change) -> None:
    runs = {"size": [8192, 8192], "counts": [8192 * 8192]}

    def enlarge(content: dict[str, Any]) -> None:
        content["images"][0].update(height=8192, width=8192)
        content["annotations"][0].update(segmentation=runs)

    dataset = changed(enlarge)
    with pytest.raises(DataError, match="says that it has"):
        training_example(dataset, 0, masks=True, mirrored=False)


def test_files_that_are_no_json(tmp_path: Path) -> None:
    root = write_coco(tmp_path, "val2017")
    path = root / "coco" / "annotations" / "instances_val2017.json"
    for content, message in (
        (b"{", "is no JSON"),
        (b"\xff", "is no JSON"),
        (b"[1]", "expected a JSON object, found list"),
    ):
        path.write_bytes(content)
        with pytest.raises(DataError, match=message):
            open_coco("val2017", roots=root)
    path.write_bytes(b"[" * 100_000)
    with pytest.raises(DataError, match="is no JSON"):
        open_coco("val2017", roots=root)


def test_an_image_of_another_size(small: CocoDataset, tmp_path: Path) -> None:
    Image.new("RGB", (WIDTH, HEIGHT + 1)).save(tmp_path / "coco" / "val2017" / "1.png")
    with pytest.raises(DataError, match=r"says that it has \(height, width\) \(64, 96\), it has \(65, 96\)"):
        small[0]


def turned_photo(root: Path, orientation: int, suffix: str, sides: tuple[int, int] = (WIDTH, HEIGHT)) -> Image.Image:
    """Replace the first image by one with an EXIF orientation; return its stored pixels as Pillow decodes them."""
    pixels = np.random.default_rng(0).integers(0, 256, (sides[1], sides[0], 3), dtype=np.uint8)
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = root / "coco" / "val2017" / f"turned{suffix}"
    Image.fromarray(pixels).save(path, exif=exif)
    with Image.open(path) as image:
        image.load()
    return image


def as_tensor(image: Image.Image) -> torch.Tensor:
    return torch.from_numpy(np.array(image)).permute(2, 0, 1) / 255


@pytest.mark.parametrize("suffix", [".jpg", ".png"])
@pytest.mark.parametrize("orientation", [5, 6, 7, 8])
def test_the_annotated_size_says_whether_a_photo_is_turned(
    orientation: int, suffix: str, changed: Change, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The oracle is Pillow's own turn, or none."""
    stored = turned_photo(tmp_path, orientation, suffix)
    name = f"turned{suffix}"
    as_stored = changed(set_in("images", 0, file_name=name, height=HEIGHT, width=WIDTH))
    torch.testing.assert_close(as_stored.image(0), as_tensor(stored))
    upright = changed(set_in("images", 0, file_name=name, height=WIDTH, width=HEIGHT))
    torch.testing.assert_close(upright.image(0), as_tensor(ImageOps.exif_transpose(stored)))
    assert not caplog.records
    neither = changed(set_in("images", 0, file_name=name, height=HEIGHT, width=WIDTH + 1))
    with pytest.raises(DataError, match=rf"it has \(96, 64\), turned upright by its EXIF orientation {orientation}"):
        neither.image(0)


@pytest.mark.parametrize(("orientation", "sides"), [(2, (WIDTH, HEIGHT)), (3, (WIDTH, HEIGHT)), (6, (40, 40))])
def test_a_turn_that_the_size_does_not_show_is_made_and_told_once(
    orientation: int, sides: tuple[int, int], changed: Change, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    stored = turned_photo(tmp_path, orientation, ".jpg", sides)
    for place in (1, 2):
        set_size = set_in("images", place, file_name="turned.jpg", height=sides[1], width=sides[0])
        dataset = changed(set_size)
    upright = as_tensor(ImageOps.exif_transpose(stored))
    torch.testing.assert_close(dataset.image(1), upright)
    torch.testing.assert_close(dataset.image(1), read_image(tmp_path / "coco/val2017/turned.jpg", channels=3)[0])
    dataset.part(2, 4).image(0)
    (record,) = caplog.records
    assert f"turned.jpg has the EXIF orientation {orientation}" in record.getMessage()


def test_worker_processes_tell_of_a_turn_once(
    changed: Change, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    turned_photo(tmp_path, 3, ".jpg")
    for place in (1, 2):
        dataset = changed(set_in("images", place, file_name="turned.jpg"))
    assert len(list(images_in_order(dataset, [1, 2], workers=1))) == 2
    assert dataset.image(1).shape == (3, HEIGHT, WIDTH)
    assert not caplog.records  # of this process: the other one has said it


@pytest.mark.parametrize("split", ["", "..", "a/b", "a\\b"])
def test_a_split_is_a_folder(split: str) -> None:
    with pytest.raises(ArgumentError, match="name of a folder"):
        open_coco(split)


def test_where_it_lies(cache: Path, tmp_path: Path) -> None:
    with pytest.raises(DataNotFoundError, match=r"coco/annotations/instances_train2017\.json") as caught:
        open_dataset("coco", "train2017", roots=write_coco(tmp_path, "val2017"))
    assert re.search(r"^Splits found: (\S+, )*val2017\. Images and annotations", str(caught.value), re.MULTILINE)
    assert open_dataset("coco", roots=tmp_path).split == "val2017"


@given(
    st.integers(1, 12),
    st.integers(1, 12),
    st.data(),
)
def test_run_lengths_as_text_are_those_of_pycocotools(height: int, width: int, data: st.DataObject) -> None:
    bits = data.draw(st.lists(st.integers(0, 1), min_size=height * width, max_size=height * width))
    mask = np.array(bits, dtype=np.uint8).reshape(height, width)
    text = run_lengths.encode(np.asfortranarray(mask))["counts"].decode()
    counts = _counts_of_text(text)
    decoded = np.repeat(np.arange(len(counts)) % 2, counts).reshape(width, height).T
    assert np.array_equal(decoded, mask)


@given(st.text(max_size=60))
def test_any_text_of_run_lengths_ends(text: str) -> None:
    assert all(isinstance(count, int) for count in _counts_of_text(text))


def test_real_images(coco_root: Path) -> None:
    dataset = open_dataset("coco", "val2017", roots=coco_root)
    assert isinstance(dataset, CocoDataset)
    assert len(dataset) == 40
    assert dataset.num_classes == 91
    truth = dataset.ground_truth(masks=True)
    assert sum(item["iscrowd"] for item in truth["annotations"]) == 6
    index = next(place for place in range(40) if len(dataset.objects(place).labels) >= 5)
    objects = dataset.objects(index, masks=True)
    assert objects.masks is not None
    assert dataset.image(index).shape[1:] == objects.masks.shape[1:]
    mine = [item for item in truth["annotations"] if item["image_id"] == dataset.image_id(index)]
    chosen = [item for item in mine if not item["iscrowd"]]
    num_large = 0
    for mask, box, item in zip(objects.masks, objects.boxes.tolist(), chosen, strict=True):
        rows, columns = mask.nonzero(as_tuple=True)
        found = (columns.min().item(), rows.min().item(), columns.max().item() + 1, rows.max().item() + 1)
        assert box[0] - 1.5 <= found[0] < found[2] <= box[2] + 1.5
        assert box[1] - 1.5 <= found[1] < found[3] <= box[3] + 1.5
        if item["area"] > 2000:  # Pillow draws outlines half a pixel larger
            drawn = Image.new("1", mask.shape[::-1])
            for polygon in item["segmentation"]:
                ImageDraw.Draw(drawn).polygon(polygon, fill=1)
            other = torch.from_numpy(np.array(drawn))
            assert (mask & other).sum() / (mask | other).sum() > 0.9
            num_large += 1
    assert num_large > 0


def test_numbers() -> None:
    assert len(CATEGORIES) == len(set(CATEGORIES.values())) == 80
    assert (CATEGORIES[1], CATEGORIES[90], NUM_CLASSES) == ("person", "toothbrush", 91)
    # The numbers that COCO announced, but has no objects of.
    assert set(range(1, 91)) - set(CATEGORIES) == {12, 26, 29, 30, 45, 66, 68, 69, 71, 83}


def test_names_are_those_of_the_annotations(coco_root: Path) -> None:
    content = json.loads((coco_root / "coco" / "annotations" / "instances_val2017.json").read_text())
    assert {item["id"]: item["name"] for item in content["categories"]} == CATEGORIES
