"""Table 5 of Frequency Regularization: 508 photos through the UNet, shared by several processes.

The paper has one to four GPUs; here there are one and two processes of one thread each, started by `tailcut evaluate
--devices`. As in the paper the time includes reading the images.
"""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from bench.execution import UNET_KEPT
from bench.machine import Machine
from bench.scale import Scale
from bench.tables import Row, Table
from tailcut.format import save
from tailcut.reports.tables.table5 import PAPER_SECONDS
from tailcut.structure import create_model
from tailcut.weights import regularize

PAPER_IMAGES = 508
WARM_IMAGES = 2
PROCESSES = (1, 2)
OPTIONS = {"fused": (), "dense": ("--dense",)}
SPLIT = "bench"


def run(scale: Scale, machine: Machine) -> list[Table]:
    """Return the table: the paper's rows, then ours."""
    torch.manual_seed(0)
    rows: list[Row] = [
        _row("the paper's GPUs", gpus, PAPER_IMAGES, s, PAPER_SECONDS[1]) for gpus, s in PAPER_SECONDS.items()
    ]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        network = create_model("unet", **scale.unet_arguments())
        regularize(network, num_kept=UNET_KEPT)
        save(network, folder / "unet.tailcut")
        write_photos(folder / "carvana" / SPLIT, max(scale.photos.values()), scale.photo_size)
        for way, count in scale.photos.items():
            if count > WARM_IMAGES:  # compiled loops are kept on disk: what makes them is not timed
                measure(folder, way, WARM_IMAGES, 1)
            one = 0.0
            for processes in PROCESSES:
                seconds = measure(folder, way, count, processes)
                one = one or seconds
                rows.append(_row(way, processes, count, seconds, one))
    columns = {
        "way": "",
        "processes": "d",
        "images": "d",
        "s": ".1f",
        "images/s": ".3g",
        f"s for {PAPER_IMAGES}": ".0f",
        "times one process": ".2f",
    }
    height, width = scale.photo_size
    notes = [
        f"s: reading the images and masks, the network and its Dice, as `tailcut evaluate` tells it; s for "
        f"{PAPER_IMAGES}: scaled from the images that were measured.",
        f"Ours: the UNet of widths {', '.join(map(str, scale.unet_widths))} with {UNET_KEPT} coefficients a layer, "
        "drawn images as JPEG, wall time, one thread per process.",
    ]
    return [Table(f"Images of {height} x {width} through the UNet, shared by processes", columns, rows, notes)]


def measure(folder: Path, way: str, num_images: int, processes: int) -> float:
    """Seconds that `tailcut evaluate` takes for the first images of the split."""
    part = folder / f"{num_images}"
    _link_first(folder / "carvana" / SPLIT, part / "carvana" / SPLIT, num_images)
    words = [sys.executable, "-m", "tailcut", "evaluate", str(folder / "unet.tailcut"), "--data", "carvana", "--json"]
    words += ["--split", SPLIT, "--data-root", str(part), "--accelerator", "cpu", "--devices", str(processes)]
    done = subprocess.run(
        [*words, *OPTIONS[way]],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(words)} failed: {done.stderr[-2000:]}")
    report = json.loads(done.stdout)
    if report["num_images"] != num_images:
        raise RuntimeError(f"{report['num_images']} images were measured, not {num_images}")
    return float(report["seconds"])


def write_photos(folder: Path, num_images: int, size: tuple[int, int]) -> None:
    """Drawn images of that height and width as JPEG, with masks: shapes over a coarse noise."""
    height, width = size
    draw = np.random.default_rng(0)
    for kind in ("images", "masks"):
        (folder / kind).mkdir(parents=True)
    rows, columns = np.mgrid[:height, :width]
    for number in range(num_images):
        centre, radius = draw.uniform(0.3, 0.7, 2), draw.uniform(0.15, 0.3, 2)
        inside = ((rows / height - centre[0]) / radius[0]) ** 2 + ((columns / width - centre[1]) / radius[1]) ** 2 < 1
        coarse = Image.fromarray(draw.integers(0, 256, (16, 24, 3), dtype=np.uint8)).resize((width, height))
        image = np.where(inside[:, :, None], np.asarray(coarse) // 2, np.asarray(coarse))
        Image.fromarray(image.astype(np.uint8)).save(folder / "images" / f"{number:04}.jpg", quality=90)
        Image.fromarray(inside.astype(np.uint8) * 255).save(folder / "masks" / f"{number:04}.png")


def _link_first(source: Path, target: Path, count: int) -> None:
    if target.exists():
        return
    for kind in ("images", "masks"):
        (target / kind).mkdir(parents=True)
        for path in sorted((source / kind).iterdir())[:count]:
            (target / kind / path.name).symlink_to(path)


def _row(way: str, processes: int, images: int, seconds: float, one: float) -> Row:
    return {
        "way": way,
        "processes": processes,
        "images": images,
        "s": seconds,
        "images/s": images / seconds,
        f"s for {PAPER_IMAGES}": seconds * PAPER_IMAGES / images,
        "times one process": one / seconds,
    }
