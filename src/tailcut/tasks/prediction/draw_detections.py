"""Drawings of detections: boxes, names and masks on the photo."""

import colorsys
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from tailcut.evaluation.detection import MASK_THRESHOLD
from tailcut.files import atomic_write

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
