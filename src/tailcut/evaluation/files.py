"""Evaluation of .tailcut files: what a file's network does, and the figures of it."""

import logging
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from tailcut.data import Roots, Source, open_dataset
from tailcut.errors import ArgumentError
from tailcut.evaluation.detection import evaluate_detector_file, no_detector
from tailcut.evaluation.evaluate import (
    EvaluateReport,
    evaluate,
    file_at_level,
    run_in_processes,
    uses_batch_statistics,
    with_arithmetic,
)
from tailcut.evaluation.generation import GENERATORS, evaluate_generator_file
from tailcut.evaluation.stored_inputs import read_as
from tailcut.format import load
from tailcut.format.file_bytes import read_contents
from tailcut.inputs.detection.detectors import Detector
from tailcut.inputs.transform.input_transform import input_transform_of
from tailcut.runtime.share import Share
from tailcut.structure import MAX_INPUT_PIXELS, check_pixels, family, model_names

if TYPE_CHECKING:  # it needs an extra, which one process does without
    from tailcut.runtime.devices import Devices

Task = Literal["generation", "detection", "prediction"]

logger = logging.getLogger(__name__)


def task_of_file(path: str | Path, level: int | None = None) -> Task:
    """Return what the network of a .tailcut file (or `zoo:NAME`) does: make images, find objects, or neither.

    A network that is not registered here does neither: whoever loads the file says so.

    Raises:
        FormatError: the file cannot be read; see `tailcut.load`.
    """
    base = read_contents(path, level).base
    if base is None or base.name not in model_names():
        return "prediction"
    build = family(base.name).build
    if not isinstance(build, type):
        return "prediction"
    if issubclass(build, Detector):
        return "detection"
    return "generation" if issubclass(build, GENERATORS) else "prediction"


def evaluate_file(
    path: str | Path,
    data: str,
    split: str | None = None,
    *,
    roots: Roots = None,
    batch_size: int | None = None,
    device: str = "auto",
    devices: "Devices | None" = None,
    download: bool = False,
    dense: bool = False,
    progress: bool = False,
    max_input_pixels: int = MAX_INPUT_PIXELS,
    workers: int | None = None,
    source: Source = "pixels",
    arithmetic: str = "float32",
    level: int | None = None,
    num_samples: int | None = None,
    seed: int | None = None,
    features: str | None = None,
) -> EvaluateReport:
    """Evaluate a .tailcut file on a data set, by one process or by several that share the images.

    Args:
        path: a .tailcut file of a registered model, or `zoo:NAME`: of classes, masks, objects or made images.
        data: name of a data set.
        split: one of its splits; its test split when None.
        roots: data roots to try first.
        batch_size: see `evaluate`; 1 for detectors; of a network that makes images: see `evaluate_generator`.
        device: of one process; see `choose_device`.
        devices: instead of `device`: the devices of several processes, each of which returns the same report.
        download: fetch the data set if it lies nowhere.
        dense: see `runnable`; detectors always run densely.
        progress: show on standard error how far it is.
        max_input_pixels: the most pixels of the images, as the network enlarges them if it does.
        workers: processes that read images ahead; as the enclosing `tailcut.data.reading` says when None.
        source: "coefficients" reads those of JPEG files without decoding them, for networks on frequency channels; see
            `tailcut.evaluation.stored_inputs.StoredDataset`.
        arithmetic: "integer" runs the network as `tailcut export --to c --arithmetic integer` writes it, bit for bit.
        level: of a progressive file, see `tailcut.load`.
        num_samples: of a network that makes images: how many; `generation.NUM_SAMPLES` when None.
        seed: of a network that makes images: of their codes; 0 when None.
        features: of a network that makes images: what they are compared by, one of `generation.FEATURES`.

    Returns:
        The figures; of a network that makes images a `GenerationReport`.

    Raises:
        FormatError: the file cannot be loaded.
        LimitError: the network enlarges its images beyond that.
        ArgumentError: unknown data set, split or level, the network does not fit the images, or does not what an
            argument is for, or there are no such devices.
        DataNotFoundError: the data set lies nowhere.
    """
    task = task_of_file(path, level)
    _check_settings(path, task, source, arithmetic, dense, (num_samples, seed, features))
    settings: dict[str, Any] = {
        "roots": roots,
        "batch_size": batch_size,
        "device": device,
        "devices": devices,
        "progress": progress,
        "download": download,
        "level": level,
    }
    if task == "generation":
        given = {"num_samples": num_samples, "seed": seed, "features": features}
        settings |= {name: value for name, value in given.items() if value is not None}
        return evaluate_generator_file(path, data, split, dense=dense, **settings)
    settings |= {"max_input_pixels": max_input_pixels, "workers": workers}
    if task == "detection":
        return evaluate_detector_file(path, data, split, **settings)
    return _evaluate_predictions(path, data, split, dense=dense, source=source, arithmetic=arithmetic, **settings)


def _check_settings(
    path: str | Path, task: Task, source: Source, arithmetic: str, dense: bool, of_samples: tuple[object, ...]
) -> None:
    if task != "generation" and any(value is not None for value in of_samples):
        raise ArgumentError(f"num_samples, seed and features are for networks that make images; {path} makes none")
    if task != "prediction" and source != "pixels":
        raise ArgumentError(f'source="{source}" is for networks of classes on frequency channels')
    if task != "prediction" and arithmetic != "float32":
        raise ArgumentError(f'arithmetic="{arithmetic}" is for networks of classes or masks')
    if arithmetic != "float32" and dense:
        raise ArgumentError(f'dense has no meaning for arithmetic="{arithmetic}", which computes as exported C does')


def _evaluate_predictions(
    path: str | Path,
    data: str,
    split: str | None,
    *,
    roots: Roots,
    batch_size: int | None,
    device: str,
    devices: "Devices | None",
    download: bool,
    dense: bool,
    progress: bool,
    max_input_pixels: int,
    workers: int | None,
    source: Source,
    arithmetic: str,
    level: int | None,
) -> EvaluateReport:
    """`evaluate_file` of a network of classes or masks."""

    def measure(share: Share) -> EvaluateReport:
        model = load(path, device=str(share.device), level=level)
        dataset = open_dataset(data, split, roots=roots, download=download)
        if dataset.task == "detection":
            raise no_detector(path, data)
        dataset = read_as(source, dataset, input_transform_of(model))
        check_pixels(model, (0, 0), max_input_pixels)  # the data set's own images are the user's
        model = with_arithmetic(model, arithmetic)
        if uses_batch_statistics(model) and share.rank == 0:
            logger.info("batch norm of this network uses the statistics of each batch: one image at a time")
        start = time.perf_counter()
        metrics = evaluate(
            model,
            dataset,
            batch_size=batch_size,
            share=share,
            dense=dense,
            progress=progress and share.rank == 0,
            warn=True,
            workers=workers,
        )
        seconds = time.perf_counter() - start
        name = file_at_level(path, level)
        name = name if arithmetic == "float32" else f"{name}, {arithmetic}"
        return EvaluateReport(name, dataset.name, dataset.split, len(dataset), metrics, seconds)

    return run_in_processes(measure, device, devices)
