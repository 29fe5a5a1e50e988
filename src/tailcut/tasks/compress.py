"""Compression of a file's network: measured on training images, evaluated on test images."""

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tailcut.arguments import check_positive
from tailcut.compression import CompressReport, compress
from tailcut.compression.post_training.compress import check_goal, check_room, usual_gradients
from tailcut.data import Dataset, Roots, open_dataset, split_off
from tailcut.errors import ArgumentError
from tailcut.evaluation.class_check import check_class_names
from tailcut.evaluation.evaluate import (
    check_no_detector,
    check_outputs,
    choose_device,
    evaluate,
    run_forward,
)
from tailcut.evaluation.gradient_inputs import gradient_inputs
from tailcut.files import check_output_path
from tailcut.format.open_network import is_tailcut_file, metadata_of, open_network
from tailcut.format.save_report import size_text
from tailcut.format.zoo import resolve
from tailcut.printing import Report
from tailcut.runtime.share import Share, device_name

logger = logging.getLogger(__name__)

METRICS = {"classification": "accuracy", "segmentation": "dice"}


@dataclass(frozen=True)
class CompressFileReport(Report):
    """Report of `tailcut compress`: source, file and metrics.

    Attributes:
        source: the network, as it was given.
        out: the file that was written.
        file_bytes: its size.
        dense_bytes: of the dense network's parameters in float32.
        compression_ratio: `dense_bytes` over `file_bytes`.
        data: name of the data set.
        split: the part that was evaluated, once; None if none was.
        metric: "accuracy" or "dice".
        before: of the network as it came, on that split; None likewise.
        after: of the file's.
        settings: what was asked for: max_bytes, max_drop or step; gradients, seed; held-out images and the model of a
            checkpoint, if there are such.
        seconds: for all but the evaluation.
        num_threads: of torch.
        device: where the network ran: a GPU's model, else "cpu".
    """

    source: str
    out: str
    file_bytes: int
    dense_bytes: int
    compression_ratio: float | None
    data: str
    split: str | None
    metric: str
    before: float | None
    after: float | None
    settings: dict[str, Any]
    seconds: float
    num_threads: int
    device: str

    def __str__(self) -> str:
        lines = [size_text(self.out, self.file_bytes, self.dense_bytes, self.compression_ratio)]
        if self.before is not None and self.after is not None:
            figures = f"{100 * self.after:.2f} %, {100 * self.before:.2f} % before"
            lines.append(f"{self.metric} on {self.data}, {self.split}: {figures}")
        return "\n".join(lines)


