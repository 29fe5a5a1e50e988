"""Evaluation of a network on a data set of classes or masks."""

import copy
import logging
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from tailcut.data import Dataset
from tailcut.errors import ArgumentError, TailcutError, first_line, is_out_of_memory
from tailcut.evaluation.class_check import check_class_names
from tailcut.evaluation.metrics.class_metrics import METRICS, ClassCounts, StreamingMean, has_nan, metrics_for
from tailcut.evaluation.pixel_inputs import reader_of
from tailcut.execution import fuse
from tailcut.export_c import IntegerNetwork
from tailcut.export_c.export import ARITHMETICS
from tailcut.inputs.detection.detectors import Detector
from tailcut.printing import Report, figure_text, table
from tailcut.runtime.progress import Throughput, live_progress
from tailcut.runtime.share import Share
from tailcut.runtime.signals import is_lost_connection
from tailcut.structure import (
    batch_advice,
    device_of,
    example_shape,
    image_shorter_side,
    image_size,
    in_evaluation,
    source_of,
    usable_device,
)
from tailcut.transform.exact import exact
from tailcut.weights import to_dense, truncated_tensors

if TYPE_CHECKING:  # they need an extra, which one process does without
    from lightning_fabric import Fabric

    from tailcut.runtime.devices import Devices

Found = TypeVar("Found")

CLASSIFICATION_BATCH = 500
BATCH_PIXELS = CLASSIFICATION_BATCH * 128 * 128  # of larger images a batch has fewer, so that maps fit into memory
PROGRESS_INTERVAL = 10.0  # seconds

logger = logging.getLogger(__name__)


@dataclass
class EvaluateReport(Report):
    """The figures of one network on one split of a data set.

    Attributes:
        source: the file (or `zoo:NAME`), as it was given; then the level, if one was asked for, and the arithmetic, if
            that is not float32.
        data: name of the data set.
        split: name of the split.
        num_images: how many images it has.
        metrics: `accuracy` (from 100 classes on `top5_accuracy` too) or `dice`, 0 to 1.
        seconds: time of the evaluation.
    """

    source: str
    data: str
    split: str
    num_images: int
    metrics: dict[str, float]
    seconds: float

    def __str__(self) -> str:
        """Return the report as one row."""
        figures = [(name, figure_text(name, value)) for name, value in self.metrics.items()]
        header = ["model", "data", "split", "images", *(name for name, _ in figures), "seconds"]
        row = [self.source, self.data, self.split, f"{self.num_images:,}", *(text for _, text in figures)]
        return table(header, [[*row, f"{self.seconds:.1f}"]], align="<<<" + ">" * (len(figures) + 2))


def file_at_level(file: str | Path, level: int | None) -> str:
    """Return what a report calls the network of this file, of this level if one was asked for."""
    return str(file) if level is None else f"{file}, level {level}"


def run_in_processes(work: Callable[[Share], Found], device: str, devices: "Devices | None") -> Found:
    """Run `work` on the share of this process and return its result.

    The work runs whole on one device, or in parts on several.

    Args:
        work: called once in each process.
        device: of one process; see `choose_device`.
        devices: instead of `device`: the devices of several processes, which are started if they are not there yet.

    Raises:
        ArgumentError: both are given, or there are no such devices.
    """
    if devices is None:
        return work(Share(choose_device(device)))
    from tailcut.runtime.devices import make_fabric
    from tailcut.runtime.distributed import share_of

    if device != "auto":
        raise ArgumentError(
            f"one device is named ({device}), and several are counted (devices, num_nodes, strategy, accelerator): "
            "give either"
        )

    def launched(fabric: "Fabric") -> Found:
        return work(share_of(fabric))

    found: Found = make_fabric(devices).launch(launched)
    return found


