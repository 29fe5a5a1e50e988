"""Prediction of detectors: objects as a table, and drawn on their images."""

import colorsys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor, nn

from tailcut import structure
from tailcut.data import read_image
from tailcut.data.datasets.coco_categories import CATEGORIES, NUM_CLASSES
from tailcut.errors import ArgumentError
from tailcut.evaluation.detection import MASK_THRESHOLD, check_finite
from tailcut.evaluation.evaluate import choose_device, file_at_level, fitting, runnable
from tailcut.files import atomic_write, made_folder
from tailcut.format import load
from tailcut.inputs.detection.detectors import Detector
from tailcut.printing import table
from tailcut.structure import MAX_INPUT_PIXELS, check_pixels, device_of
from tailcut.tasks.prediction.outputs import PredictReport, check_table, paths_of_output, read_each, write_table

MASK_STRENGTH = 0.45  # part of the colour in a masked pixel
HUE_STEP = 0.6180339887  # the golden ratio: neighbouring numbers get unlike hues
LINES_PER_SIDE = 250  # a line is one pixel thick for so many pixels of the longer side
TEXTS_PER_SIDE = 45
MIDDLE_GREY = 128

Colour = tuple[int, int, int]


def draw_objects(image: Tensor, found: Mapping[str, Tensor], names: Sequence[str]) -> Image.Image:
    """Return the image with each object's mask, box, name and score, the highest score on top.

    Args:
        image: RGB (3, height, width) in 0..1.
        found: boxes (objects, 4) as left, top, right, bottom in pixels, labels, scores, best first, and masks (objects,
            height, width) if there are any.
        names: name of each label.
    """
    pixels = (image.clamp(0, 1) * 255).round().to(torch.uint8).permute(1, 2, 0).cpu().numpy().astype(np.float32)
    order = range(len(found["labels"]) - 1, -1, -1)
    labels, scores, boxes = found["labels"].tolist(), found["scores"].tolist(), found["boxes"].tolist()
    for place in order if "masks" in found else ():
        inside = (found["masks"][place] > MASK_THRESHOLD).cpu().numpy()
        colour = np.array(colour_of(labels[place]), dtype=np.float32)
        pixels[inside] = (1 - MASK_STRENGTH) * pixels[inside] + MASK_STRENGTH * colour
    canvas = Image.fromarray(pixels.round().astype(np.uint8))
    for place in order:
        _draw_box(canvas, boxes[place], f"{names[labels[place]]} {scores[place]:.2f}", colour_of(labels[place]))
    return canvas


def write_image(image: Image.Image, path: Path) -> None:
    """Write the image as a PNG file, whole or not at all."""
    with atomic_write(path) as file:
        image.save(file, format="PNG", optimize=True)


def colour_of(label: int) -> Colour:
    """Return the colour of a class: bright, and fixed per class."""
    red, green, blue = colorsys.hsv_to_rgb(label * HUE_STEP % 1, 0.85, 1.0)
    return round(255 * red), round(255 * green), round(255 * blue)


