"""Samples of a generative network, as one PNG."""

import math
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn.functional import pad

from tailcut.errors import ArgumentError
from tailcut.evaluation.evaluate import choose_device, file_at_level
from tailcut.evaluation.generation import BATCH_SIZE, Sampler, latent_codes
from tailcut.files import atomic_write, make_folder
from tailcut.format import load
from tailcut.printing import Report
from tailcut.structure import device_of

NUM_SAMPLES = 64
SHEET_FILE = "samples.png"
PADDING = 2  # black pixels around each image
CHANNELS_OF_PNG = (1, 3)


@dataclass
class SampleReport(Report):
    """Report of the samples of a network.

    Attributes:
        source: the file (or `zoo:NAME`), as it was given.
        out: the PNG of all images, row by row.
        num_samples: how many images it has.
        seed: of their codes.
        seconds: time of it all.
    """

    source: str
    out: str
    num_samples: int
    seed: int
    seconds: float

    def __str__(self) -> str:
        """Return the report as one line."""
        return f"{self.out}: {self.num_samples} images by {self.source}, seed {self.seed}, {self.seconds:.1f} s"


def sample(
    model: nn.Module,
    out: str | Path,
    *,
    num_samples: int = NUM_SAMPLES,
    seed: int = 0,
    device: torch.device | str | None = None,
    dense: bool = False,
    name: str = "",
) -> SampleReport:
    """Have a network make images and write them as `samples.png`. The model is not changed.

    Args:
        model: a `VAE` or a `DCGANGenerator`, regularised or not.
        out: folder for the PNG; made if needed.
        num_samples: how many images.
        seed: of their codes. The first images of a seed are the same, however many there are.
        device: where to run; where the model is when None.
        dense: see `Sampler`.
        name: what the report calls the model.

    Raises:
        ArgumentError: the model makes no images, `num_samples` is not positive, or `out` is a file.
    """
    start = time.perf_counter()
    sampler = Sampler(model, device_of(model) if device is None else device, dense=dense)
    codes = latent_codes(sampler, num_samples, seed)
    folder = make_folder(out)
    images = torch.cat([sampler(part).cpu() for part in codes.split(BATCH_SIZE)])
    path = folder / SHEET_FILE
    pixels = (sheet(images) * 255).round().byte()
    if len(pixels) not in CHANNELS_OF_PNG:
        raise ArgumentError(f"the network makes images of {len(pixels)} channels; a PNG has 1 or 3")
    with atomic_write(path) as file:
        Image.fromarray(pixels.permute(1, 2, 0).squeeze(2).numpy()).save(file, format="PNG", optimize=True)
    return SampleReport(name, str(path), num_samples, seed, time.perf_counter() - start)


def sample_file(
    file: str | Path,
    out: str | Path,
    *,
    num_samples: int = NUM_SAMPLES,
    seed: int = 0,
    device: str = "auto",
    dense: bool = False,
    level: int | None = None,
) -> SampleReport:
    """Load a .tailcut file (or `zoo:NAME`) of a network that makes images and `sample` from it."""
    place = choose_device(device)
    model = load(file, device=str(place), level=level)
    name = file_at_level(file, level)
    return sample(model, out, num_samples=num_samples, seed=seed, device=place, dense=dense, name=name)


def sheet(images: Tensor) -> Tensor:
    """Return all images in a grid that is about square, with black lines between them.

    Args:
        images: (images, channels, height, width), 0 to 1; at least one.

    Returns:
        (channels, rows, columns) of pixels.
    """
    framed = pad(images.clamp(0, 1), (PADDING,) * 4)
    per_row = math.isqrt(len(framed) - 1) + 1
    missing = -len(framed) % per_row
    whole = torch.cat([framed, framed.new_zeros(missing, *framed.shape[1:])])
    num, channels, height, width = whole.shape
    rows = whole.view(num // per_row, per_row, channels, height, width)
    return rows.permute(2, 0, 3, 1, 4).reshape(channels, num // per_row * height, per_row * width)