def evaluate(
    model: nn.Module,
    dataset: Dataset,
    *,
    batch_size: int | None = None,
    device: str | torch.device | None = None,
    share: Share | None = None,
    dense: bool = False,
    progress: bool = False,
    warn: bool = False,
    workers: int | None = None,
) -> dict[str, float]:
    """Return the metrics of a network on a data set. The model is not changed: a copy of it is evaluated.

    Args:
        model: any network, regularised or not; its images and outputs must fit the data set.
        dataset: images and targets.
        batch_size: images per forward; when None `classification_batch` for classes, 1 for masks. Always 1 for a
            network whose batch norm uses the statistics of the batch in evaluation too.
        device: where to run: `auto`, or a device that torch knows; where the model is when None.
        share: instead of `device`, in one process of several: where to run, and which part of the work.
        dense: see `runnable`.
        progress: show on standard error how far it is.
        warn: log a warning if images of several classes all get the same one, or outputs are no numbers.
        workers: processes that read images ahead; as the enclosing `tailcut.data.reading` says when None.

    Returns:
        `{"accuracy": 0..1}` for classes, from 100 classes on `top5_accuracy` too; `{"dice": 0..1}` (mean over
        images) for masks.

    Raises:
        ArgumentError: the network does not fit the images or the targets, or names its classes otherwise; there is no
            such device.
    """
    share = own_share(model, device, share)
    check_no_detector(model, "evaluate")
    check_class_names(model, dataset)
    network = runnable(model, share.device, dense=dense)
    batch_size = _batch_size(network, dataset, batch_size)
    read = reader_of(network, dataset)
    if dataset.task not in METRICS:
        raise ArgumentError(f"{dataset.name} has boxes of objects: evaluate_detector measures detectors on it")
    figures = metrics_for(dataset.task, dataset.num_classes)
    means = {name: StreamingMean() for name in figures}
    no_numbers = StreamingMean()
    classes = ClassCounts(dataset.num_classes) if warn and dataset.task == "classification" else None
    positions = dataset.in_order(batch_size)[share.rank :: share.num_processes]
    work = dataset.batches(positions, workers)
    with live_progress(progress, "images", len(dataset), interval=PROGRESS_INTERVAL) as bar:
        throughput = Throughput()
        for place, (images, targets) in zip(positions, throughput.waiting_for(work), strict=True):
            outputs = run_forward(network, read(images.to(share.device)))
            check_outputs(outputs, dataset)
            if warn:
                no_numbers.update(exact(has_nan(outputs)))
            for name, figure in figures.items():
                means[name].update(figure(outputs, targets.to(share.device)))
            if classes is not None:
                classes.update(outputs, targets)
            throughput.count(len(place) * share.num_processes)
            bar.show(place.stop, f"{throughput}")
    for mean in means.values():
        mean.state = share.total(mean.state)
    if warn:
        num_wrong = int(share.total(no_numbers.state)[0])
        if classes is not None:
            classes.state = share.total(classes.state)
        if share.rank == 0:
            _warn_of_size(model, dataset)
            _warn(dataset, num_wrong, classes)
    return {name: mean.value() for name, mean in means.items()}


def _batch_size(network: nn.Module, dataset: Dataset, asked_for: int | None) -> int:
    if uses_batch_statistics(network):
        return 1
    if asked_for is not None:
        return asked_for
    return classification_batch(dataset) if dataset.task == "classification" else 1


