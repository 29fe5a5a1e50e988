import json
from pathlib import Path

from tailcut.data.coco_categories import CATEGORIES, NUM_CLASSES


def test_numbers() -> None:
    assert len(CATEGORIES) == len(set(CATEGORIES.values())) == 80
    assert (CATEGORIES[1], CATEGORIES[90], NUM_CLASSES) == ("person", "toothbrush", 91)
    # The numbers that COCO announced, but has no objects of.
    assert set(range(1, 91)) - set(CATEGORIES) == {12, 26, 29, 30, 45, 66, 68, 69, 71, 83}


def test_names_are_those_of_the_annotations(coco_root: Path) -> None:
    content = json.loads((coco_root / "coco" / "annotations" / "instances_val2017.json").read_text())
    assert {item["id"]: item["name"] for item in content["categories"]} == CATEGORIES