def compress_file(
    source: str | Path,
    out: str | Path,
    data: str,
    *,
    max_bytes: int | None = None,
    max_drop: float | None = None,
    step: float | None = None,
    model: str | None = None,
    arguments: Mapping[str, Any] | None = None,
    levels: Sequence[float] = (),
    roots: Roots = None,
    download: bool = False,
    num_gradients: int | None = None,
    num_held_out: int = 1000,
    test_split: str | None = "",
    seed: int = 0,
    device: str = "auto",
) -> CompressFileReport:
    """Write a file's network to fewer bytes; see `tailcut.compress`.

    Args:
        source: a .tailcut file or "zoo:NAME", or a checkpoint of a registered model.
        out: the file to write.
        data: name of a data set of classes or masks; its split "train" measures how much each number matters.
        max_bytes: the most bytes.
        max_drop: instead: how much the metric may fall, in 0..1, on images held out of "train".
        step: instead: the step.
        model: of a checkpoint.
        arguments: of that model.
        levels: of a progressive file, see `tailcut.save`.
        roots: see `tailcut.data.open_dataset`.
        download: likewise.
        num_gradients: gradients of 8 images each; by the network's size when None.
        num_held_out: how many of the training images are kept for `max_drop`, and nothing else.
        test_split: what is evaluated at the end; "" the data set's test images, None nothing.
        seed: chooses the images, and what is drawn.
        device: see `choose_device`.

    Raises:
        ArgumentError: the arguments exclude each other, do not fit the network, or no step does what is asked for.
        DataError: images cannot be found or read.
        FormatError: the file cannot be loaded.
    """
    _check_arguments(out, max_bytes, max_drop, step, num_gradients)
    share = Share(choose_device(device))
    network = open_network(source, model=model, arguments=arguments, device=share.device)
    check_no_detector(network, "compress")
    check_room(network, max_bytes, {"levels": levels})
    train, test = _datasets(data, test_split, roots, download=download)
    train, judge = (train, None) if max_drop is None else split_off(train, num_held_out)
    count = usual_gradients(network) if num_gradients is None else num_gradients
    draws: dict[str, Any] = {"num_gradients": count, "seed": seed}
    goal: dict[str, Any] = {"max_bytes": max_bytes, "max_drop": max_drop, "step": step}
    start = time.perf_counter()
    report = compress(
        network,
        out,
        _inputs(network, train, test, count, seed),
        **goal,
        levels=levels,
        metadata=metadata_of(source),
        evaluate=None if judge is None else _measure(judge, share),
        **draws,
    )
    seconds = round(time.perf_counter() - start, 1)
    _warn_of_growth(source, report)
    settings = {**goal, **draws, **({"levels": list(levels)} if len(levels) else {})}
    settings |= ({} if judge is None else {"num_held_out": num_held_out}) | _named(model, arguments)
    sizes, judged = _sizes(report), (data, None if test is None else test.split, METRICS[train.task])
    measure = None if test is None else _measure(test, share)
    before = None if measure is None else measure(network)
    after = None if measure is None else measure(open_network(out, device=share.device))
    return CompressFileReport(str(source), str(out), *sizes, *judged, before, after, settings, seconds, *_place(share))


def _warn_of_growth(source: str | Path, report: CompressReport) -> None:
    """Say where a file would have done as it was."""
    had = resolve(source).stat().st_size if is_tailcut_file(source) else None
    if had is not None and had < report.file_bytes:
        logger.warning(
            "%s has %s bytes, fewer than the file that was written (%s): take it as it is, or ask for fewer bytes",
            source,
            f"{had:,}",
            f"{report.file_bytes:,}",
        )


def _sizes(report: CompressReport) -> tuple[int, int, float | None]:
    return report.file_bytes, report.dense_bytes, report.compression_ratio


def _place(share: Share) -> tuple[int, str]:
    """Return the number of threads, and the device."""
    return torch.get_num_threads(), device_name(share.device)


def _named(model: str | None, arguments: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return what the report says of the network of a checkpoint, which a .tailcut file says itself."""
    return {} if model is None else {"model": model, "arguments": dict(arguments or {})}


def _check_arguments(
    out: str | Path, max_bytes: int | None, max_drop: float | None, step: float | None, count: int | None
) -> None:
    """Raise `ArgumentError` before the work for what would end it."""
    check_output_path(out)
    check_goal(max_bytes, max_drop, step)
    if count is not None:
        check_positive("num_gradients", count)


def _datasets(data: str, test_split: str | None, roots: Roots, *, download: bool) -> tuple[Dataset, Dataset | None]:
    """Open the training images, and what is evaluated at the end if anything is."""
    train = open_dataset(data, "train", roots=roots, download=download)
    if train.task not in METRICS:
        raise ArgumentError(f"{data} has boxes of objects: compress works on classes and masks")
    test = None if test_split is None else open_dataset(data, test_split or None, roots=roots, download=download)
    return train, test


def _inputs(network: nn.Module, dataset: Dataset, test: Dataset | None, count: int, seed: int) -> list[Tensor]:
    """Return batches of training images; what cannot run, or not be measured on the test images, fails at once."""
    if test is not None:
        check_class_names(network, test)
    inputs = gradient_inputs(network, dataset, count, seed, progress=True)
    outputs = run_forward(network, inputs[0])
    if test is not None:
        check_outputs(outputs, test)
    return inputs


def _measure(dataset: Dataset, share: Share) -> Callable[[nn.Module], float]:
    metric = METRICS[dataset.task]
    return lambda network: evaluate(network, dataset, share=share)[metric]