def classification_batch(dataset: Dataset) -> int:
    """Return how many images a classifier is given at once: 500, or as many as have the pixels of 500 of 128 x 128."""
    return max(1, min(CLASSIFICATION_BATCH, BATCH_PIXELS // math.prod(dataset.image_shape[1:])))


def _warn(dataset: Dataset, num_wrong: int, counts: ClassCounts | None) -> None:
    """Say of how many images the outputs are no numbers, else if all images get the same class."""
    if num_wrong:
        logger.warning(
            "the outputs for %d of %d images are no numbers (NaN), which count as wrong: the network's training "
            "diverged, or its file is damaged",
            num_wrong,
            len(dataset),
        )
    number = None if counts is None or num_wrong else counts.only_class()
    if number is not None:
        name = "" if dataset.class_names is None else f" ({dataset.class_names[number]})"
        logger.warning(
            "the network gives all %d images of %s, split %s, the same class, %d%s: it separates none",
            len(dataset), dataset.name, dataset.split, number, name,
        )  # fmt: skip


def _warn_of_size(model: nn.Module, dataset: Dataset) -> None:
    """Say that the images are not those that the network was trained on, if it says which, and by which name they are.

    Raises nothing: a network may well be measured at another size.
    """
    size, side = image_size(model), image_shorter_side(model)
    given = dataset.image_shape[1:]
    if dataset.task != "classification" or size is None or (size, side) == (given, dataset.shorter_side):
        return
    logger.warning(
        "the network was trained on images of %s, and %s gives %s: it may be less accurate on these%s",
        _described_size(size, side),
        dataset.name,
        _described_size(given, dataset.shorter_side),
        f"; NAME@{size[0] if side is None else f'{side}/{size[0]}'} reads those" if size[0] == size[1] else "",
    )


def _described_size(size: Sequence[int], shorter_side: int | None) -> str:
    middle = "" if shorter_side is None else f", the middle of a shorter side of {shorter_side}"
    return f"{size[0]} x {size[1]} pixels{middle}"


def runnable(model: nn.Module, device: torch.device | str, *, dense: bool = False) -> nn.Module:
    """Return a copy of `model` on `device` in evaluation mode, as it will run. The model is not changed.

    Args:
        model: any network.
        device: where it shall run.
        dense: build the dense weights once and run with them. Otherwise a truncated network runs fused
            (`tailcut.execution.fuse`): the same outputs up to rounding, faster where corners are small.

    Raises:
        ArgumentError: it is a registered network that does not run on its example input.
    """
    if isinstance(model, IntegerNetwork):
        return model
    if dense or not truncated_tensors(model):
        return in_evaluation(to_dense(model).to(device))
    shape = example_shape(model) or ()
    with fitting(torch.empty(shape, device="meta"), f", its example input{batch_advice(shape)}"):
        return fuse(in_evaluation(copy.deepcopy(model).to(device)))


def with_arithmetic(model: nn.Module, arithmetic: str) -> nn.Module:
    """Return a network that computes in this arithmetic of C code; itself for "float32". The model is not changed.

    Raises:
        ArgumentError: there is no such arithmetic.
        StructureError: a layer has no form in integers.
    """
    if arithmetic not in ARITHMETICS:
        raise ArgumentError(f"expected an arithmetic of {', '.join(ARITHMETICS)}, got {arithmetic!r}")
    return model if arithmetic == "float32" else IntegerNetwork(model)


def check_no_detector(model: nn.Module, what: str) -> None:
    """Raise `ArgumentError` for a detector, whose outputs are lists of objects."""
    if isinstance(source_of(model), Detector):
        raise ArgumentError(f"the network is a detector: {what} needs one of classes or masks")


def run_forward(model: nn.Module, images: Tensor) -> Tensor:
    """Return the model's outputs for a batch, without gradients; the model is not changed.

    Raises:
        ArgumentError: the model cannot take images of this shape, or gives no tensor.
    """
    try:
        with torch.inference_mode(), fitting(images):
            outputs = model(images)
    except ArgumentError as error:
        known = example_shape(source_of(model))
        if known is None or len(known) != images.ndim or known[1] == images.shape[1]:
            raise
        raise ArgumentError(f"{error} (its model reads images of {' x '.join(map(str, known[1:]))})") from error
    if not isinstance(outputs, Tensor):
        raise ArgumentError(f"expected a tensor from the network, got {type(outputs).__name__}")
    return outputs


# Errors of torch's layers, and of networks' own checks.
_REFUSALS = (MemoryError, RuntimeError, ValueError, TypeError, IndexError, AssertionError)


@contextmanager
def fitting(images: Tensor, made: str = "") -> Iterator[None]:
    """Convert an error of the network's layers within the block, for images that do not fit, to one clear error.

    Args:
        images: the batch.
        made: for the error, how the images came to be of their shape.

    Raises:
        ArgumentError: the network cannot take images of this shape.
    """
    try:
        with within_memory(images):
            yield
    except TailcutError as error:
        if made and isinstance(error, ArgumentError):
            raise ArgumentError(f"{error}{made}") from error
        raise
    except _REFUSALS as error:
        if is_lost_connection(error):  # data parallel forwards share buffers first
            raise
        shape = tuple(images.shape)
        raise ArgumentError(f"the network cannot take images of shape {shape}{made}: {first_line(error)}") from error


@contextmanager
def within_memory(images: Tensor) -> Iterator[None]:
    """Within the block, memory that is refused becomes one clear error.

    Raises:
        ArgumentError: these images need more memory than there is.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        few = "fewer images at a time (batch_size, on the command line --batch-size) or " if len(images) > 1 else ""
        shape = tuple(images.shape)
        raise ArgumentError(
            f"there is not enough memory to run the network on images of shape {shape}: {few}smaller ones need less"
        ) from error


def uses_batch_statistics(model: nn.Module) -> bool:
    """Return whether an output of `model` in evaluation depends on the other images of the batch (not changed)."""
    return any(isinstance(module, _BatchNorm) and module.running_mean is None for module in model.modules())


def own_share(model: nn.Module, device: str | torch.device | None, share: Share | None) -> Share:
    """Return the share of a process that is told its device or its share, not both; else all, where the model is."""
    if share is None:
        return Share(choose_device(device_of(model) if device is None else device))
    if device is not None:
        raise ArgumentError(
            f"a share names its device ({share.device}), and device={str(device)!r} another: give either"
        )
    return share


def choose_device(name: str | torch.device) -> torch.device:
    """Return the device of a name: `auto` (CUDA if there is any, else the CPU) or a name that torch knows.

    Raises:
        ArgumentError: there is no such device here.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    device = usable_device(name)
    if device.type == "meta":
        raise ArgumentError("the meta device holds no numbers: nothing can be measured there")
    return device


def check_outputs(outputs: object, dataset: Dataset) -> None:
    """Raise `ArgumentError` unless the outputs of a batch have the form that the task and classes of the data need."""
    num_axes = 2 if dataset.task == "classification" else 4
    channels = (dataset.num_classes,) if dataset.task == "classification" else (1, 2)
    fits = isinstance(outputs, Tensor) and outputs.ndim == num_axes and outputs.shape[1] in channels
    if not fits:
        found = tuple(outputs.shape) if isinstance(outputs, Tensor) else type(outputs).__name__
        wanted = "(batch, classes)" if dataset.task == "classification" else "(batch, 1 or 2, height, width)"
        raise ArgumentError(
            f"{dataset.name} has {dataset.num_classes} classes for {dataset.task}, which needs outputs "
            f"{wanted}; the network gives {found}. Registered networks take the number as num_classes"
        )
