"""A small data set in COCO's form: bright rectangles on noise, with boxes and masks; and a detector of their size."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

HEIGHT, WIDTH = 64, 96
# (left, top, width, height) and category of each object, one list per image. The last image is empty.
SCENES: tuple[tuple[tuple[tuple[int, int, int, int], int], ...], ...] = (
    (((8, 10, 40, 30), 1), ((60, 20, 24, 40), 3)),
    (((20, 4, 50, 50), 3),),
    (((50, 30, 40, 30), 1),),
    (),
)
COLOURS = {1: (230, 40, 30), 3: (20, 60, 240)}
CATEGORIES = [{"id": 1, "name": "red"}, {"id": 3, "name": "blue"}]

TINY: dict[str, Any] = {
    "backbone": "resnet18",
    "channels": 24,
    "num_classes": 4,
    "min_size": 64,
    "max_size": 96,
    "norm": "batch",
    "width": 8,
    "pyramid_channels": 16,
    "head_features": 32,
    "proposals": 50,
    "regions": 32,
}


def write_coco(root: Path, *splits: str, scenes: Any = SCENES) -> Path:
    """Write the splits, all alike, under a data root. Returns the root."""
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    generator = np.random.default_rng(0)
    for number, scene in enumerate(scenes, start=1):
        pixels = generator.integers(90, 110, (HEIGHT, WIDTH, 3), dtype=np.uint8)
        for (left, top, width, height), category in scene:
            pixels[top : top + height, left : left + width] = COLOURS[category]
            right, bottom = left + width, top + height
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": number,
                    "category_id": category,
                    "bbox": [left, top, width, height],
                    "area": width * height,
                    "iscrowd": 0,
                    "segmentation": [[left, top, right, top, right, bottom, left, bottom]],
                }
            )
        images.append({"id": number, "file_name": f"{number}.png", "height": HEIGHT, "width": WIDTH})
        for split in splits:
            (root / "coco" / split).mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(root / "coco" / split / f"{number}.png")
    content = {"images": images, "annotations": annotations, "categories": CATEGORIES}
    (root / "coco" / "annotations").mkdir(parents=True, exist_ok=True)
    for split in splits:
        (root / "coco" / "annotations" / f"instances_{split}.json").write_text(json.dumps(content))
    return root
