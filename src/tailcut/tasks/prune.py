"""Pruning of a file's network: score the channels, remove the lowest, save the result."""

import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tailcut.channels import Scores, score
from tailcut.channels import recalibrate as measure_again
from tailcut.channels.pruning.part import prune_part
from tailcut.channels.pruning.prune import prune
from tailcut.channels.pruning.report import PruneReport
from tailcut.channels.scoring.published_scores import read_score_folder
from tailcut.channels.scoring.score import NUM_BATCHES, SPECTRAL, needs_loader
from tailcut.data import Roots, open_dataset
from tailcut.errors import ArgumentError
from tailcut.evaluation.evaluate import PROGRESS_INTERVAL, choose_device
from tailcut.evaluation.random_batches import BATCH_SIZE, SPLIT, network_inputs
from tailcut.files import check_output_path
from tailcut.format import inspect, save
from tailcut.format.open_network import is_tailcut_file, metadata_of, open_network
from tailcut.inputs.detection.detectors import Detector
from tailcut.printing import Report
from tailcut.runtime.progress import Progress, live_progress
from tailcut.structure import example_shape

BACKBONE, MAP_SIDE = "backbone", 32  # of a detector; the maps that its backbone is followed with

logger = logging.getLogger(__name__)


@dataclass
class PruneFileReport(Report):
    """Report of the pruning of a file.

    Attributes:
        source: the file, as it was given.
        out: the .tailcut file that was written.
        file_bytes: its size.
        method: how channels were scored.
        num_images: on how many images.
        recalibrated_on: on how many images the statistics of batch norm were measured again; 0 without, and for a
            network that keeps none.
        pruning: what was removed, and what could not be.
    """

    source: str
    out: str
    file_bytes: int
    method: str
    num_images: int
    recalibrated_on: int
    pruning: PruneReport

    def __str__(self) -> str:
        """Return the pruning report, then one line about the file."""
        on = f", on {self.num_images:,} images" if self.num_images else ""
        again = f"; batch norm measured again on {self.recalibrated_on:,} images" if self.recalibrated_on else ""
        return f"{self.pruning}\n\n{self.out}: {self.file_bytes:,} bytes; scores by {self.method}{on}{again}"


def prune_file(
    source: str | Path,
    out: str | Path,
    data: str | None = None,
    *,
    model: str | None = None,
    arguments: Mapping[str, Any] | None = None,
    scores: str | Path | None = None,
    method: str | None = None,
    split: str = SPLIT,
    roots: Roots = None,
    download: bool = False,
    num_batches: int = NUM_BATCHES,
    batch_size: int = BATCH_SIZE,
    seed: int = 0,
    recalibrate: bool = False,
    dtype: str | None = None,
    device: str = "auto",
    **settings: Any,
) -> PruneFileReport:
    """Prune a file's network and write the narrower one; of a detector the backbone.

    Args:
        source: see `open_network`.
        out: the .tailcut file to write.
        data: name of the data set to score on; not needed with `scores`; for methods that use weights
            only neither, but it shows which linear layers run over tokens.
        model: see `open_network`.
        arguments: likewise.
        scores: the JSON file of `tailcut score`, or a folder as `read_score_folder` reads it; the network is scored
            now when None.
        method: see `tailcut.channels.score`, as for `num_batches` and `seed`; `spectral` when None. Not with `scores`.
        split: the part of the data set.
        roots: data roots to try first.
        download: fetch the data set if it lies nowhere.
        num_batches: how many batches to score on.
        batch_size: images in each.
        seed: chooses the images.
        recalibrate: measure the statistics of batch norm again after the cut, on as many images of `data`; a network
            that keeps none is left, with a warning.
        dtype: number type of the file; when None that of a file in float16 or bfloat16, else the network's own.
        device: see `choose_device`.
        settings: further arguments of `tailcut.prune`: `rates`, `macs_ratio`, `min_channels`, ...

    Raises:
        ArgumentError: an argument is out of range or does not fit the network, `data` is missing, or `out` cannot be
            written.
        StructureError: the network is regularised, or does not run once it is pruned.
    """
    check_output_path(out)
    method = _method(method, scores)
    place = choose_device(device)
    network = open_network(source, model=model, arguments=arguments, device=place)
    metadata = metadata_of(source)
    is_detector = isinstance(network, Detector)
    looks = scores is None and needs_loader(method)
    sees = scores is None and data is not None and not is_detector
    example = torch.zeros(_example_shape(network, source), device=place)
    _check_data(method, data, is_detector=is_detector, looks=looks, recalibrate=recalibrate)
    dataset = open_dataset(data, split, roots=roots, download=download) if data and (sees or recalibrate) else None

    def images(count: int, bar: Progress | None = None) -> Iterator[Tensor] | None:
        return None if dataset is None else network_inputs(network, dataset, batch_size, count, seed, bar)

    if scores is not None:
        found = read_score_folder(scores, network) if Path(scores).is_dir() else Scores.load(scores)
    else:
        count = num_batches if looks else 1  # which shows the layers over tokens
        with live_progress(True, "images", count * batch_size, interval=PROGRESS_INTERVAL) as bar:
            loader = images(count, bar) if sees else None
            found = score(network, loader, method=method, num_batches=num_batches, seed=seed)  # type: ignore[arg-type]
    cut = partial(prune_part, network, BACKBONE) if is_detector else partial(prune, network)
    pruning = cut(example, found, **settings)
    measured_on = _measure_again(network, images(num_batches), num_batches) if recalibrate else 0
    written = save(network, out, **_types(dtype or _dtype_of(source)), metadata=metadata)
    return PruneFileReport(
        str(source), str(out), written.file_bytes, found.method, found.num_images, measured_on, pruning
    )


