"""Images per second of a training's loader: pixels, channels made of pixels, and stored coefficients, by workers.

The way is that of `tailcut train` with `data.augmentation = { crop = true, flip = true }`: nothing is kept in memory,
each batch is read from its files, and ends where the network would read it. A trainer that needs longer for its steps
waits for none of them; one that needs less waits for this.
"""

import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from PIL import Image
from sklearn.datasets import load_sample_images
from torch import Tensor

from bench.inputs import SAMPLE_QUALITIES
from bench.machine import Machine
from bench.scale import Scale
from bench.tables import Row, Table
from bench.timing import num_threads
from tailcut.data import FolderDataset, data_roots
from tailcut.data.workers import Workers
from tailcut.evaluation.stored_inputs import StoredDataset
from tailcut.inputs import BlockDCT
from tailcut.training.batches import TrainingBatches
from tailcut.training.recipe.sections import AugmentationSection

FOLDERS = ("imagenette224/train", "flowers17")  # of a data root; the first that is there
SIDE, RGB_SIDE, CHANNELS = 448, 224, 24
BATCH, TINY_BATCH = 16, 2
NUM_BATCHES, TINY_BATCHES = 16, 2
WORKERS = (0, 1, 2)
MAX_ROUNDS = 2
# Photos of scikit-learn where there are no data: height, width, and how many of each.
SAMPLE_SIZE, NUM_COPIES, TINY_COPIES = (360, 480), 16, 1

Reader = Callable[[Tensor], Tensor]


def run(scale: Scale, machine: Machine) -> list[Table]:
    """Return one table: ways down, numbers of workers across."""
    with tempfile.TemporaryDirectory() as scratch, num_threads(1):
        folder = _data_folder() or _write_samples(
            Path(scratch) / "photos", TINY_COPIES if scale.is_tiny else NUM_COPIES
        )
        ways = _ways(folder)
        workers = WORKERS[:2] if scale.is_tiny else WORKERS
        count, batch = (TINY_BATCHES, TINY_BATCH) if scale.is_tiny else (NUM_BATCHES, BATCH)
        found: dict[tuple[str, int], list[float]] = {(way, number): [] for way in ways for number in workers}
        for _ in range(1 if scale.is_tiny else MAX_ROUNDS):  # in turn: a busy machine disturbs all alike
            for (way, number), speeds in found.items():
                speeds.append(_images_per_second(*ways[way], number, count, batch))
    medians = {key: statistics.median(speeds) for key, speeds in found.items()}
    columns = {"way": "", **{f"{number} workers": ",.0f" for number in workers}, "/ pixels": ".2f"}
    first = next(iter(ways))
    rows: list[Row] = [
        {
            "way": way,
            **{f"{number} workers": medians[way, number] for number in workers},
            "/ pixels": medians[way, 0] / medians[first, 0],
        }
        for way in ways
    ]
    notes = [
        f"Images/s in batches of {batch}, random parts, flipped, on one thread each, behind the start of the workers; "
        f"median of {len(next(iter(found.values())))}. / pixels: of the first row, without workers.",
        "Channels of pixels are made of each batch where the network runs, here on the CPU.",
    ]
    return [Table(f"The loader of a training: {_title(folder)}", columns, rows, notes)]


def _ways(folder: Path) -> dict[str, tuple[FolderDataset | StoredDataset, Reader]]:
    """Return data sets, and what makes the network's inputs of their batches."""
    transform = BlockDCT(CHANNELS)

    def opened(side: int) -> FolderDataset:
        return FolderDataset(folder, name="bench", size=side)

    return {
        f"RGB pixels, {RGB_SIDE} x {RGB_SIDE}": (opened(RGB_SIDE), lambda images: images),
        f"{CHANNELS} channels from pixels, {SIDE} x {SIDE}": (opened(SIDE), transform),
        f"{CHANNELS} channels from stored coefficients, {SIDE} x {SIDE}": (
            StoredDataset(opened(SIDE), transform),
            transform.normalized,
        ),
    }


@torch.no_grad()
def _images_per_second(
    dataset: FolderDataset | StoredDataset, read: Reader, workers: int, count: int, batch: int
) -> float:
    ahead = 2 * workers + 1  # what was made before the clock starts
    start = 0.0
    made = TrainingBatches(dataset, batch, 0, AugmentationSection(crop=True, flip=True), 1, 0, 1)
    steps = [divmod(number, len(dataset) // batch) for number in range(ahead + count)]
    with Workers(workers) as processes:
        for number, (images, *_) in enumerate(processes.items(made, steps)):
            read(images)
            if number + 1 == ahead:
                start = time.perf_counter()
    return count * batch / (time.perf_counter() - start)


def _data_folder() -> Path | None:
    folders = [root / name for name in FOLDERS for root in data_roots()]
    return next((folder for folder in folders if folder.is_dir()), None)


def _title(folder: Path) -> str:
    return "scikit-learn's photos" if folder.name == "photos" else f"{folder.parent.name}/{folder.name}"


def _write_samples(folder: Path, num_copies: int) -> Path:
    """Write parts of scikit-learn's photos, 4:2:0, one class for each."""
    height, width = SAMPLE_SIZE
    for name, pixels in zip("ab", load_sample_images().images, strict=True):
        (folder / name).mkdir(parents=True)
        for number in range(num_copies * len(SAMPLE_QUALITIES)):
            top, left = number, 4 * number
            part = Image.fromarray(pixels[top : top + height, left : left + width])
            quality = SAMPLE_QUALITIES[number % len(SAMPLE_QUALITIES)]
            part.save(folder / name / f"{number}.jpg", quality=quality, subsampling=2)
    return folder
