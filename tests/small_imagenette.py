"""Noise in the place of Imagenette's training images."""

from pathlib import Path

import numpy as np
from PIL import Image


def write_images(root: Path, number: int) -> None:
    """Images of 64 x 64 pixels, all of one class, under a data root."""
    folder = root / "imagenette224" / "train" / "n01440764"
    folder.mkdir(parents=True)
    noise = np.random.default_rng(0).integers(0, 256, (number, 64, 64, 3), dtype=np.uint8)
    for place, pixels in enumerate(noise):
        Image.fromarray(pixels).save(folder / f"{place}.png")