def _types(dtype: str | None) -> dict[str, Any]:
    """Return the settings of `save` for all tensors of one type; of their own when None."""
    return {"dtype": dtype or "float32", "other_dtype": dtype}


def _dtype_of(source: str | Path) -> str | None:
    """Return the number type that all of a .tailcut file has, if it has one that can be written again."""
    if not is_tailcut_file(source):
        return None
    report = inspect(source)
    dtypes = [entry.dtype for entry in report.tensors] + [entry.dtype for entry in report.other_tensors]
    found = {dtype for dtype in dtypes if not dtype.startswith("int")}
    return found.pop() if len(found) == 1 and found <= {"float16", "bfloat16"} else None


def _method(method: str | None, scores: str | Path | None) -> str:
    if scores is not None and method is not None:
        raise ArgumentError(f"{scores} holds scores by its own method: give either --scores or --method {method}")
    return method or SPECTRAL


def _check_data(method: str, data: str | None, *, is_detector: bool, looks: bool, recalibrate: bool) -> None:
    """Raise `ArgumentError` unless the images that the scores and the statistics need can be had."""
    if is_detector and (looks or recalibrate):
        raise ArgumentError(
            "images are not run through a detector to prune it: score its weights (--method l1, l2, fpgm or random) or "
            "give --scores, and leave out --recalibrate"
        )
    if looks and data is None:
        raise ArgumentError(f"the method {method} runs the network: name a data set with --data, or --scores")
    if recalibrate and data is None:
        raise ArgumentError("statistics of batch norm are measured on images: name a data set with --data")


def _measure_again(network: nn.Module, images: Iterator[Tensor] | None, num_batches: int) -> int:
    measured_on = 0 if images is None else measure_again(network, images, num_batches=num_batches)
    if not measured_on:
        logger.warning("nothing was measured again: the network has no batch norm that keeps statistics")
    return measured_on


def _example_shape(network: nn.Module, source: str | Path) -> tuple[int, ...]:
    if isinstance(network, Detector):
        dct = network.transform.dct
        return (1, 3, 4 * MAP_SIDE, 4 * MAP_SIDE) if dct is None else (1, dct.num_channels, MAP_SIDE, MAP_SIDE)
    shape = example_shape(network)
    if shape is None:
        raise ArgumentError(f"{source} holds a network of a user's own class, whose inputs are not known here")
    return shape