def _draw_box(image: Image.Image, box: Sequence[float], text: str, colour: Colour) -> None:
    draw = ImageDraw.Draw(image)
    side = max(image.size)
    font = ImageFont.load_default(size=max(10, side // TEXTS_PER_SIDE))
    left, top, right, bottom = box
    draw.rectangle(
        (left, top, max(left, right - 1), max(top, bottom - 1)), None, colour, max(1, side // LINES_PER_SIDE)
    )
    _, _, width, height = draw.textbbox((0, 0), text, font=font)
    x, y = max(0, min(left, image.width - width)), top - height if top >= height else top
    draw.rectangle((x, y, x + width, y + height), fill=colour)
    draw.text((x, y), text, fill="black" if _brightness(colour) > MIDDLE_GREY else "white", font=font)


def _brightness(colour: Colour) -> float:
    """Return the luma of ITU-R BT.601, 0 to 255."""
    red, green, blue = colour
    return 0.299 * red + 0.587 * green + 0.114 * blue


LEAST_SCORE = 0.5


@dataclass
class PredictObjectsReport(PredictReport):
    """Report of the detections in images.

    Attributes:
        source: the file, as it was given.
        task: `detection`.
        predictions: one dict per image: `image`, `drawing` (the file; None without a folder) and `objects`, the
            surest first: `class_number`, `class_name`, `probability` and `box` (left, top, right, bottom in pixels).
        seconds: time of it all.
        skipped: `image` and `reason` of those that were left out since they cannot be read.
    """

    def __str__(self) -> str:
        """Return one row per object."""
        rows = [
            (item["image"], found["class_name"], f"{100 * found['probability']:.1f} %", _box_text(found["box"]))
            for item in self.predictions
            for found in item["objects"] or [{"class_name": "nothing", "probability": 0.0, "box": ()}]
        ]
        return table(["image", "object", "probability", "left, top, right, bottom"], rows, align="<<><")


def predict_objects_file(
    file: str | Path,
    images: Sequence[str | Path],
    out: str | Path | None = None,
    *,
    least_score: float = LEAST_SCORE,
    device: str = "auto",
    max_input_pixels: int = MAX_INPUT_PIXELS,
    level: int | None = None,
) -> PredictObjectsReport:
    """Load the .tailcut file of a detector and `predict_objects` with it."""
    place = choose_device(device)
    model = load(file, device=str(place), level=level)
    return predict_objects(
        model,
        images,
        out,
        least_score=least_score,
        device=place,
        max_input_pixels=max_input_pixels,
        name=file_at_level(file, level),
    )


def predict_objects(
    model: nn.Module,
    images: Sequence[str | Path],
    out: str | Path | None = None,
    *,
    least_score: float = LEAST_SCORE,
    class_names: Sequence[str] | None = None,
    device: torch.device | str | None = None,
    max_input_pixels: int = MAX_INPUT_PIXELS,
    name: str = "",
) -> PredictObjectsReport:
    """Find the objects in image files. The model is not changed.

    Args:
        model: a `Detector`.
        images: PNG or JPEG files.
        out: folder for the drawings (PNG, named like the image) and the table (`predictions.json`); made if needed.
        least_score: what is less sure is left out, 0 to 1.
        class_names: by label; when None those of the model (`tailcut.set_class_names`), else COCO's for a
            detector of 91 classes, else the numbers.
        device: where to run; where the model is when None.
        max_input_pixels: the most pixels that the detector may enlarge an image to.
        name: what the report calls the model.

    Raises:
        ArgumentError: the model is no detector or its numbers are not finite, the names are too few, or two drawings
            would have one name.
        DataError: an image cannot be read; within `tailcut.data.reading(on_error="skip")` it is left out instead.
        LimitError: the detector enlarges an image beyond `max_input_pixels`.
    """
    start = time.perf_counter()
    device = device_of(model) if device is None else device
    network = runnable(model, device, dense=True)
    if not isinstance(network, Detector):
        raise ArgumentError(f"expected a detector, got {type(model).__name__}")
    check_finite(network)
    if not 0 <= least_score <= 1:
        raise ArgumentError(f"the least score must be 0 to 1, got {least_score}")
    names = _names(model, network.num_classes) if class_names is None else list(class_names)
    if len(names) < network.num_classes:
        raise ArgumentError(f"the detector has {network.num_classes} classes, but there are {len(names)} names")
    paths, folder = [Path(image) for image in images], None if out is None else Path(out)
    drawings: dict[Path, Path] = {}
    if folder is not None:
        check_table(folder)
        drawings = paths_of_output(paths, folder, "drawing")
    predictions, skipped = [], list[dict[str, Any]]()
    with torch.inference_mode(), made_folder(folder):
        for path, image in read_each(paths, lambda path: read_image(path, channels=3)[0], skipped):
            check_pixels(model, network.transform.reading_size_of(image), max_input_pixels)
            with fitting(image[None]):
                (found,) = network([image.to(device)])
            kept = {key: value[found["scores"] >= least_score].cpu() for key, value in found.items()}
            if path in drawings:
                write_image(draw_objects(image, kept, names), drawings[path])
            drawing = str(drawings[path]) if path in drawings else None
            predictions.append({"image": str(path), "drawing": drawing, "objects": _objects(kept, names)})
        report = PredictObjectsReport(name, "detection", predictions, time.perf_counter() - start, skipped)
        if folder is not None:
            write_table(folder, report)
    return report


def _names(model: nn.Module, num_classes: int) -> list[str]:
    """Return a name for each label. Data without the last categories name fewer than the detector has."""
    known = structure.class_names(model)
    if known is not None and len(known) <= num_classes:
        return [*(name or str(label) for label, name in enumerate(known)), *map(str, range(len(known), num_classes))]
    if num_classes == NUM_CLASSES:
        return [CATEGORIES.get(label, str(label)) for label in range(num_classes)]
    return [str(label) for label in range(num_classes)]


def _objects(found: dict[str, Tensor], names: Sequence[str]) -> list[dict[str, Any]]:
    rows = zip(found["labels"].tolist(), found["scores"].tolist(), found["boxes"].tolist(), strict=True)
    return [
        {
            "class_number": label,
            "class_name": names[label],
            "probability": score,
            "box": [round(side, 2) for side in box],
        }
        for label, score, box in rows
    ]


def _box_text(box: Sequence[float]) -> str:
    return ", ".join(f"{side:.0f}" for side in box)
